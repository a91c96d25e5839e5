import { say } from "./language.js";
import { placeInWords } from "./words.js";

// What Token Journey tells of one token, stage by stage. Nothing here knows of a page.

/** @typedef {{grid: [number, number], query: number, number: number, width: number, tokens: number[], count: number, values: number[][],
 *   row: number[] | null, rest: number[] | null, bias: number | null, vectors: string[], embedded: number[], placed: number[], apart: boolean,
 *   rotary: boolean, place: number[],
 *   norms: number[][], read: [string, number][][] | null, answers: number[][], answer_count: number}} Told for each token of `tokens` */
/** @typedef {"patch embedding" | "position embedding" | "embedding" | "blocks" | "text"} Part "embedding" is both in one */
/** @typedef {{part?: Part, says: string, strips?: number[][], bars?: number[], words?: [string, number][]}} Stage part: what it tells of, none for which token. strips: rows of numbers, one above the other */

/** @param {number} value */
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
/** @param {number} value */
const plain = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(3);

/** Numbers that came as signed bytes, in steps of a 127th of the largest. @param {string} base64 */
const bytesOf = (base64) => [...Int8Array.from(atob(base64), (one) => one.charCodeAt(0))];

/** @param {Told} told @param {number} at @param {Record<string, string>} place */
function placeOf(told, at, place) {
  if (told.rotary && told.place[at])
    return say("its place adds nothing: rotary; layers before the blocks make this number {placed}", place);
  if (told.rotary) return say("its place adds nothing: rotary positions turn queries and keys");
  if (told.place[at]) return say("its place adds {added}: {placed}; its place vector has length {length}", place);
  return say("its place adds nothing here");
}

/** @param {Told} told @param {number} token one of `told.tokens` @returns {Stage[]} */
export function stagesOf(told, token) {
  const at = told.tokens.indexOf(token);
  const [values, embedded, placed] = [told.values[at], told.embedded[at], told.placed[at]];
  const number = { number: told.number, width: told.width };
  /** @type {Stage[]} */
  const stages = [
    { says: placeInWords(token, told.grid[1]) },
    { part: "patch embedding", says: say("its patch: {count} values", { count: told.count }), strips: [values] },
  ];
  const place = { added: signed(placed - embedded), placed: plain(placed), length: told.place[at].toFixed(2) };
  if (!told.apart) {
    stages.push({
      part: "embedding",
      says: say("embedding and place, not shown apart here: number {number} of {width} is {placed}", { ...number, ...place }),
    });
  } else if (told.row && told.bias !== null) {
    const products = told.row.map((weight, i) => weight * values[i]);
    const some = products
      .slice(0, 2)
      .map((_, i) => `${plain(values[i])} × ${plain(/** @type {number[]} */ (told.row)[i])}`)
      .join(" + ");
    const known = { ...number, some, sum: plain(embedded - told.bias), bias: signed(told.bias), embedded: plain(embedded) };
    stages.push(
      {
        part: "patch embedding",
        says: say("× row {number} of the patch embedding, and the products below", known),
        strips: [told.row, products],
      },
      { part: "patch embedding", says: say("{some} + … = {sum}; bias {bias}: number {number} of {width} is {embedded}", known) },
    );
  } else
    stages.push({
      part: "patch embedding",
      says: say("patch embedding: number {number} of {width} is {embedded}", { ...number, embedded: plain(embedded) }),
    });
  if (told.apart) {
    const vector = bytesOf(told.vectors[at]);
    const shown = { ...number, shown: vector.length };
    stages.push(
      { part: "patch embedding", says: say("its vector, {shown} of {width} numbers", shown), strips: [vector] },
      { part: "position embedding", says: placeOf(told, at, place) },
    );
  }
  stages.push({ part: "blocks", says: say("length before the blocks and after each"), bars: told.norms[at] });
  if (told.read) stages.push({ part: "text", says: say("words it reads most, mean of heads and blocks"), words: told.read[at] });
  else stages.push({ part: "text", says: say("no block shows this token reading text") });
  stages.push({ part: "blocks", says: say("the head answers {count} values", { count: told.answer_count }), strips: [told.answers[at]] });
  return stages;
}

/** The stages of one part, and which token. @param {Stage[]} stages @param {string} show one of the node's options @returns {Stage[]} */
export const shownOf = (stages, show) => stages.filter(({ part = "" }) => show === "all" || show.endsWith(part));

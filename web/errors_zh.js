import { inEditorsLanguage } from "./language.js";
import * as anyRoom from "./zh/errors_of_any_room.js";
import * as comfyui from "./zh/errors_of_comfyui.js";
import * as cost from "./zh/errors_of_cost.js";
import * as handle from "./zh/errors_of_handle.js";
import * as model from "./zh/errors_of_model.js";
import * as nodes from "./zh/errors_of_nodes.js";
import * as sampling from "./zh/errors_of_sampling.js";
import * as see from "./zh/errors_of_see.js";
import * as sources from "./zh/errors_of_sources.js";
import * as stages from "./zh/errors_of_stages.js";
import * as step from "./zh/errors_of_step.js";
import * as tokens from "./zh/errors_of_tokens.js";
import * as training from "./zh/errors_of_training.js";
import { PHRASES } from "./zh/phrases.js";

// The errors of the pack's Python in Chinese. The log keeps the English.

const ROOMS = [anyRoom, comfyui, cost, handle, model, nodes, sampling, see, sources, stages, step, tokens, training];

/** An error of the pack's Python, with a name in braces for each of its values. @type {Record<string, string>} */
export const ERRORS = Object.assign({}, ...ROOMS.map((room) => room.ERRORS));

/** @typedef {{pattern: RegExp, zh: string}} Known */
/** @type {{errors: Known[], words: Known[]} | null} made when the first error is told in Chinese */
let known = null;

/** The longest first: of two patterns that fit, the one with more words says more. A value at the beginning holds no ": ", so that a node's
 * name before it is no part of it, unless it is an error.
 * @param {Record<string, string>} texts @param {string} before */
function patterns(texts, before) {
  const words = (/** @type {string} */ english) => english.replace(/\{\w+\}/g, "").length;
  const sorted = Object.entries(texts).sort(([one], [other]) => words(other) - words(one));
  return sorted.map(([english, zh]) => {
    const plain = english.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/^\{(?!error\})(\w+)\}/, "(?<$1>(?:(?!: ).)*?)");
    return { pattern: new RegExp(`^${before}${plain.replace(/\{(\w+)\}/g, "(?<$1>.*?)")}$`), zh };
  });
}

/** A text by the pattern that fits most of it, undefined where none fits. @param {string} en @param {Known[]} among
 * @returns {string | undefined} */
function translated(en, among) {
  let [best, least] = [/** @type {{zh: string, values: Record<string, string>} | null} */ (null), Number.POSITIVE_INFINITY];
  for (const { pattern, zh } of among) {
    const found = en.match(pattern);
    const values = found?.groups ?? {};
    const before = values._?.length ?? 0;
    if (found && before < least) [best, least] = [{ zh, values }, before];
    if (!least) break;
  }
  if (!best) return;
  const { zh, values } = best;
  const parts = zh.split(/(\{\w+\}|"\{\w+\}")/).map((part, place) => {
    const name = part.replace(/\W/g, "");
    return place % 2 === 0 ? part : part.startsWith('"') ? `"${values[name]}"` : inWords(values[name]); // what is quoted is an option's name
  });
  return inParts(values._ ?? "") + parts.reduce(joined);
}

/** Two texts in a row: a space between a Chinese and a Latin character, none between two Chinese ones. @param {string} one @param {string} next */
function joined(one, next) {
  const [left, right] = [one.trimEnd(), next.trimStart()];
  const seam = `${left.at(-1)}${right[0]}`;
  if (/^[一-鿿]{2}$/.test(seam)) return left + right;
  return /^[一-鿿]\w$|^[\w)][一-鿿]$/.test(seam) ? `${left} ${right}` : one + next;
}

/** A value of an error, which may be words or another error. @param {string} value @returns {string} */
const inWords = (value) => translated(value, known?.words ?? []) ?? inParts(value);

/** Errors in a row, such as "missing a; unexpected b", and what stands before another: each that is known.
 * @param {string} text @returns {string} */
function inParts(text) {
  const parts = text.includes("\n") ? [] : text.split(/(; |: )/);
  return parts.length < 2 ? text : parts.map((part) => translated(part, known?.words ?? []) ?? part).join("");
}

/** An error of the pack's Python in the editor's language, with the node's name before it where it has one. @param {string} en */
export function errorInWords(en) {
  if (inEditorsLanguage({ en: "en", zh: "zh" }) === "en") return en;
  known ??= { errors: patterns(ERRORS, "(?<_>(?:.+?: )?)"), words: [...patterns(ERRORS, ""), ...patterns(PHRASES, "")] };
  return translated(en, known.errors) ?? inParts(en);
}

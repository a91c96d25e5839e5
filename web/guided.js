import { errorInWords } from "./errors_zh.js";
import { say } from "./language.js";

// Guidance with nothing to move away from: refused when it runs, and known before from widgets and wires. Nothing here knows of a page.

/** @typedef {import("./places.js").Place} Place */

const TEXT_ONLY = new Set(["DiTBlocksLoadEmbedded", "DiTBlocksFromModel"]); // other loaders may bring a model with a class for nothing

/** Up the wires through the first of these inputs that is wired, until a node is of one of the kinds: → it, or where the wires begin.
 * @param {Place} place @param {string[]} names @param {string[]} kinds @returns {Place | undefined} */
function behind(place, names, ...kinds) {
  /** @type {Map<string, Place>} */
  const found = new Map([[place.id, place]]);
  for (const here of found.values()) {
    if (here !== place && kinds.includes(here.kind)) return here;
    const before = names.map((name) => here.origin(name)).find(Boolean);
    if (before && !found.has(before.id)) found.set(before.id, before);
  }
  return [...found.values()].slice(1).at(-1);
}

/** Whether a node reads a text prompt, and not a class label. @param {Place} place */
const readsText = (place) =>
  TEXT_ONLY.has(behind(place, ["dit"])?.kind ?? "") || Boolean(place.origin("positive")?.kind?.startsWith("CLIPTextEncode"));

/** Why a run will refuse a node's guidance, in one line; "" where it won't, or nobody knows. @param {Place} place @returns {string} */
export function guidanceRefused(place) {
  const cfg = place.value("cfg");
  if (typeof cfg !== "number" || Math.abs(cfg - 1) < 1e-9 || place.origin("negative") || place.origin("guider")) return "";
  if (place.kind !== "DiTBlocksGuidance")
    return place.origin("positive") && readsText(place) ? errorInWords(`cfg ${cfg} needs a negative: wire one, or set cfg to 1`) : "";
  const before = behind(place, ["prediction", "hidden", "x", "a"], "DiTBlocksCondition", "DiTBlocksGuidance");
  if (before?.kind === "DiTBlocksGuidance")
    return errorInWords(`prediction is guided already: for cfg ${cfg}, wire a negative prediction into negative`);
  if (before?.kind !== "DiTBlocksCondition" || before.origin("negative")) return "";
  return say("cfg {cfg} needs a negative: wire one into DiT Condition, or a prediction into negative", { cfg });
}

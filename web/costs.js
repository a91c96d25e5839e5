import { gridOf, readSelection } from "./grid.js";
import { mixedOf, mixtureOf, touchedBy, withShares } from "./mixed_grid.js";
import { asking, toldOf } from "./panel.js";
import { places } from "./places.js";
import { latent, shape } from "./upstream.js";

// What things cost is counted in one place, by the pack's Python; here the widgets and wires around a node are put into a question.

/** @typedef {import("./places.js").Place} Place */
/** @typedef {{grid: [number, number], tokens: number, values: number, flops?: number, share?: number, method?: string, refused?: string}} StepCost */
/** @typedef {{patch_size: number | string, steps: number, tokens: number, flops: number}} Stretch */
/** @typedef {{steps: number, flops: number, share: number, batch: number, stretches: Stretch[]}} WalkCost */
/** @typedef {{own: number, native: number[], sizes: Record<string, StepCost>, walk?: WalkCost, error?: string}} Costs */
/** @typedef {Record<string, unknown> & {size: [number, number]}} Question */

const PATCHIFY = "DiTBlocksPatchify";
const SCHEDULE = "DiTBlocksSchedule";
const DENOISE = "DiTBlocksDenoise";
const REGIONS = "DiTBlocksPatchRegions";

/** @type {import("./answers.js").Answers<Costs>} */
const answers = asking("/dit_blocks/cost");

/** @param {Question | null} question @returns {Promise<Costs | null>} null where there is nothing to ask, or no answer */
export const ask = async (question) => question && answers.ask(JSON.stringify(question));

/** The Denoise that a Patchify's tokens come to. @param {Place} patchify */
function denoiseBehind(patchify) {
  for (const place of places(patchify.node.graph.rootGraph)) {
    if (place.kind === DENOISE && place.ancestors().some(({ id }) => id === patchify.id)) return place;
  }
  return null;
}

/** The Denoise that walks down a schedule, or else another node that takes a step of it. @param {Place} schedule */
function walkerOf(schedule) {
  const takers = [...places(schedule.node.graph.rootGraph)].filter(
    (place) => place.origin("sigmas")?.id === schedule.id && place.node.inputs.some(({ name }) => name === "tokens"),
  );
  const [first] = [DENOISE, "DiTBlocksDenoiseStep"].flatMap((kind) => takers.filter((place) => place.kind === kind));
  return first ?? takers[0] ?? null;
}

/**
 * The tokens that a Patchify makes: what is known of them, for `ask`.
 * @param {Place} patchify @param {() => void} changed called when a picture has come @param {Place | null} denoise
 * @returns {{question: Question | null, size: [number, number] | null, image: HTMLImageElement | null}}
 */
export function tokensOf(patchify, changed, denoise = denoiseBehind(patchify)) {
  const told = toldOf(patchify);
  const { size, batch, image } = latent(patchify, "latent", told, changed);
  const model = shape(patchify, told.shape) ?? (denoise && shape(denoise, toldOf(denoise).shape));
  const known = size && (model || told.channels);
  const native = told.native ?? (denoise && toldOf(denoise).native) ?? undefined;
  const [cfg, method] = ["cfg", "patch_method"].map((name) => denoise?.value(name));
  const question = known ? { shape: model, channels: model ? undefined : told.channels, size, batch, cfg, native, method } : null;
  return { question, size, image };
}

/** The patch sizes of the steps, in the rows of Patch Schedule; undefined where a wire brings them. @param {Place} plan */
function rowsOf(plan) {
  if (plan.kind !== REGIONS) return plan.value("rows");
  const [coarse, fine, where, share, start] = ["coarse", "fine", "where", "share", "start_percent"].map((name) => plan.value(name));
  if ([coarse, fine, where, share, start].includes(undefined)) return undefined;
  const percent = (/** @type {unknown} */ part) => `${+(100 * Number(part)).toFixed(3)}%`;
  const on = where === "mask" ? "the mask" : percent(share);
  return `${start ? `${coarse} until ${percent(start)}, then ` : ""}${coarse} with ${fine} on ${on}`;
}

/** What the mask of a plan touches, where it is the selection of a Patchify; null for other masks, which only a run knows.
 * @param {Place} plan @param {[number, number]} size of the latent @param {{id?: string, p?: number}} [known] a Patchify's patch size */
function touchedIn(plan, size, known = {}) {
  const painted = plan.origin("mask");
  if (painted?.kind !== PATCHIFY) return null;
  const [told, text] = [toldOf(painted), painted.value("selection")];
  const drawnOn = tokensOf(painted, () => {}, null).size;
  const p = known.id === painted.id ? known.p : Number(painted.value("patch_size")) || told.patch_size;
  if (!drawnOn || !p || typeof text !== "string") return null;
  const grid = gridOf(drawnOn, p);
  return touchedBy(readSelection(text.trim() || "all", grid[0] * grid[1]), grid, size);
}

/** The patches of several sizes in the steps after a Patchify: null where all are of one size.
 * @param {Place} patchify @param {[number, number] | null} size of its latent @param {number} p its own patch size
 * @returns {{coarse: number, splits: import("./mixed_grid.js").Split[], patches: Map<number, Set<number>> | null} | null} patches: null where
 * only a run knows them */
export function mixedAfter(patchify, size, p) {
  const plan = denoiseBehind(patchify)?.origin("patch_schedule");
  const mixture = plan && mixtureOf(String(rowsOf(plan) ?? ""));
  if (!plan || !mixture || !size) return null;
  const touched = touchedIn(plan, size, { id: patchify.id, p });
  return { ...mixture, patches: touched && mixedOf(size, mixture, touched) };
}

/** What a Denoise spends, or the one that walks down a schedule: the question; null where something is not known before a run.
 * @param {Place} place @returns {Question | null} */
export function walkOf(place) {
  const denoise = place.kind === SCHEDULE ? walkerOf(place) : place;
  const patchify = denoise?.ancestors().find(({ kind }) => kind === PATCHIFY);
  if (!denoise || !patchify) return null;
  const { question } = tokensOf(patchify, () => {}, denoise);
  const schedule = denoise.origin("sigmas");
  const steps = schedule?.kind === SCHEDULE ? schedule.value("steps") : toldOf(denoise).schedule;
  const plan = denoise.origin("patch_schedule");
  const size = patchify.value("patch_size") ?? toldOf(patchify).patch_size;
  let rows = plan ? rowsOf(plan) : undefined;
  if (plan && question && /\bmask\b/i.test(String(rows))) {
    const touched = touchedIn(plan, question.size);
    rows = touched ? withShares(String(rows), question.size, touched) : undefined;
  }
  const model = shape(denoise, toldOf(denoise).shape);
  const other = plan ? shape(plan, toldOf(denoise).other, "other") : null;
  if (/\bof\s+other\b/i.test(String(rows)) && !other && plan?.origin("other")) return null;
  if (!question || !model || steps === undefined || (plan ? rows : size) === undefined) return null;
  const [scheduler, less] = ["scheduler", "denoise"].map((name) => schedule?.value(name));
  const own = Object.fromEntries(["start_step", "end_step", "solver", "capture_blocks"].map((name) => [name, denoise.value(name)]));
  return {
    ...question,
    shape: model,
    walk: { steps, scheduler, denoise: less, patch_size: size, rows, other, coarse_cfg: plan?.value("coarse_cfg"), ...own },
  };
}

import { say } from "./language.js";

// Numbers in words, for what nodes say of themselves.

/** 1234567890 → "1.23 G". @param {number} number */
export function short(number) {
  const [scale, prefix] = [
    [1e15, "P"],
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ].find(([least]) => number >= Number(least)) ?? [1, ""];
  return `${(number / Number(scale)).toPrecision(3)} ${prefix}`;
}

/** 0.4938 → "49%", small shares with a digit more. @param {number} share */
export function percent(share) {
  return share < 0.1 ? `${(100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%`;
}

/** The token arithmetic of a latent in patches of p. @param {[number, number]} grid @param {number} p @param {number | undefined} values a token
 * @param {number} [tokens] of all frames of a film */
export function tokensInWords([rows, columns], p, values, tokens = rows * columns) {
  const known = { count: tokens.toLocaleString("en"), rows, columns, p, values, frames: tokens / (rows * columns) };
  if (values && known.frames > 1)
    return say("{count} tokens of {values} values: {frames} frames of {rows}×{columns} patches of {p}×{p}", known);
  if (!values) return say("{count} tokens: {rows}×{columns} patches of {p}×{p}", known);
  return say("{count} tokens of {values} values: {rows}×{columns} patches of {p}×{p}", known);
}

/** @param {number} flops @param {number} share @param {number} own the model's own patch size @param {number} p */
export function stepInWords(flops, share, own, p) {
  const known = { flops: short(flops), share: percent(share), own, p };
  if (p === own) return say("{flops}FLOPs a step, p = {p} is the model's own", known);
  return say("{flops}FLOPs a step, {share} of p = {own}", known);
}

/** How a model reads patches of a size that it has no weights for. @param {import("./costs.js").StepCost} cost @param {number} p */
export function readInWords({ method, refused }, p) {
  if (refused) return refused;
  if (method === "resample") return say("no weights for p = {p}: read by resample, on a coarser latent", { p });
  if (method === "pi_resize") return say("no weights for p = {p}: read by pi_resize, coarsely", { p });
  return "";
}

/** The patches of several sizes in one step. @param {NonNullable<ReturnType<typeof import("./costs.js").mixedAfter>>} mixed */
export function mixedInWords({ coarse, splits, patches }) {
  if (!patches)
    return say("in the steps: patches of {sizes}, where a run puts them", { sizes: [coarse, ...splits.map(({ p }) => p)].join(", ") });
  const each = [...patches].map(([p, places]) => say("{count} of {p}×{p}", { count: places.size.toLocaleString("en"), p }));
  return say("in the steps: {patches} patches", { patches: each.join(" + ") });
}

/** @param {import("./costs.js").WalkCost} walk @param {number} own */
export function walkInWords({ steps, flops, share, batch, stretches }, own) {
  const each = {
    tokens: stretches.map(({ tokens }) => tokens.toLocaleString("en")).join(" → "),
    flops: stretches.map((stretch) => short(stretch.flops)).join(" → "),
    batch,
  };
  const step =
    batch > 1
      ? say("{tokens} tokens in each of {batch} pictures, {flops}FLOPs a step", each)
      : say("{tokens} tokens, {flops}FLOPs a step", each);
  const known = { steps, flops: short(flops), share: percent(share), own };
  if (Math.abs(share - 1) < 1e-9) return `${step}\n${say("{steps} steps: {flops}FLOPs", known)}`;
  return `${step}\n${say("{steps} steps: {flops}FLOPs, {share} of p = {own} throughout", known)}`;
}

/** @param {number} token @param {number} columns of its grid @param {number} first the number of the grid's first token, in a video's frame */
export function placeInWords(token, columns, first = 0) {
  return say("token {token}: row {row}, column {column}", {
    token: first + token,
    row: Math.floor(token / columns),
    column: token % columns,
  });
}

/** @param {{groups: [number, number, string][], runs: number[]}} plan @param {boolean} chosen whether `runs` is known, and not brought by a wire */
export function blocksInWords({ groups, runs }, chosen) {
  const has = groups.map(([first, last, kind]) => `${first === last ? first : `${first}–${last}`} ${kind}`).join(", ");
  if (!chosen) return say("blocks {has}", { has });
  return say("blocks {has}; runs {count}: {numbers}", { has, count: runs.length, numbers: runs.join(", ") || "–" });
}

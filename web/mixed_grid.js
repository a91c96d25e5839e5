// Patches of several sizes over one latent, as the rows of a schedule ask for them. Nothing here knows of a page. See dit_impl/tokens/mixed.py.

import { gridOf, rectangle } from "./grid.js";

/** @typedef {[number, number]} Pair height and width */
/** @typedef {{p: number, share: number | null}} Split into which size; of which part of the patches before, null for those under the mask */
/** @typedef {{coarse: number, splits: Split[]}} Mixture */
/** @typedef {(p: number) => Set<number>} Touched the patches of a size that the mask touches */

const SPLIT = /\bwith\s+(\d+)\s+on\s+(?:the\s+mask|(\d+(?:\.\d+)?)\s*%)/gi;

/** The last row that asks for several sizes; null where none does. @param {string} rows @returns {Mixture | null} */
export function mixtureOf(rows) {
  const row = rows.split(/[,;\n]|\bthen\b/i).findLast((one) => /\bwith\b/i.test(one));
  const coarse = Number(row?.match(/^\s*(\d+)/)?.[1]);
  const splits = [...(row ?? "").matchAll(SPLIT)].map(([, p, share]) => ({ p: Number(p), share: share ? Number(share) / 100 : null }));
  const sizes = [coarse, ...splits.map(({ p }) => p)];
  const divides = sizes.slice(1).every((p, before) => p >= 1 && sizes[before] > p && sizes[before] % p === 0);
  return coarse && splits.length && divides ? { coarse, splits } : null;
}

/** What a mask of chosen tokens touches, scaled to the latent by area. @param {Set<number>} chosen @param {Pair} grid of the mask
 * @param {Pair} size of the latent @returns {Touched} */
export function touchedBy(chosen, grid, size) {
  return (p) => {
    const [, columns] = gridOf(size, p);
    const found = new Set();
    for (const token of chosen) {
      const at = [Math.floor(token / grid[1]), token % grid[1]];
      // the cells that a value of the mask is part of, and the patches that hold these
      const [top, left] = at.map((one, axis) => Math.floor(Math.floor((one * size[axis]) / grid[axis]) / p));
      const [bottom, right] = at.map((one, axis) => Math.floor((Math.ceil(((one + 1) * size[axis]) / grid[axis]) - 1) / p));
      for (const patch of rectangle([0, columns], top * columns + left, bottom * columns + right)) found.add(patch);
    }
    return found;
  };
}

/** The patches of a size that a patch is split into. @param {number} patch @param {Pair} size @param {number} from @param {number} to */
function childrenOf(patch, size, from, to) {
  const [times, before, after] = [from / to, size[1] / from, size[1] / to];
  const top = Math.floor(patch / before) * times;
  const left = (patch % before) * times;
  return rectangle([0, after], top * after + left, (top + times - 1) * after + left + times - 1);
}

/** The patches of each size, coarsest first; null where it is not known before a run: sizes that do not divide, and patches chosen by detail.
 * @param {Pair} size @param {Mixture} mixture @param {Touched} touched @returns {Map<number, Set<number>> | null} */
export function mixedOf(size, { coarse, splits }, touched) {
  if (size.some((side) => side % coarse) || splits.some(({ share }) => share !== null)) return null;
  const [rows, columns] = gridOf(size, coarse);
  const patches = new Map([[coarse, new Set(Array(rows * columns).keys())]]);
  let from = coarse;
  for (const { p } of splits) {
    const before = /** @type {Set<number>} */ (patches.get(from));
    const split = [...touched(from)]; // of the patches before: what holds a touched one is touched
    if (!split.length) break;
    for (const patch of split) before.delete(patch);
    patches.set(p, new Set(split.flatMap((patch) => childrenOf(patch, size, from, p))));
    from = p;
  }
  return new Map([...patches].filter(([, places]) => places.size));
}

/** The rows with shares in the place of the mask, which cost the same; undefined where what the mask touches depends on a share before it.
 * @param {string} rows @param {Pair} size @param {Touched} touched @returns {string | undefined} */
export function withShares(rows, size, touched) {
  let known = true;
  const written = rows.replace(
    /(\d+)((?:\s+of\s+other)?)((?:\s+with\s+\d+\s+on\s+(?:the\s+mask|\d+(?:\.\d+)?\s*%))+)/gi,
    (row, coarse, other, splits) => {
      if (!/\bmask\b/i.test(splits)) return row;
      const mixture = mixtureOf(row);
      let [from, among] = [Number(coarse), size.reduce((count, side) => (count * side) / coarse, 1)];
      known &&= mixture !== null && size.every((side) => side % Number(coarse) === 0);
      const parts = (mixture?.splits ?? []).map(({ p, share }, number) => {
        known &&= share === null || mixture?.splits.slice(number).every((one) => one.share !== null) === true;
        const count = share === null ? Math.min(among, touched(from).size) : Math.round(share * among);
        const part = among ? count / among : 0;
        [from, among] = [p, count * (from / p) ** 2];
        return ` with ${p} on ${+(100 * part).toFixed(6)}%`;
      });
      return `${coarse}${other}${parts.join("")}`;
    },
  );
  return known ? written : undefined;
}

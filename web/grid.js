// The arithmetic of a token grid: which cell is where, and which tokens are selected. Nothing here knows of a page.

/** @typedef {[number, number]} Pair height and width, or row and column */
/** @typedef {{x: number, y: number, width: number, height: number}} Box */

/** Tokens down and across: a latent that does not divide is padded. @param {Pair} size @param {number} p @returns {Pair} */
export function gridOf([height, width], p) {
  return [Math.ceil(height / p), Math.ceil(width / p)];
}

/** Pixels to a cell of the latent of this size; undefined where the latent is of other pixels. @param {Pair} pixels @param {Pair} size */
export function cellOf(pixels, size) {
  return [8, 16, 32, 4, 2, 1].find((cell) => pixels.every((length, side) => Math.floor(length / cell) === size[side]));
}

/** Numbers in words, "0-3,8" → 0, 1, 2, 3, 8; those past the grid and what is no number are left out. @param {string} text @param {number} count */
export function readSelection(text, count) {
  const chosen = new Set();
  for (const part of text.split(",")) {
    const match = part.trim() === "all" ? ["", "0", String(count - 1)] : part.match(/^\s*(\d+)(?:\s*-\s*(\d+))?\s*$/);
    if (!match) continue;
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])].sort((a, b) => a - b);
    for (let i = first; i <= Math.min(last, count - 1); i++) chosen.add(i);
  }
  return chosen;
}

/** The largest number that a selection names, -1 for none. @param {string} text */
export function mostOf(text) {
  return Math.max(-1, ...(text.match(/\d+/g) ?? []).map(Number));
}

/** Rising numbers in words: 0, 1, 2, 3, 8 → "0-3,8". @param {Iterable<number>} chosen */
export function writeSelection(chosen) {
  /** @type {Pair[]} */
  const runs = [];
  for (const i of [...chosen].sort((a, b) => a - b)) {
    const run = runs.at(-1);
    if (run && run[1] === i - 1) run[1] = i;
    else runs.push([i, i]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

/** The tokens in a rectangle between two of them. @param {Pair} grid @param {number} a @param {number} b */
export function rectangle([, columns], a, b) {
  const [top, bottom] = [Math.floor(a / columns), Math.floor(b / columns)].sort((x, y) => x - y);
  const [left, right] = [a % columns, b % columns].sort((x, y) => x - y);
  const inside = [];
  for (let row = top; row <= bottom; row++) for (let column = left; column <= right; column++) inside.push(row * columns + column);
  return inside;
}

/** The same place chosen on another grid: the tokens whose middle lies in a chosen one, or where there is none, those that hold the
 * middle of a chosen one; an empty selection would mean all tokens.
 * @param {Set<number>} chosen @param {Pair} size @param {number} from patch size @param {number} to patch size */
export function remap(chosen, size, from, to) {
  const [, before] = gridOf(size, from);
  const [rows, columns] = gridOf(size, to);
  const moved = new Set();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [y, x] = [row, column].map((at, axis) => Math.min((at + 0.5) * to, size[axis] - 0.5));
      if (chosen.has(Math.floor(y / from) * before + Math.floor(x / from))) moved.add(row * columns + column);
    }
  }
  if (!moved.size) {
    for (const token of chosen) {
      const [row, column] = [Math.floor(token / before), token % before].map((at, axis) =>
        Math.floor(Math.min((at + 0.5) * from, size[axis] - 0.5) / to),
      );
      moved.add(row * columns + column);
    }
  }
  return moved;
}

/** The token under a point, both as shares of the grid's box; null beside it. @param {Pair} grid @param {number} x @param {number} y */
export function tokenAt([rows, columns], x, y) {
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
  return Math.floor(y * rows) * columns + Math.floor(x * columns);
}

/** The token under a point, and the number of the map that it is on; null beside all of them.
 * @param {Pair} grid @param {Box[]} boxes of the maps @param {number} x @param {number} y */
export function tokenOn(grid, boxes, x, y) {
  for (const [map, box] of boxes.entries()) {
    const token = tokenAt(grid, (x - box.x) / box.width, (y - box.y) / box.height);
    if (token !== null) return { token, map };
  }
  return null;
}

/** Where a place that is told in shares of a box lies, in the box's own measure. @param {Box} box @param {Box} place @returns {Box} */
export function placeIn(box, place) {
  return {
    x: box.x + place.x * box.width,
    y: box.y + place.y * box.height,
    width: place.width * box.width,
    height: place.height * box.height,
  };
}

/** Where a token lies, as shares of the grid's box; null for none. @param {Pair} grid @param {number | null} token */
export function shareOf([rows, columns], token) {
  if (token === null) return null;
  return { x: (token % columns) / columns, y: Math.floor(token / columns) / rows, width: 1 / columns, height: 1 / rows };
}

/** The token in the middle of such a place; null for none. @param {Pair} grid @param {ReturnType<typeof shareOf>} place */
export function tokenOf(grid, place) {
  return place && tokenAt(grid, place.x + place.width / 2, place.y + place.height / 2);
}

/** The largest box of a shape that fits, in the middle. @param {Pair} shape @param {number} width @param {number} height */
export function fit([rows, columns], width, height) {
  const scale = Math.min(width / columns, height / rows);
  const [w, h] = [columns * scale, rows * scale];
  return { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h };
}

/** Where the arrow keys lead from a token. @param {Pair} grid @param {number} token @param {string} key */
export function neighbour([rows, columns], token, key) {
  const [row, column] = [Math.floor(token / columns), token % columns];
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  if (!step) return null;
  const [y, x] = [row + step[0], column + step[1]];
  return y < 0 || x < 0 || y >= rows || x >= columns ? token : y * columns + x;
}

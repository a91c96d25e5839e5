import assert from "node:assert/strict";
import { test } from "node:test";
import {
  cellOf,
  fit,
  gridOf,
  mostOf,
  neighbour,
  placeIn,
  readSelection,
  rectangle,
  remap,
  shareOf,
  tokenAt,
  tokenOf,
  tokenOn,
  writeSelection,
} from "../../web/grid.js";

test("a latent that does not divide is padded", () => {
  assert.deepEqual(gridOf([32, 32], 4), [8, 8]);
  assert.deepEqual(gridOf([33, 7], 2), [17, 4]);
});

test("a selection is written as it is read", () => {
  for (const text of ["", "0", "0-3,8", "1,3,5-9", "0-15"]) assert.equal(writeSelection(readSelection(text, 16)), text);
  assert.deepEqual([...readSelection("3-1, 99, x", 16)].sort(), [1, 2, 3]);
  assert.equal(readSelection("all", 16).size, 16);
  assert.equal(readSelection("0-999999999999", 16).size, 16);
});

test("a selection may name tokens past the grid", () => {
  assert.equal(mostOf("0-3,8"), 8);
  assert.equal(mostOf("7-2"), 7);
  assert.equal(mostOf(""), -1);
  assert.equal(mostOf("all"), -1);
});

test("a cell is as large as the run found it", () => {
  assert.equal(cellOf([512, 512], [64, 64]), 8);
  assert.equal(cellOf([512, 768], [32, 48]), 16);
  assert.equal(cellOf([517, 250], [64, 31]), 8);
  assert.equal(cellOf([512, 512], [64, 32]), undefined); // of other pixels
});

test("a drag in any direction is the same rectangle", () => {
  const inside = [5, 6, 9, 10];
  for (const [a, b] of [
    [5, 10],
    [10, 5],
    [6, 9],
    [9, 6],
  ])
    assert.deepEqual(rectangle([4, 4], a, b), inside);
  assert.deepEqual(rectangle([4, 4], 7, 7), [7]);
});

test("a selection keeps its place when the patch size changes", () => {
  const corner = new Set([0, 1, 8, 9]); // of an 8×8 grid of 4×4 patches
  assert.deepEqual([...remap(corner, [32, 32], 4, 8)], [0]);
  assert.deepEqual(remap(new Set([0]), [32, 32], 8, 4), corner);
  for (const p of [1, 2, 3, 5]) assert.equal(remap(remap(corner, [32, 32], 4, p), [32, 32], p, 4).size, 4);
  assert.equal(remap(new Set([3]), [9, 9], 8, 1).size, 1); // a patch of which one cell is no padding
});

test("a selection never becomes empty, which would mean all", () => {
  assert.deepEqual([...remap(new Set([0]), [32, 32], 2, 8)], [0]);
  for (const from of [1, 2, 3, 5])
    for (const to of [1, 2, 4, 7, 8, 16])
      for (const size of /** @type {[number, number][]} */ ([
        [32, 32],
        [33, 17],
      ])) {
        const [rows, columns] = gridOf(size, from);
        for (const token of [0, columns - 1, rows * columns - 1]) {
          const moved = remap(new Set([token]), size, from, to);
          const [down, across] = gridOf(size, to);
          assert.ok(moved.size >= 1 && [...moved].every((one) => one >= 0 && one < down * across));
        }
      }
  assert.equal(remap(new Set(), [32, 32], 2, 8).size, 0);
});

test("every token is under its own middle", () => {
  for (let token = 0; token < 12; token++) assert.equal(tokenAt([3, 4], ((token % 4) + 0.5) / 4, (Math.floor(token / 4) + 0.5) / 3), token);
  for (const [x, y] of [
    [-0.01, 0.5],
    [1, 0.5],
    [0.5, 1],
  ])
    assert.equal(tokenAt([3, 4], x, y), null);
});

test("a token's place holds it, and on a finer grid one of those within it", () => {
  for (let token = 0; token < 12; token++) assert.equal(tokenOf([3, 4], shareOf([3, 4], token)), token);
  assert.deepEqual(shareOf([2, 4], 5), { x: 0.25, y: 0.5, width: 0.25, height: 0.5 });
  assert.equal(tokenOf([4, 8], shareOf([2, 4], 5)), 27);
  assert.equal(tokenOf([3, 4], shareOf([3, 4], null)), null);
});

test("the box fits and keeps its shape", () => {
  assert.deepEqual(fit([10, 20], 100, 100), { x: 0, y: 25, width: 100, height: 50 });
});

test("arrow keys stay on the grid", () => {
  assert.equal(neighbour([2, 3], 0, "ArrowRight"), 1);
  assert.equal(neighbour([2, 3], 2, "ArrowRight"), 2);
  assert.equal(neighbour([2, 3], 4, "ArrowUp"), 1);
  assert.equal(neighbour([2, 3], 0, "a"), null);
});

test("a token is found on the map that it was framed on, and the other way round", () => {
  const grid = /** @type {[number, number]} */ ([2, 5]);
  const picture = { x: 30, y: 7, width: 400, height: 200 };
  const boxes = [
    { x: 1 / 16, y: 1 / 8, width: 3 / 8, height: 1 / 2 },
    { x: 9 / 16, y: 1 / 8, width: 3 / 8, height: 1 / 2 },
  ].map((box) => placeIn(picture, box));
  assert.deepEqual(boxes[1], { x: 255, y: 32, width: 150, height: 100 });
  for (const [map, box] of boxes.entries()) {
    for (let token = 0; token < 10; token++) {
      const { x, y, width, height } = placeIn(box, shareOf(grid, token));
      for (const inside of [0.01, 0.5, 0.99])
        assert.deepEqual(tokenOn(grid, boxes, x + inside * width, y + inside * height), { token, map });
    }
  }
  assert.deepEqual(placeIn(boxes[0], shareOf(grid, 7)), { x: 55 + 2 * 30, y: 32 + 50, width: 30, height: 50 });
  for (const [x, y] of [
    [240, 60],
    [54, 60],
    [60, 31],
    [60, 133],
  ])
    assert.equal(tokenOn(grid, boxes, x, y), null); // between the maps and around them
  assert.equal(tokenOn(grid, [], 60, 60), null);
});

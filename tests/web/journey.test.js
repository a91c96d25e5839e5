import assert from "node:assert/strict";
import { test } from "node:test";
import { shownOf, stagesOf } from "../../web/journey_words.js";

const told = {
  grid: [1, 2],
  query: 0,
  number: 1,
  width: 3,
  tokens: [0, 1],
  count: 2,
  values: [
    [1, 2],
    [-1, 0.5],
  ],
  row: [0.5, -1],
  rest: [0, 0],
  bias: 0.25,
  vectors: [btoa(String.fromCharCode(0x81, 127, 0)), btoa("\x01\x02\x03")],
  embedded: [-1.25, -0.75],
  placed: [-1, -0.75],
  apart: true,
  rotary: false,
  place: [0.5, 0],
  norms: [
    [1, 2],
    [3, 4],
  ],
  read: [[["cat", 0.5]], [["dog", 0.25]]],
  answers: [[0], [1]],
  answer_count: 1,
};

test("a token's stages in words and numbers", () => {
  const stages = stagesOf(told, 0);
  assert.deepEqual(stages[2].strips, [
    [0.5, -1],
    [0.5, -2],
  ]);
  assert.equal(stages[3].says, "1.000 × 0.500 + 2.000 × −1.000 + … = −1.500; bias +0.250: number 1 of 3 is −1.250");
  assert.deepEqual(stages[4], { part: "patch embedding", says: "its vector, 3 of 3 numbers", strips: [[-127, 127, 0]] });
  assert.equal(stages[5].says, "its place adds +0.250: −1.000; its place vector has length 0.50");
  assert.deepEqual(stages[6].bars, [1, 2]);
  assert.deepEqual(stages[7].words, [["cat", 0.5]]);
});

test("what a model does not show is said", () => {
  const stages = stagesOf({ ...told, row: null, bias: null, read: null, rotary: true }, 1);
  assert.deepEqual(
    stages.map(({ says }) => says),
    [
      "token 1: row 0, column 1",
      "its patch: 2 values",
      "patch embedding: number 1 of 3 is −0.750",
      "its vector, 3 of 3 numbers",
      "its place adds nothing: rotary positions turn queries and keys",
      "length before the blocks and after each",
      "no block shows this token reading text",
      "the head answers 1 values",
    ],
  );
});

test("rotary places add nothing, whatever layers before the blocks do", () => {
  assert.equal(
    stagesOf({ ...told, rotary: true }, 0)[5].says,
    "its place adds nothing: rotary; layers before the blocks make this number −1.000",
  );
  assert.equal(stagesOf(told, 1)[5].says, "its place adds nothing here");
});

test("a model whose embedding and place are one stage says so", () => {
  const says = stagesOf({ ...told, apart: false, row: null, bias: null }, 0).map((stage) => stage.says);
  assert.equal(says[2], "embedding and place, not shown apart here: number 1 of 3 is −1.000");
  assert.equal(says[3], "length before the blocks and after each");
});

test("a part of the journey alone", () => {
  const says = (show, changes = {}) => shownOf(stagesOf({ ...told, ...changes }, 0), show).map((stage) => stage.says.slice(0, 12));
  const token = "token 0: row";
  assert.equal(says("all").length, 9);
  assert.deepEqual(says("patch embedding"), [token, "its patch: 2", "× row 1 of t", "1.000 × 0.50", "its vector, "]);
  assert.deepEqual(says("position embedding"), [token, "its place ad"]);
  assert.deepEqual(says("text"), [token, "words it rea"]);
  assert.deepEqual(says("blocks"), [token, "length befor", "the head ans"]);
  assert.deepEqual(says("position embedding", { apart: false }), [token, "embedding an"]);
});

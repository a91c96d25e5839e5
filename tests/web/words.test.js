import assert from "node:assert/strict";
import { test } from "node:test";
import { blocksInWords, percent, placeInWords, short, stepInWords, tokensInWords, walkInWords } from "../../web/words.js";

test("numbers are short", () => {
  assert.equal(short(16_870_000_000_000), "16.9 T");
  assert.equal(short(12), "12.0 ");
  assert.equal(percent(0.27), "27%");
  assert.equal(percent(0.0123), "1.2%");
});

test("the textbook's arithmetic", () => {
  assert.equal(tokensInWords([32, 32], 2, 16), "1,024 tokens of 16 values: 32×32 patches of 2×2");
  assert.equal(tokensInWords([32, 32], 2, 16, 21504), "21,504 tokens of 16 values: 21 frames of 32×32 patches of 2×2");
  assert.equal(tokensInWords([32, 32], 2, undefined), "1,024 tokens: 32×32 patches of 2×2");
});

test("a token's number goes on over a video's frames, its row and column do not", () => {
  assert.equal(placeInWords(7, 5), "token 7: row 1, column 2");
  assert.equal(placeInWords(7, 5, 20), "token 27: row 1, column 2");
});

test("costs name what they are a share of", () => {
  assert.equal(stepInWords(1e9, 1, 2, 2), "1.00 GFLOPs a step, p = 2 is the model's own");
  assert.equal(stepInWords(1e9, 0.25, 2, 4), "1.00 GFLOPs a step, 25% of p = 2");
});

test("a walk tells its tokens, a step and all steps", () => {
  const fine = { patch_size: 2, steps: 10, tokens: 1024, flops: 1e11 };
  const coarse = { patch_size: 4, steps: 10, tokens: 256, flops: 2e10 };
  assert.equal(
    walkInWords({ steps: 20, flops: 1.2e12, share: 0.6, batch: 1, stretches: [coarse, fine] }, 2),
    "256 → 1,024 tokens, 20.0 G → 100 GFLOPs a step\n20 steps: 1.20 TFLOPs, 60% of p = 2 throughout",
  );
  assert.equal(
    walkInWords({ steps: 20, flops: 2e12, share: 1, batch: 3, stretches: [fine] }, 2),
    "1,024 tokens in each of 3 pictures, 100 GFLOPs a step\n20 steps: 2.00 TFLOPs",
  );
});

test("blocks are told by kind, and those that run by number", () => {
  const flux = {
    groups: [
      [0, 18, "double"],
      [19, 56, "single"],
    ],
    runs: [3, 3, 20],
  };
  assert.equal(blocksInWords(flux, true), "blocks 0–18 double, 19–56 single; runs 3: 3, 3, 20");
  assert.equal(blocksInWords({ ...flux, runs: [] }, true), "blocks 0–18 double, 19–56 single; runs 0: –");
  assert.equal(blocksInWords({ ...flux, groups: [[0, 0, "joint"]] }, false), "blocks 0 joint");
  assert.equal(blocksInWords(flux, false), "blocks 0–18 double, 19–56 single");
});

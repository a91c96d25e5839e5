import assert from "node:assert/strict";
import { test } from "node:test";
import { denoisingInWords, percent, short, stepInWords, tokensInWords } from "../../web/words.js";

test("numbers are short", () => {
  assert.equal(short(16_870_000_000_000), "16.9 T");
  assert.equal(short(12), "12.0 ");
  assert.equal(percent(0.27), "27%");
  assert.equal(percent(0.0123), "1.2%");
});

test("the textbook's arithmetic", () => {
  assert.equal(tokensInWords([32, 32], 2, 4), "1,024 tokens of 16 values: 32×32 patches of 2×2");
  assert.equal(tokensInWords([32, 32], 2, undefined), "1,024 tokens: 32×32 patches of 2×2");
});

test("costs name what they are a share of", () => {
  assert.equal(stepInWords({ flops: 1e9, share: 1 }, 2, 2), "1.00 GFLOPs a step, p = 2 is the model's own");
  assert.equal(stepInWords({ flops: 1e9, share: 0.25 }, 2, 4), "1.00 GFLOPs a step, 25% of p = 2");
  assert.equal(denoisingInWords({ steps: 20, flops: 2e12, share: 0.49 }, 2), "20 steps: 2.00 TFLOPs, 49% of p = 2 throughout");
  assert.equal(denoisingInWords({ steps: 20, flops: 2e12, share: 1 }, 2), "20 steps: 2.00 TFLOPs");
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { guidanceRefused } from "../../web/guided.js";

/** A node as `Place` shows it: its kind, its cfg, and what its inputs come from. */
let count = 0;
const node = (kind, inputs = {}, cfg = undefined) => {
  count += 1;
  return { id: String(count), kind, value: (name) => (name === "cfg" ? cfg : undefined), origin: (name) => inputs[name] ?? null };
};
const ours = (name, ...more) => node(`DiTBlocks${name}`, ...more);
const text = node("CLIPTextEncode");

test("cfg other than 1 needs a negative on a model that reads text", () => {
  const dit = ours("StepCache", { dit: ours("LoadEmbedded") });
  assert.equal(guidanceRefused(ours("Denoise", { dit, positive: text }, 3)), "cfg 3 needs a negative: wire one, or set cfg to 1");
  assert.match(guidanceRefused(ours("DenoiseStep", { dit: ours("FromModel"), positive: node("FluxGuidance") }, 0)), /^cfg 0 needs/);
  assert.match(guidanceRefused(ours("Compare", { dit: ours("LoadDiffusers"), positive: text }, 3)), /needs a negative/);
  assert.equal(guidanceRefused(ours("Denoise", { dit, positive: text }, 1)), "");
  assert.equal(guidanceRefused(ours("Denoise", { dit, positive: text, negative: text }, 3)), "");
  assert.equal(guidanceRefused(ours("Denoise", { dit, positive: text, guider: node("CFGGuider") }, 3)), "");
});

test("nothing is said where it is not known before a run", () => {
  const [dit, label] = [ours("LoadDiffusers"), ours("ClassLabel")];
  assert.equal(guidanceRefused(ours("Denoise", { dit, positive: label }, 3)), ""); // it has a class for nothing
  assert.equal(guidanceRefused(ours("Denoise", { dit: ours("LoadEmbedded"), positive: text })), ""); // a wire brings cfg
  assert.equal(guidanceRefused(ours("Denoise", { dit: ours("LoadEmbedded") }, 3)), ""); // ComfyUI says that positive is missing
  assert.equal(guidanceRefused(ours("Guidance", {}, 3)), "");
  assert.equal(guidanceRefused(ours("Guidance", { prediction: ours("FinalLayer", { hidden: node("Elsewhere") }) }, 3)), "");
});

test("DiT Guidance looks for the condition behind its prediction", () => {
  const predicted = (inputs) => {
    const cut = ours("PatchEmbed", { x: ours("Condition", { x: ours("SamplerStep"), positive: text, ...inputs }) });
    return ours("FinalLayer", { hidden: ours("RunBlocks", { hidden: ours("MixTokens", { a: cut }) }) });
  };
  const guided = (cfg, inputs) => guidanceRefused(ours("Guidance", inputs, cfg));
  assert.match(guided(-2, { prediction: predicted({}) }), /^cfg -2 needs a negative: wire one into DiT Condition/);
  assert.equal(guided(1, { prediction: predicted({}) }), "");
  assert.equal(guided(3, { prediction: predicted({ negative: text }) }), "");
  assert.equal(guided(3, { prediction: predicted({}), negative: predicted({}) }), "");
  const before = ours("Guidance", { prediction: predicted({ negative: text }) }, 3);
  assert.match(guided(3, { prediction: before }), /^prediction is guided already/);
  assert.equal(guided(3, { prediction: before, negative: predicted({}) }), "");
});

test("wires in a circle end the search", () => {
  const wires = {};
  wires.hidden = ours("RunBlocks", wires);
  assert.equal(guidanceRefused(ours("Guidance", { prediction: wires.hidden }, 3)), "");
});

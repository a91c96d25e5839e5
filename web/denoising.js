import { app } from "../../scripts/app.js";
import { ask } from "./costs.js";
import { say } from "./language.js";
import { addPanel, make, whenChanged } from "./panel.js";
import { ancestors, latent, origin, picture, shape, value, viewUrl } from "./upstream.js";
import { denoisingInWords } from "./words.js";

// What a denoising costs, on Denoise and Sigma Schedule, and a slider over its steps with x0 at each, on Denoise.

/** The first Denoise or Add Noise that takes these sigmas. @param {ComfyNode} schedule @returns {ComfyNode | undefined} */
function user(schedule) {
  const nodes = /** @type {ComfyNode[]} */ (schedule.graph?.nodes ?? []);
  return nodes.find((node) => origin(node, "sigmas") === schedule && node.inputs.some(({ name }) => name === "tokens"));
}

/** In words, "" where something it takes is not known before a run. @param {ComfyNode} node @param {Record<string, any>} told */
async function cost(node, told) {
  const denoise = node.comfyClass === "DiTBlocksSchedule" ? user(node) : node;
  const schedule = node.comfyClass === "DiTBlocksSchedule" ? node : origin(node, "sigmas");
  const patchify = denoise && ancestors(denoise).find(({ comfyClass }) => comfyClass === "DiTBlocksPatchify");
  const steps = schedule?.comfyClass === "DiTBlocksSchedule" ? value(schedule, "steps") : undefined;
  if (!denoise || !patchify || typeof steps !== "number") return "";
  const known = shape(denoise, told.shape);
  const size = latent(patchify, "latent", () => {}).size ?? told.size;
  const rows = origin(denoise, "patch_schedule");
  const patchSize = value(patchify, "patch_size");
  const sizes = rows ? value(rows, "rows") : patchSize === undefined ? undefined : String(patchSize || "");
  if (!known || !size || sizes === undefined) return "";
  const costs = await ask({ shape: known, size, steps, schedule: String(sizes) });
  return costs?.denoising ? denoisingInWords(costs.denoising, costs.own) : "";
}

/** @param {ComfyNode} node */
function addBadge(node) {
  const badge = make("div");
  addPanel(node, "cost", 26, [badge]);
  whenChanged(node, async () => {
    badge.textContent = (await cost(node, {})) || say("cost: wire a default model, or see Budget");
  });
}

/** @param {ComfyNode} node */
function addScrubber(node) {
  const badge = make("div");
  const canvas = make("canvas", { flex: "1", minHeight: "0", objectFit: "contain", width: "100%" }, { "aria-label": "x0" });
  const [slider, depth] = ["step", "block"].map((name) =>
    make("input", { width: "100%", margin: "2px 0" }, { type: "range", min: "0", max: "0", value: "0", "aria-label": name }),
  );
  const [says, remarks] = [make("div"), make("div")];
  addPanel(node, "trajectory", 190, [badge, canvas, slider, depth, says, remarks]);
  /** @type {Record<string, any>} */
  let told = {};

  const draw = () => {
    const { trajectory, steps, sigmas, blocks = [] } = told;
    const strip = trajectory ? picture(viewUrl(trajectory), draw) : null;
    slider.disabled = !strip;
    depth.style.display = blocks.length ? "" : "none";
    if (!strip) {
      says.textContent = trajectory ? "" : say("run to walk through x0, step by step");
      return;
    }
    const at = Number(slider.value);
    const width = strip.naturalWidth / steps.length;
    const height = strip.naturalHeight / Math.max(blocks.length, 1);
    const row = Number(depth.value);
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d")?.drawImage(strip, -at * width, -row * height);
    const where = { step: steps[at], sigma: sigmas[at].toFixed(3), block: blocks[row] };
    says.textContent = blocks.length
      ? say("x0 at step {step}, σ = {sigma}, after block {block}", where)
      : say("x0 at step {step}, σ = {sigma}", where);
  };
  for (const one of [slider, depth]) {
    one.addEventListener("input", draw);
    one.addEventListener("pointerdown", (event) => event.stopPropagation());
  }
  whenChanged(node, async (facts) => {
    if (facts?.trajectory) {
      told = facts;
      slider.max = String(told.steps.length - 1);
      slider.value = slider.max;
      depth.max = String(Math.max((told.blocks?.length ?? 0) - 1, 0));
      depth.value = depth.max;
      remarks.textContent = told.remarks?.join("; ") ?? "";
    }
    draw();
    badge.textContent = (await cost(node, told)) || say("cost: known after a run where the model's shape is");
  });
}

app.registerExtension({
  name: "dit-blocks.denoising",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass === "DiTBlocksDenoise") addScrubber(node);
    if (node.comfyClass === "DiTBlocksSchedule") addBadge(node);
  },
});

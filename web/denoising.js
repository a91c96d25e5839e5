import { app } from "../../scripts/app.js";
import { newest } from "./answers.js";
import { ask, walkOf } from "./costs.js";
import { say } from "./language.js";
import { addPanel, make, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";
import { picture, viewUrl } from "./upstream.js";
import { walkInWords } from "./words.js";

// What a denoising costs, on Denoise and Sigma Schedule, and a slider over its steps with x0 at each, on Denoise.

/** A line that follows what a Denoise spends: → the line, and what to call when something has changed. @param {() => string} unknown
 * @returns {[HTMLElement, (node: ComfyNode) => void]} */
function makeBadge(unknown) {
  const badge = make("div", { whiteSpace: "pre-line" });
  const hear = newest((/** @type {import("./costs.js").Costs | null} */ costs) => {
    badge.textContent = costs?.error ?? (costs?.walk ? walkInWords(costs.walk, costs.own) : unknown());
  });
  return [badge, (node) => hear(ask(walkOf(placeOf(node))))];
}

/** @param {ComfyNode} node */
function addBadge(node) {
  const [badge, follow] = makeBadge(() => say("cost: of the Denoise that takes these sigmas, where its model is known"));
  addPanel(node, "cost", 40, [badge]);
  whenChanged(node, () => follow(node));
}

/** @param {ComfyNode} node */
function addScrubber(node) {
  const [badge, follow] = makeBadge(() => say("cost: known after a run where the model's shape is"));
  const canvas = make("canvas", { flex: "1", minHeight: "0", objectFit: "contain", width: "100%" }, { "aria-label": "x0" });
  const [slider, depth] = ["step", "block"].map((name) =>
    make("input", { width: "100%", margin: "2px 0" }, { type: "range", min: "0", max: "0", value: "0", "aria-label": name }),
  );
  const [says, remarks] = [make("div"), make("div")];
  addPanel(node, "trajectory", 205, [badge, canvas, slider, depth, says, remarks]);
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
  whenChanged(node, (facts) => {
    if (facts?.trajectory) {
      told = facts;
      slider.max = String(told.steps.length - 1);
      slider.value = slider.max;
      depth.max = String(Math.max((told.blocks?.length ?? 0) - 1, 0));
      depth.value = depth.max;
      remarks.textContent = told.remarks?.join("; ") ?? "";
    }
    draw();
    follow(node);
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

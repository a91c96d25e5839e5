import { app } from "../../scripts/app.js";
import { newest } from "./answers.js";
import { ask, walkOf } from "./costs.js";
import { errorInWords } from "./errors_zh.js";
import { makeFrame, putFrame } from "./frames.js";
import { fit, placeIn } from "./grid.js";
import { makeHits } from "./hits.js";
import { say } from "./language.js";
import { whenPointed } from "./linked.js";
import { drawLive } from "./live.js";
import { addPanel, make, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";
import { picture, viewUrl } from "./upstream.js";
import { walkInWords } from "./words.js";

// What a denoising costs, on Denoise and Sigma Schedule, a slider over its steps with x0 at each, on Denoise, and x0 on single steps.

const STEPS = new Set(["DiTBlocksDenoiseStep", "DiTBlocksSamplerStep"]);
const FRAME = 250; // milliseconds of a step when they are played

/** A line that follows what a Denoise spends: → the line, and what to call when something has changed. @param {() => string} unknown
 * @returns {[HTMLElement, (node: ComfyNode) => void]} */
function makeBadge(unknown) {
  const badge = make("div", { whiteSpace: "pre-line" });
  const hear = newest((/** @type {import("./costs.js").Costs | null} */ costs) => {
    const known = costs?.walk ? walkInWords(costs.walk, costs.own) : unknown();
    badge.textContent = costs?.error ? errorInWords(costs.error) : known;
  });
  return [badge, (node) => hear(ask(walkOf(placeOf(node))))];
}

/** @param {ComfyNode} node */
function addBadge(node) {
  const [badge, follow] = makeBadge(() => say("cost: of the Denoise that takes these sigmas, where its model is known"));
  addPanel(node, "cost", 40, [badge]);
  whenChanged(node, () => follow(node));
}

/** A canvas that takes what height is left, whatever the size of its picture. A place that another panel points at is framed.
 * @param {ComfyNode} node @returns {[HTMLElement, HTMLCanvasElement]} */
function makeCanvas(node) {
  const style = { position: "absolute", inset: "0", width: "100%", height: "100%", objectFit: "contain" };
  const canvas = make("canvas", style, { "aria-label": "x0" });
  const box = make("div", { position: "relative", flex: "1", minHeight: "0" });
  const frame = makeFrame();
  box.append(canvas, frame);
  whenPointed(node, (place) =>
    putFrame(frame, place && placeIn(fit([canvas.height, canvas.width], box.clientWidth, box.clientHeight), place)),
  );
  return [box, canvas];
}

/** @param {HTMLCanvasElement} canvas @param {ImageBitmap} picture */
function show(canvas, picture) {
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d")?.drawImage(picture, 0, 0);
}

/** x0 of a single step, as its run shows it. @param {ComfyNode} node */
function addGuess(node) {
  const [box, canvas] = makeCanvas(node);
  const says = make("div");
  says.textContent = say("run to see x0");
  addPanel(node, "x0", 150, [box, says]);
  drawLive(node, (picture) => {
    show(canvas, picture);
    says.textContent = say("x0: the picture that the model expects");
  });
}

/** @param {ComfyNode} node */
function addScrubber(node) {
  const [badge, follow] = makeBadge(() => say("cost: known after a run where the model's shape is"));
  const [box, canvas] = makeCanvas(node);
  const [slider, depth] = ["step", "block"].map((name) =>
    make("input", { width: "100%", margin: "2px 0" }, { type: "range", min: "0", max: "0", value: "0", "aria-label": name }),
  );
  const [says, remarks] = [make("div"), make("div")];
  const play = make("button", { cursor: "pointer", border: "none", background: "none", color: "inherit" }, { "aria-label": "play" });
  play.textContent = "▶";
  const row = make("div", { display: "flex", gap: "4px", alignItems: "center" });
  row.append(play, slider);
  const [hits, drawHits] = makeHits();
  addPanel(node, "trajectory", 225, [badge, box, row, hits, depth, says, remarks]);
  /** @type {Record<string, any>} */
  let told = {};
  let playing = 0;

  const stop = () => {
    clearInterval(playing);
    playing = 0;
    play.textContent = "▶";
  };
  const start = () => {
    if (Number(slider.value) === Number(slider.max)) slider.value = "0";
    draw();
    play.textContent = "❚❚";
    playing = window.setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      draw();
      if (slider.value === slider.max || !node.graph) stop();
    }, FRAME);
  };
  play.addEventListener("pointerdown", (event) => event.stopPropagation());
  play.addEventListener("click", () => (playing ? stop() : start()));

  const draw = () => {
    const { trajectory, steps, sigmas, blocks = [] } = told;
    const strip = trajectory ? picture(viewUrl(trajectory), draw) : null;
    slider.disabled = !strip;
    play.disabled = !strip || told.steps.length < 2;
    depth.style.display = blocks.length ? "" : "none";
    if (!strip) {
      says.textContent = trajectory ? "" : say("run to walk through x0, step by step");
      return;
    }
    const at = Number(slider.value);
    const width = strip.naturalWidth / steps.length;
    const height = strip.naturalHeight / Math.max(blocks.length, 1);
    const block = Number(depth.value);
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d")?.drawImage(strip, -at * width, -block * height);
    const where = { step: steps[at], sigma: sigmas[at].toFixed(3), block: blocks[block] };
    says.textContent = blocks.length
      ? say("x0 at step {step}, σ = {sigma}, after block {block}", where)
      : say("x0 at step {step}, σ = {sigma}", where);
  };
  drawLive(
    node,
    (picture) => show(canvas, picture),
    () => told,
  );
  slider.addEventListener("input", stop);
  for (const one of [slider, depth]) {
    one.addEventListener("input", draw);
    one.addEventListener("pointerdown", (event) => event.stopPropagation());
  }
  whenChanged(node, (facts) => {
    if (facts?.trajectory) {
      stop();
      told = facts;
      slider.max = String(told.steps.length - 1);
      slider.value = slider.max;
      depth.max = String(Math.max((told.blocks?.length ?? 0) - 1, 0));
      depth.value = depth.max;
      drawHits(told.hits);
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
    if (STEPS.has(node.comfyClass)) addGuess(node);
  },
});

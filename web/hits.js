import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./language.js";
import { addPanel, make } from "./panel.js";
import { placeOf } from "./places.js";

// In which steps Step Cache left blocks out: a bar for each step, as high as the share of its model calls in which all blocks ran.

const HEIGHT = 14; // pixels of a step in which all blocks ran

/** @returns {[HTMLElement, (hits?: number[]) => void]} the chart, and what draws it: the share of calls that left blocks out, by step */
export function makeHits() {
  const chart = make("div", { display: "none", flex: "none", gap: "1px", height: `${HEIGHT}px`, alignItems: "flex-end" });
  const draw = (/** @type {number[]} */ hits = []) => {
    chart.style.display = hits.length ? "flex" : "none";
    chart.title = hits.length ? inWords(hits) : "";
    const bars = hits.map((hit) => make("div", { flex: "1", height: `${Math.max(2, HEIGHT * (1 - hit))}px`, background: "currentColor" }));
    chart.replaceChildren(...bars);
  };
  return [chart, draw];
}

/** @param {number[]} hits */
const inWords = (hits) =>
  say("blocks left out in {count} of {steps} steps", { count: hits.filter((hit) => hit === 1).length, steps: hits.length });

/** @type {Map<ComfyNode, (hits: number[]) => void>} */
const charts = new Map();

app.registerExtension({
  name: "dit-blocks.hits",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass !== "DiTBlocksStepCacheModel") return;
    const [chart, draw] = makeHits();
    const says = make("div");
    says.textContent = say("run a sampler to see in which steps blocks are left out");
    addPanel(node, "hits", 44, [says, chart]);
    charts.set(node, (hits) => {
      says.textContent = inWords(hits);
      draw(hits);
    });
  },
});

// KSampler runs after the node has: the pack's Python tells of each run.
api.addCustomEventListener("dit_blocks.step_cache", (/** @type {any} */ event) => {
  const { node: id, hits } = event.detail;
  for (const [node, show] of charts) {
    if (!node.graph) charts.delete(node);
    else if (placeOf(node).id === String(id)) show(hits);
  }
});

import { app } from "../../scripts/app.js";
import { change, copyWire, inputNamed, menuItem, setValue, wire } from "./explode.js";
import { say } from "./language.js";
import { placeOf } from "./places.js";

// DiT Denoise takes the stages of one step beside it, which Stages Every Step runs in all of its steps: the picture stays, until they are changed.

const DENOISE = "DiTBlocksDenoise";
const LAST = "DiTBlocksStagesSteps";
const STAGES = ["DiTBlocksCondition", "DiTBlocksPatchEmbed", "DiTBlocksPositionEmbed", "DiTBlocksRunBlocks", LAST];
const GAP = 50;
const LEAST_WIDTH = 260; // narrower ones grow in Nodes 2.0

/** @param {ComfyNode} node */
function stagesBeside(node) {
  change(node.graph, () => {
    const { graph } = node;
    const below = Math.max(...graph.nodes.map(({ pos, size }) => pos[1] + size[1])) + 2 * GAP;
    const stages = STAGES.map((kind) => LiteGraph.createNode(kind));
    let left = node.pos[0] + node.size[0];
    for (const stage of [...stages].reverse()) {
      stage.setSize([Math.max(stage.size[0], LEAST_WIDTH), stage.size[1]]);
      left -= stage.size[0];
      stage.pos = [left, below];
      graph.add(stage);
      copyWire(node, stage, "dit");
      left -= GAP;
    }
    const [first, ...others] = stages;
    for (const [name, as] of [["tokens", "x"], ["positive"], ["sigmas"]]) copyWire(node, first, name, as);
    setValue(first, "step", Number(placeOf(node).value("start_step")));
    others.forEach((stage, i) => {
      wire(stages[i], 0, stage, inputNamed(stage, "hidden") < 0 ? "x" : "hidden");
    });
    wire(stages[stages.length - 1], 0, node, "dit");
    app.canvas.selectItems(stages);
  });
}

/** @param {ComfyNode} node */
function whyNot(node) {
  const place = placeOf(node);
  const given = ["guider", "start_step"].find((name) => node.inputs[inputNamed(node, name)]?.link != null);
  const method = String(place.value("patch_method"));
  if (given) return say("not with {value} wired", { value: given });
  if (["resample", "pi_resize"].includes(method)) return say("not with {value}", { value: method });
  return place.origin("dit")?.kind === LAST ? say("it has them") : "";
}

app.registerExtension({
  name: "dit-blocks.every-step",

  /** @param {ComfyNode} node */
  getNodeMenuItems(node) {
    return node.comfyClass === DENOISE ? [menuItem(say("Wire its stages for every step"), whyNot(node), () => stagesBeside(node))] : [];
  },
});

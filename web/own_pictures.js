import { app } from "../../scripts/app.js";
import { drawLive } from "./live.js";

// Nodes whose result is a sheet: after a run ComfyUI would go on showing the preview of the last step instead of it, and over the node below.

const SHEETS = new Set(["DiTBlocksTrajectory", "DiTBlocksCompare"]);

app.registerExtension({
  name: "dit-blocks.own-pictures",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (SHEETS.has(node.comfyClass)) drawLive(node, () => {});
  },
});

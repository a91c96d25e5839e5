import { app } from "../../scripts/app.js";
import { guidanceRefused } from "./guided.js";
import { addPanel, make, panelOf, RED, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";

// What a run will refuse, on the node and before the run: on its panel, and on one made for it where the node has none.

const PANEL = "warning";
const HEIGHT = 64; // three lines on a narrow node

/** @param {ComfyNode} node */
function addWarning(node) {
  const line = make("div", { flex: "none", padding: "2px 6px", borderRadius: "4px", background: RED, color: "#fff" }, { role: "status" });
  line.className = "dit-blocks-warning-line";
  let [before, grown] = [0, 0];
  const resize = (/** @type {number} */ height) => {
    node.setSize([node.size[0], height]);
    app.canvas.setDirty(true, true);
  };
  const remove = () => {
    line.remove();
    const own = node.widgets.find(({ name }) => name === PANEL);
    if (!own) return;
    node.removeWidget(own);
    resize(node.size[1] === grown ? before : node.size[1]);
  };
  const put = () => {
    const panel = panelOf(node);
    if (panel) return panel.prepend(line);
    before = node.size[1];
    addPanel(node, PANEL, HEIGHT, [line]);
    grown = Math.max(before, node.computeSize()[1]);
    resize(grown);
  };
  whenChanged(node, () => {
    const refused = guidanceRefused(placeOf(node));
    line.textContent = refused;
    if (refused && !line.parentElement) put();
    if (!refused && line.parentElement) remove();
  });
}

app.registerExtension({
  name: "dit-blocks.warnings",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    const ours = node.comfyClass?.startsWith("DiTBlocks");
    const has = (/** @type {string} */ name) => node.inputs?.some((input) => input.name === name);
    if (ours && has("negative") && node.widgets?.some(({ name }) => name === "cfg")) addWarning(node);
  },
});

import { api } from "../../scripts/api.js";
import { placeOf } from "./places.js";

// While a node runs, ComfyUI shows its preview below it: a second picture on a node that has a canvas of its own, and would grow by it.

/** @type {Map<ComfyNode, [(picture: ImageBitmap) => void, () => unknown]>} */
const canvases = new Map();

/** Draw the previews of a node's runs instead of ComfyUI.
 * @param {ComfyNode} node @param {(picture: ImageBitmap) => void} draw
 * @param {() => unknown} result of the last run: a preview that is ready only after the run that it is of has ended is left out */
export function drawLive(node, draw, result = () => null) {
  canvases.set(node, [draw, result]);
}

// A module's listener is called before the front end's own, which is set up later.
api.addEventListener("b_preview_with_metadata", (event) => {
  const { blob, displayNodeId } = event.detail;
  for (const [node, [draw, result]] of canvases) {
    if (!node.graph) canvases.delete(node);
    else if (placeOf(node).id === String(displayNodeId)) {
      event.stopImmediatePropagation();
      const before = result();
      createImageBitmap(blob).then((picture) => result() === before && draw(picture));
    }
  }
});

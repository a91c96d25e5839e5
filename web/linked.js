// The place under the mouse, shared by the panels on the canvas: what one of them frames, the others frame too.

/** @typedef {{x: number, y: number, width: number, height: number}} Place each a share of the picture */

/** @type {Map<ComfyNode, (place: Place | null) => void>} */
const panels = new Map();

/** Call `frame` with the place that another panel points at, and with null once none does. @param {ComfyNode} node
 * @param {(place: Place | null) => void} frame */
export function whenPointed(node, frame) {
  panels.set(node, frame);
}

/** Tell the other panels of a place, or null where the mouse has left. @param {ComfyNode} from @param {Place | null} place */
export function point(from, place) {
  for (const [node, frame] of panels) {
    if (!node.graph) panels.delete(node);
    else if (node !== from) frame(place);
  }
}

// The place under the mouse, shared by the panels on the canvas: what one of them frames, the others frame too; what is clicked, they follow.

/** @typedef {{x: number, y: number, width: number, height: number}} Place each a share of the picture */
/** @typedef {(place: Place | null) => void} Frame */
/** @typedef {(place: Place) => void} Follow */

/** @type {Map<ComfyNode, [Frame, Follow | undefined]>} */
const panels = new Map();

/** Call `frame` with the place that another panel points at, and with null once none does; `follow` with one that is clicked there.
 * @param {ComfyNode} node @param {Frame} frame @param {Follow} [follow] */
export function whenPointed(node, frame, follow) {
  panels.set(node, [frame, follow]);
}

/** @param {ComfyNode} from @param {(acts: [Frame, Follow | undefined]) => void} tell */
function tellOthers(from, tell) {
  for (const [node, acts] of panels) {
    if (!node.graph) panels.delete(node);
    else if (node !== from) tell(acts);
  }
}

/** Tell the other panels of a place, or null where the mouse has left. @param {ComfyNode} from @param {Place | null} place */
export function point(from, place) {
  tellOthers(from, ([frame]) => frame(place));
}

/** Tell the other panels of a place that was clicked. @param {ComfyNode} from @param {Place | null} place */
export function pick(from, place) {
  if (place) tellOthers(from, ([, follow]) => follow?.(place));
}

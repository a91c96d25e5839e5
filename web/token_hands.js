import { neighbour, shareOf, tokenOf, tokenOn } from "./grid.js";
import { pick, point, whenPointed } from "./linked.js";

// What hands do on a panel with maps over tokens: mouse and arrows point at a token, a click and Enter choose it. Where another panel
// points, this one does too.

/** @typedef {{token: number, map: number}} At a token, and the number of the map that it is pointed at on */
/** @typedef {{grid: import("./grid.js").Pair, boxes: import("./grid.js").Box[]}} Maps of one grid, and their boxes on the element in pixels */

/** @param {ComfyNode} node @param {HTMLElement} element @param {{
 *   maps: () => Maps | null, start: () => At, show: (at: At | null) => void, choose: (at: At) => void}} acts
 *   start: where the arrows begin; show: called with what is pointed at */
export function followHands(node, element, { maps, start, show, choose }) {
  /** @type {At | null} */
  let at = null;
  /** @param {At | null} to */
  const hover = (to) => {
    const shown = maps();
    at = shown && to;
    point(node, at && shareOf(/** @type {Maps} */ (shown).grid, at.token));
    show(at);
  };
  /** @param {At} to */
  const take = (to) => {
    const shown = maps();
    if (shown) pick(node, shareOf(shown.grid, to.token));
    choose(to);
  };
  /** @param {PointerEvent} event */
  const under = (event) => {
    const shown = maps();
    const seen = element.getBoundingClientRect();
    const scale = element.clientWidth / seen.width; // the graph may be zoomed
    return shown && tokenOn(shown.grid, shown.boxes, (event.clientX - seen.left) * scale, (event.clientY - seen.top) * scale);
  };

  whenPointed(node, (place) => {
    const shown = maps();
    const token = shown && tokenOf(shown.grid, place);
    at = token === null ? null : { token, map: 0 };
    show(at);
  });
  element.addEventListener("pointerdown", (event) => {
    const to = under(event);
    if (!to || event.button) return;
    event.stopPropagation();
    element.focus({ preventScroll: true });
    take(to);
  });
  element.addEventListener("pointermove", (event) => hover(under(event)));
  element.addEventListener("pointerleave", () => hover(null));
  element.addEventListener("keydown", (event) => {
    const shown = maps();
    if (!shown?.boxes.length) return;
    const from = at ?? start();
    const token = neighbour(shown.grid, from.token, event.key);
    if (token !== null) hover({ token, map: from.map });
    else if ((event.key === "Enter" || event.key === " ") && at) take(at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

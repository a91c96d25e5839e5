import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { Answers } from "./answers.js";
import { placeOf, places } from "./places.js";

// A box of the pack's own on a node, below its widgets. It keeps nothing that a run needs: that is in real widgets.

/**
 * @param {ComfyNode} node @param {string} name @param {number | (() => number)} height least height in pixels @param {(string | Node)[]} content
 * @returns {HTMLElement}
 */
export function addPanel(node, name, height, content) {
  const least = () => (typeof height === "number" ? height : height());
  const element = document.createElement("div");
  element.className = `dit-blocks-${name}`;
  Object.assign(element.style, {
    position: "relative",
    display: "flex",
    flexDirection: "column",
    minHeight: `${least()}px`,
    overflow: "hidden",
    boxSizing: "border-box",
    padding: "4px 6px",
    font: "12px/1.35 sans-serif",
    color: "var(--input-text)",
    background: "var(--comfy-input-bg)",
    borderRadius: "4px",
  });
  element.append(...content);
  const widget = node.addDOMWidget(name, `dit-blocks-${name}`, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: least,
  });
  widget.serialize = false;
  return element;
}

/** The colour behind what is wrong. */
export const RED = "#7a1f1f";

/** The first box of the pack's own on a node. @param {ComfyNode} node */
export function panelOf(node) {
  const elements = node.widgets?.map((widget) => /** @type {{element?: HTMLElement}} */ (widget).element) ?? [];
  return elements.find((element) => element?.classList?.[0]?.startsWith("dit-blocks-"));
}

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {Partial<CSSStyleDeclaration>} style @param {Record<string, string>} attributes */
export function make(tag, style = {}, attributes = {}) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  for (const [name, text] of Object.entries(attributes)) element.setAttribute(name, text);
  return element;
}

/** Give a real widget a value as its own element does. @param {ComfyNode} node @param {string} name @param {unknown} value
 * @returns {boolean} false where a wire brings the value */
export function setWidget(node, name, value) {
  const widget = node.widgets.find((one) => one.name === name);
  if (!widget || placeOf(node).value(name) === undefined) return false;
  widget.value = /** @type {any} */ (value);
  widget.callback?.(widget.value);
  app.canvas.setDirty(true, true);
  return true;
}

/** @type {Set<() => void>} what to do when a widget or wire of any node with a panel has changed, or one has run */
const waiting = new Set();
/** @type {Map<string, Record<string, any>>} what the pack's Python told of each node after its last run */
const told = new Map();

/** What the pack's Python told of a node after its last run. @param {import("./places.js").Place | null | undefined} place */
export const toldOf = (place) => (place && told.get(place.id)) ?? {};

/** Questions to the pack's Python; it answers {error} to one that makes no sense. @param {string} path @returns {Answers<any>} */
export const asking = (path) =>
  new Answers(async (body) => {
    const answer = await api.fetchApi(path, { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (answer.ok || answer.status === 400) return answer.json();
    throw new Error(answer.statusText);
  });

/** What was told before the graph was left for another tab: ComfyUI keeps the outputs of its nodes. */
function recall() {
  for (const { id, node } of places(app.rootGraph)) {
    const outputs = app.nodeOutputs[node.graph === app.rootGraph ? id : `${node.graph.id}:${node.id}`];
    const [facts] = /** @type {any} */ (outputs)?.dit_blocks ?? [];
    if (facts && !told.has(id)) told.set(id, facts);
  }
  for (const each of waiting) each();
}

/** Whether a graph that is being loaded is the one that is there, taken back by an undo. @param {{id?: string}} graph */
export const isUndo = (graph) => graph.id === app.rootGraph.id;

app.registerExtension({
  name: "dit-blocks.panel",
  beforeConfigureGraph(graph) {
    if (!isUndo(graph)) told.clear();
  },
  afterConfigureGraph() {
    requestAnimationFrame(() => requestAnimationFrame(recall)); // by then the outputs are there
  },
});

let due = false;

/** After what goes on now: a graph that is loaded ties many wires. */
function tellAllSoon() {
  if (due) return;
  due = true;
  queueMicrotask(() => {
    due = false;
    for (const each of waiting) each();
  });
}

/** Call `act` when the node was made, loaded, wired, run, and when anything on the graph has changed.
 * @param {ComfyNode} node @param {(facts?: Record<string, any>) => void} act gets what the pack's Python told, where that is new to it */
export function whenChanged(node, act) {
  /** @template {keyof ComfyNode} K @param {K} event @param {(...given: any[]) => void} then */
  const after = (event, then) => {
    const before = /** @type {any} */ (node[event]);
    /** @type {any} */ (node)[event] = (/** @type {any[]} */ ...given) => {
      before?.apply(node, given);
      then(...given);
    };
  };
  /** @type {Record<string, any> | undefined} */
  let known;
  const changed = () => {
    if (!node.graph) return; // while it is loaded or after it was taken out, a node is on no graph
    const facts = told.get(placeOf(node).id);
    const fresh = facts !== known;
    known = facts;
    act(fresh ? facts : undefined);
  };
  after("onExecuted", (output) => {
    const [facts] = output?.dit_blocks ?? [];
    if (facts) told.set(placeOf(node).id, facts);
    for (const each of waiting) each();
  });
  after("onConfigure", changed);
  after("onConnectionsChange", tellAllSoon);
  after("onRemoved", () => {
    waiting.delete(changed);
    api.removeEventListener("graphChanged", changed);
  });
  waiting.add(changed);
  api.addEventListener("graphChanged", changed);
  for (const widget of node.widgets) {
    const called = widget.callback;
    widget.callback = (...given) => {
      called?.apply(widget, given);
      for (const each of waiting) each();
    };
  }
  queueMicrotask(changed);
}

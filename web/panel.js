import { api } from "../../scripts/api.js";

// A box of the pack's own on a node, below its widgets. It keeps nothing that a run needs: that is in real widgets.

/**
 * @param {ComfyNode} node @param {string} name @param {number} height least height in pixels @param {(string | Node)[]} content
 * @returns {HTMLElement}
 */
export function addPanel(node, name, height, content) {
  const element = document.createElement("div");
  element.className = `dit-blocks-${name}`;
  Object.assign(element.style, {
    position: "relative",
    display: "flex",
    flexDirection: "column",
    minHeight: `${height}px`,
    overflow: "hidden",
    boxSizing: "border-box",
    padding: "4px 6px",
    font: "11px/1.4 sans-serif",
    color: "var(--input-text)",
    background: "var(--comfy-input-bg)",
    borderRadius: "4px",
  });
  element.append(...content);
  const widget = node.addDOMWidget(name, `dit-blocks-${name}`, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
  });
  widget.serialize = false;
  return element;
}

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {Partial<CSSStyleDeclaration>} style @param {Record<string, string>} attributes */
export function make(tag, style = {}, attributes = {}) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  for (const [name, text] of Object.entries(attributes)) element.setAttribute(name, text);
  return element;
}

/** @type {Set<() => void>} what to do when a widget of any node with a panel was turned */
const waiting = new Set();

/** Call `act` when the node was made, loaded, wired, run, and when anything on the graph has changed.
 * @param {ComfyNode} node @param {(facts?: Record<string, unknown>) => void} act gets what the pack's Python told after a run */
export function whenChanged(node, act) {
  /** @template {keyof ComfyNode} K @param {K} event @param {(...given: any[]) => void} then */
  const after = (event, then) => {
    const before = /** @type {any} */ (node[event]);
    /** @type {any} */ (node)[event] = (/** @type {any[]} */ ...given) => {
      before?.apply(node, given);
      then(...given);
    };
  };
  const changed = () => {
    if (node.graph) act(); // while it is loaded or after it was taken out, a node is on no graph
  };
  after("onExecuted", (output) => act(output?.dit_blocks?.[0]));
  after("onConfigure", changed);
  after("onConnectionsChange", () => queueMicrotask(changed));
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
      for (const act of waiting) act();
    };
  }
  queueMicrotask(changed);
}

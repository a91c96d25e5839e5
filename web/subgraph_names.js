import { app } from "../../scripts/app.js";
import { shownAs } from "./shown_as.js";
import { isOurs } from "./version_note.js";

// Sockets of a subgraph, and the widgets that its node shows, are called what the node inside calls them in the editor's language, as the
// front end itself does for the sockets of nodes. A name that was given by hand stays, and nothing of it is saved.

/** @typedef {{name: string, label?: string, localized_name?: string}} Socket */
/** @typedef {Socket & {linkIds: number[], asSerialisable: () => object}} Border a socket as the subgraph has it */

/** What each socket was called when it was loaded. @type {WeakMap<object, string | undefined>} */
const before = new WeakMap();
/** Newer front ends keep a widget's label on its socket: what stood there, and what was put there. @type {WeakMap<object, {theirs?: string, ours?: string}>} */
const labels = new WeakMap();

/** @param {{nodes: any[]}} graph @returns {boolean} */
const holdsOurs = (graph) => graph.nodes.some((node) => (node.isSubgraphNode() ? holdsOurs(node.subgraph) : isOurs(node.type)));

/** @param {Border} border @param {Socket | undefined} inside the socket that it leads to */
function nameBorder(border, inside) {
  if (!before.has(border)) {
    before.set(border, border.localized_name);
    const save = border.asSerialisable;
    border.asSerialisable = () => ({ ...save.call(border), localized_name: before.get(border) });
  }
  border.localized_name = shownAs(border.name, inside) ?? before.get(border);
}

/** @param {Socket} input @param {{label?: string} | undefined} widget that it belongs to @param {Border} border */
function nameWidget(input, widget, border) {
  const known = labels.get(input) ?? { theirs: input.label };
  labels.set(input, known);
  if (input.label !== known.ours) known.theirs = input.label; // by hand
  const wanted = border.localized_name ?? input.name;
  if (!widget || known.theirs || widget.label === wanted) return;
  widget.label = wanted;
  known.ours = input.label;
}

/** @param {any} node of a subgraph */
function name(node) {
  const { subgraph, inputs, outputs } = node;
  const end = (/** @type {Border} */ { linkIds }) => subgraph.getLink(linkIds[0]);
  for (const [i, border] of subgraph.inputs.entries()) {
    const link = end(border);
    nameBorder(border, link && subgraph.getNodeById(link.target_id)?.inputs[link.target_slot]);
    if (!inputs[i]) continue;
    inputs[i].localized_name = border.localized_name;
    nameWidget(inputs[i], node.getWidgetFromSlot(inputs[i]), border);
  }
  for (const [i, border] of subgraph.outputs.entries()) {
    const link = end(border);
    nameBorder(border, link && subgraph.getNodeById(link.origin_id)?.outputs[link.origin_slot]);
    if (outputs[i]) outputs[i].localized_name = border.localized_name;
  }
  for (const slotType of [1, 2]) node.graph.trigger("node:slot-label:changed", { nodeId: node.id, slotType }); // Nodes 2.0 draws them anew
}

/** @param {any} node of a subgraph */
function keepOutOfFiles(node) {
  const save = node.onSerialize;
  node.onSerialize = (/** @type {{inputs?: Socket[], outputs?: Socket[]}} */ saved) => {
    save?.call(node, saved);
    for (const way of /** @type {const} */ (["inputs", "outputs"])) {
      for (const [i, socket] of (saved[way] ?? []).entries()) {
        const border = node.subgraph[way][i];
        if (before.has(border)) socket.localized_name = before.get(border);
        const label = labels.get(node[way][i]);
        if (label?.ours && socket.label === label.ours) socket.label = label.theirs;
      }
    }
  };
}

/** Those inside first: a subgraph may lead to another's sockets. @param {{nodes: any[]}} graph */
function nameAll(graph) {
  for (const node of graph.nodes.filter((one) => one.isSubgraphNode())) {
    nameAll(node.subgraph);
    if (holdsOurs(node.subgraph)) name(node);
  }
}

let due = false;

function show() {
  due = false;
  nameAll(/** @type {any} */ (app.rootGraph));
  app.canvas.setDirty(true, true);
}

/** Once, after what goes on now: by then a node that is made or pasted is on its graph. */
function showSoon() {
  if (!due) setTimeout(show);
  due = true;
}

app.registerExtension({
  name: "dit-blocks.subgraph-names",
  init() {
    /** @type {any} */ (app.ui.settings).addEventListener("Comfy.Locale.change", showSoon);
  },
  nodeCreated(node) {
    if (!node.isSubgraphNode()) return;
    keepOutOfFiles(node);
    showSoon();
  },
  afterConfigureGraph: show,
});

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./language.js";

// DiT Denoise Step and its subgraph blueprint take each other's place: they have the same sockets and widgets, by name.

const STEP = "DiTBlocksDenoiseStep";
const BLUEPRINT = "DiT Denoise Step (exploded)";
const OWN = new Set(["mode", "blocks"]); // its widgets that the step does not have

/** @typedef {{ nodes: SavedNode[], definitions: { subgraphs: SavedSubgraph[] } }} Blueprint */

/** @type {Blueprint} The menu has no entry of ours until it has come. */
let blueprint;

async function fetchBlueprint() {
  const answer = await api.fetchApi("/global_subgraphs");
  const listed = answer.ok ? await answer.json() : {};
  const id = Object.keys(listed).find((key) => listed[key].name === BLUEPRINT);
  return id && JSON.parse((await (await api.fetchApi(`/global_subgraphs/${id}`)).json()).data);
}

// --- swapping ---

/**
 * One undo step.
 * @param {Graph} graph
 * @param {() => void} act
 */
function change(graph, act) {
  app.canvas.emitBeforeChange();
  graph.beforeChange();
  try {
    act();
  } finally {
    graph.afterChange();
    app.canvas.emitAfterChange();
  }
}

/** @type {(to: GraphNode, from: GraphNode) => void} */
function copyValues(to, from) {
  for (const widget of to.widgets ?? []) {
    const source = from.widgets?.find(({ name }) => name === widget.name);
    if (source) widget.value = source.value;
  }
}

/**
 * Give `fresh` all that `old` has: values, wires, title and looks; then take `old` out.
 * @param {GraphNode} fresh
 * @param {ComfyNode} old
 */
function takePlace(fresh, old) {
  const { graph, mode, color, bgcolor } = old;
  copyValues(fresh, old);
  for (const link of [...graph.links.values()]) {
    const { inputNode, input, outputNode, output, subgraphInput, subgraphOutput } = link.resolve(graph);
    const inlet = inputNode === old && fresh.inputs.find(({ name }) => name === input?.name);
    const outlet = outputNode === old && output && fresh.outputs[old.outputs.indexOf(output)];
    if (inlet && subgraphInput) subgraphInput.connect(inlet, fresh, link.parentId);
    else if (inlet && outputNode && output) outputNode.connectSlots(output, fresh, inlet, link.parentId);
    else if (outlet && subgraphOutput) subgraphOutput.connect(outlet, fresh, link.parentId);
    else if (outlet && inputNode && input) fresh.connectSlots(outlet, inputNode, input, link.parentId);
  }
  if (old.title !== old.constructor.title) fresh.title = old.title;
  Object.assign(fresh, { mode, color, bgcolor });
  const [width, height] = fresh.computeSize();
  fresh.setSize([Math.max(width, old.size[0]), Math.max(height, old.size[1])]);
  graph.remove(old);
  app.canvas.selectItems([fresh]);
}

/** @param {ComfyNode} node */
function explode(node) {
  change(node.graph, () => {
    const { nodes, definitions } = structuredClone(blueprint);
    // As the front end itself puts a blueprint down: with ids of its own, so that two of them share nothing.
    const pasted = app.canvas._deserializeItems({ nodes, subgraphs: definitions.subgraphs }, { position: node.pos });
    const [exploded] = /** @type {SubgraphNode[]} */ (pasted?.created ?? []);
    // Unpack Subgraph keeps the stages' own values and forgets those of the subgraph's widgets.
    for (const stage of exploded.subgraph.nodes) copyValues(stage, node);
    const lost = node.widgets.filter(({ name }) => !exploded.widgets.some((widget) => widget.name === name));
    exploded.properties.kept = Object.fromEntries(lost.map(({ name, value }) => [name, value]));
    takePlace(exploded, node);
  });
}

/** @param {ComfyNode} node */
function collapse(node) {
  change(node.graph, () => {
    const step = LiteGraph.createNode(STEP);
    step.pos = [node.pos[0], node.pos[1]];
    node.graph.add(step);
    const kept = /** @type {Record<string, any>} */ (node.properties.kept ?? {}); // nothing in one that came from the node search
    for (const widget of step.widgets) widget.value = kept[widget.name] ?? widget.value;
    takePlace(step, node);
  });
}

// --- whether it may be swapped ---

/** @type {(node: GraphNode, name: string) => boolean} */
const wired = (node, name) => node.inputs.some((input) => input.name === name && input.link != null);

/** @type {(saved: SavedNode, index: number) => unknown} */
const savedValue = ({ widgets_values }, index) => widgets_values?.[index];

/**
 * A subgraph's wires as text, whatever its nodes' ids are. Each type of node is there once.
 * @param {SavedSubgraph} subgraph
 */
function wires({ nodes, links = [], inputs = [], outputs = [] }) {
  const byId = Object.fromEntries(nodes.map((node) => [node.id, node]));
  return links
    .map(({ id, origin_id, origin_slot, target_id, target_slot }) => {
      const [origin, target] = [byId[origin_id], byId[target_id]];
      const from = origin ? `${origin.type} ${origin_slot}` : inputs[origin_slot].name;
      const to = target ? `${target.type} ${target.inputs?.find(({ link }) => link === id)?.name}` : outputs[target_slot].name;
      return `${from} > ${to}`;
    })
    .sort()
    .join("\n");
}

/** @type {(node: GraphNode, saved: SavedNode) => boolean} */
function hasItsValues(node, saved) {
  /** @type {(widget: Widget, index: number) => boolean} */
  const same = (widget, index) => widget.serialize === false || wired(node, widget.name) || widget.value === savedValue(saved, index);
  return node.mode === 0 && (node.widgets ?? []).every(same);
}

/** @param {SubgraphNode} node */
function isUnchanged({ subgraph }) {
  const original = blueprint.definitions.subgraphs[0];
  return (
    subgraph.nodes.length === original.nodes.length &&
    original.nodes.every((saved) => subgraph.nodes.some((node) => node.type === saved.type && hasItsValues(node, saved))) &&
    wires(subgraph.asSerialisable()) === wires(original)
  );
}

/**
 * The widgets that the step does not have stand as they came, with nothing wired in.
 * @param {SubgraphNode} node
 */
function hasNoSettings(node) {
  return node.widgets.every(
    ({ name, value }, index) => !OWN.has(name) || (value === savedValue(blueprint.nodes[0], index) && !wired(node, name)),
  );
}

/** @param {SubgraphNode} node */
function whyNotCollapse(node) {
  if (!isUnchanged(node)) return say("changed inside");
  return hasNoSettings(node) ? "" : say("{widgets} changed", { widgets: [...OWN].join(" or ") });
}

/** @param {ComfyNode} node */
function whyNotExplode(node) {
  const values = ["solver", "patch_method"].map((chosen) => node.widgets.find(({ name }) => name === chosen)?.value);
  const whole = values.find((value) => ["heun", "resample", "pi_resize"].includes(String(value)));
  return whole ? say("not with {value}", { value: whole }) : "";
}

/** @type {(label: string, whyNot: string, callback: () => void) => MenuItem} */
function menuItem(label, whyNot, callback) {
  return { content: whyNot ? `${label} (${whyNot})` : label, disabled: Boolean(whyNot), callback };
}

app.registerExtension({
  name: "dit-blocks.explode",

  async setup() {
    blueprint = await fetchBlueprint();
  },

  /** @param {ComfyNode} node */
  getNodeMenuItems(node) {
    if (!blueprint) return [];
    if (node.comfyClass === STEP) return [menuItem(say("Explode into stages"), whyNotExplode(node), () => explode(node))];
    if (!node.isSubgraphNode() || node.properties.exploded !== STEP) return [];
    return [menuItem(say("Collapse into DiT Denoise Step"), whyNotCollapse(node), () => collapse(node))];
  },
});

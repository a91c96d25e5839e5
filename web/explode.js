import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

// DiT Denoise Step and its subgraph blueprint take each other's place: they have the same sockets and widgets, by name.

const STEP = "DiTBlocksDenoiseStep";
const BLUEPRINT = "DiT Denoise Step (exploded)";
const OWN = new Set(["mode", "blocks"]); // its widgets that the step does not have
let blueprint;

async function fetchBlueprint() {
  const answer = await api.fetchApi("/global_subgraphs");
  const listed = answer.ok ? await answer.json() : {};
  const id = Object.keys(listed).find((key) => listed[key].name === BLUEPRINT);
  return id && JSON.parse((await (await api.fetchApi(`/global_subgraphs/${id}`)).json()).data);
}

// --- swapping ---

/** One undo step. */
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

function copyValues(to, from) {
  for (const widget of to.widgets ?? []) {
    const source = from.widgets.find(({ name }) => name === widget.name);
    if (source) widget.value = source.value;
  }
}

/** Give `fresh` all that `old` has: values, wires, title and looks; then take `old` out. */
function takePlace(fresh, old) {
  const { graph } = old;
  copyValues(fresh, old);
  for (const link of [...graph.links.values()]) {
    const { inputNode, input, outputNode, output, subgraphInput, subgraphOutput } = link.resolve(graph);
    if (inputNode === old) {
      const socket = fresh.inputs.find(({ name }) => name === input.name);
      if (subgraphInput) subgraphInput.connect(socket, fresh, link.parentId);
      else outputNode.connectSlots(output, fresh, socket, link.parentId);
    } else if (outputNode === old) {
      const socket = fresh.outputs[old.outputs.indexOf(output)];
      if (subgraphOutput) subgraphOutput.connect(socket, fresh, link.parentId);
      else fresh.connectSlots(socket, inputNode, input, link.parentId);
    }
  }
  if (old.title !== old.constructor.title) fresh.title = old.title;
  for (const key of ["mode", "color", "bgcolor"]) fresh[key] = old[key];
  fresh.setSize(fresh.computeSize().map((least, axis) => Math.max(least, old.size[axis])));
  graph.remove(old);
  app.canvas.selectItems([fresh]);
}

function explode(node) {
  change(node.graph, () => {
    const { nodes, definitions } = structuredClone(blueprint);
    // As the front end itself puts a blueprint down: with ids of its own, so that two of them share nothing.
    const { created } = app.canvas._deserializeItems({ nodes, subgraphs: definitions.subgraphs }, { position: node.pos });
    // Unpack Subgraph keeps the stages' own values and forgets those of the subgraph's widgets.
    for (const stage of created[0].subgraph.nodes) copyValues(stage, node);
    takePlace(created[0], node);
  });
}

function collapse(node) {
  change(node.graph, () => {
    const fresh = LiteGraph.createNode(STEP);
    fresh.pos = [...node.pos];
    node.graph.add(fresh);
    takePlace(fresh, node);
  });
}

// --- whether it may be swapped ---

const wired = (node, name) => node.inputs.some((input) => input.name === name && input.link != null);

/** A subgraph's wires as text, whatever its nodes' ids are. Each type of node is there once. */
function wires({ nodes, links, inputs, outputs }) {
  const byId = Object.fromEntries(nodes.map((node) => [node.id, node]));
  return links.map(({ id, origin_id, origin_slot, target_id, target_slot }) => {
    const [origin, target] = [byId[origin_id], byId[target_id]];
    const from = origin ? `${origin.type} ${origin_slot}` : inputs[origin_slot].name;
    return `${from} > ${target ? `${target.type} ${target.inputs.find(({ link }) => link === id)?.name}` : outputs[target_slot].name}`;
  }).sort().join("\n");
}

function hasItsValues(node, saved) {
  return node.mode === 0 && node.widgets.every((widget, index) =>
    widget.serialize === false || wired(node, widget.name) || widget.value === saved.widgets_values[index]);
}

function isUnchanged({ subgraph }) {
  const original = blueprint.definitions.subgraphs[0];
  return subgraph.nodes.length === original.nodes.length
    && original.nodes.every((saved) => subgraph.nodes.some((node) => node.type === saved.type && hasItsValues(node, saved)))
    && wires(subgraph.asSerialisable()) === wires(original);
}

/** The widgets that the step does not have stand as they came, with nothing wired in. */
function hasNoSettings(node) {
  return node.widgets.every(({ name, value }, index) =>
    !OWN.has(name) || (value === blueprint.nodes[0].widgets_values[index] && !wired(node, name)));
}

function whyNotCollapse(node) {
  if (!isUnchanged(node)) return "changed inside";
  return hasNoSettings(node) ? "" : `${[...OWN].join(" or ")} changed`;
}

function whyNotExplode(node) {
  const chosen = (widget) => node.widgets.find(({ name }) => name === widget)?.value;
  const whole = [chosen("solver"), chosen("patch_method")].find((value) => ["heun", "resample", "pi_resize"].includes(value));
  return whole ? `not with ${whole}` : "";
}

function menuItem(label, whyNot, callback) {
  return { content: whyNot ? `${label} (${whyNot})` : label, disabled: Boolean(whyNot), callback };
}

app.registerExtension({
  name: "dit-blocks.explode",

  async setup() {
    blueprint = await fetchBlueprint();
  },

  getNodeMenuItems(node) {
    if (!blueprint) return [];
    if (node.comfyClass === STEP) return [menuItem("Explode into stages", whyNotExplode(node), () => explode(node))];
    if (node.properties.exploded !== STEP) return [];
    return [menuItem("Collapse into DiT Denoise Step", whyNotCollapse(node), () => collapse(node))];
  },
});

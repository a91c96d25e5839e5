import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./language.js";
import { placeOf } from "./places.js";

// DiT Denoise Step and its subgraph blueprint take each other's place: they have the same sockets and widgets, by name. DiT Denoise becomes a
// loop over that subgraph where the host has loops; elsewhere its first step comes out of it.

const STEP = "DiTBlocksDenoiseStep";
const DENOISE = "DiTBlocksDenoise";
const SCHEDULES = new Set(["DiTBlocksSchedule", "BasicScheduler"]);
const UNEVEN = new Set(["ddim_uniform", "beta"]); // schedulers that may give another number of steps than asked
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
export function change(graph, act) {
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

/**
 * The blueprint on the graph, with a node's values.
 * @param {ComfyNode} node
 * @param {[number, number]} position
 */
function putStages(node, position) {
  const { nodes, definitions } = structuredClone(blueprint);
  // As the front end itself puts a blueprint down: with ids of its own, so that two of them share nothing.
  const pasted = app.canvas._deserializeItems({ nodes, subgraphs: definitions.subgraphs }, { position });
  const [exploded] = /** @type {SubgraphNode[]} */ (pasted?.created ?? []);
  // Unpack Subgraph keeps the stages' own values and forgets those of the subgraph's widgets.
  for (const stage of exploded.subgraph.nodes) copyValues(stage, node);
  return exploded;
}

/** @param {ComfyNode} node */
function explode(node) {
  change(node.graph, () => {
    const exploded = putStages(node, node.pos);
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

// --- DiT Denoise ---

/** @type {(node: GraphNode, name: string) => number} */
export const inputNamed = (node, name) => node.inputs.findIndex((input) => input.name === name);

/** @type {(node: GraphNode, name: string, value: string | number) => void} */
export function setValue(node, name, value) {
  const widget = node.widgets?.find((one) => one.name === name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value);
}

/** @type {(node: GraphNode, from: number, to: GraphNode, name: string) => void} */
export const wire = (node, from, to, name) => node.connect(from, to, inputNamed(to, name));

/**
 * Wire into an input of `to` what comes into the input of this name of `from`.
 * @param {ComfyNode} from
 * @param {GraphNode} to
 * @param {string} name
 * @param {string} as
 */
export function copyWire(from, to, name, as = name) {
  const link = from.graph.getLink(from.inputs[inputNamed(from, name)]?.link);
  if (!link) return;
  const { outputNode, output, subgraphInput } = link.resolve(from.graph);
  const inlet = to.inputs[inputNamed(to, as)];
  if (subgraphInput) subgraphInput.connect(inlet, to, link.parentId);
  else if (outputNode && output) outputNode.connectSlots(output, to, inlet, link.parentId);
}

/**
 * Let another node's first output go where a node's first output went.
 * @param {ComfyNode} from
 * @param {GraphNode} to
 */
function moveOutput(from, to) {
  for (const link of [...from.graph.links.values()].filter(({ origin_id, origin_slot }) => origin_id === from.id && origin_slot === 0)) {
    const { inputNode, input, subgraphOutput } = link.resolve(from.graph);
    if (subgraphOutput) subgraphOutput.connect(to.outputs[0], to, link.parentId);
    else if (inputNode && input) to.connectSlots(to.outputs[0], inputNode, input, link.parentId);
  }
}

/** The step to stop before, where the wires tell. @param {ComfyNode} node @returns {number | null} */
function endOf(node) {
  const place = placeOf(node);
  const [from, end] = [place.origin("sigmas"), place.value("end_step")];
  const [steps, scheduler] = [from?.value("steps"), from?.value("scheduler")];
  if (!SCHEDULES.has(String(from?.kind)) || typeof steps !== "number" || typeof end !== "number") return null;
  return UNEVEN.has(String(scheduler)) ? null : Math.min(steps, end);
}

/** @param {ComfyNode} node */
function explodeIntoLoop(node) {
  change(node.graph, () => {
    const { graph, pos } = node;
    const [start, end] = ["StartLoop", "EndLoop"].map((type) => LiteGraph.createNode(type));
    [start.pos, end.pos] = [
      [pos[0] - 320, pos[1]],
      [pos[0] + 400, pos[1]],
    ];
    graph.add(start);
    graph.add(end);
    setValue(start, "mode", "For");
    setValue(start, "mode.start_iteration_index", Number(placeOf(node).value("start_step")));
    setValue(start, "mode.max_iteration", Number(endOf(node)));
    const stages = putStages(node, pos);
    copyValues(stages, node);
    for (const name of ["dit", "sigmas", "positive", "negative", "cfg", "solver"]) copyWire(node, stages, name);
    copyWire(node, start, "tokens", "initial_iteration_value");
    moveOutput(node, end);
    wire(start, outputNamed(start, "current_iteration_value"), stages, "tokens");
    wire(start, outputNamed(start, "iteration_index"), stages, "step");
    wire(stages, 0, end, "output_value");
    wire(stages, 0, end, "next_iteration_value");
    graph.remove(node);
    app.canvas.selectItems([start, stages, end]);
  });
}

/** @type {(node: GraphNode, name: string) => number} */
const outputNamed = (node, name) => node.outputs.findIndex((output) => output.name === name);

/** The first step before the others, which stay in the node. @param {ComfyNode} node */
function explodeFirstStep(node) {
  change(node.graph, () => {
    const stages = putStages(node, [node.pos[0] - 360, node.pos[1]]);
    copyValues(stages, node);
    const first = Number(placeOf(node).value("start_step"));
    setValue(stages, "step", first);
    for (const stage of stages.subgraph.nodes.filter(({ widgets }) => widgets?.some(({ name }) => name === "step")))
      setValue(stage, "step", first);
    for (const name of ["dit", "tokens", "sigmas", "positive", "negative", "cfg", "solver"]) copyWire(node, stages, name);
    wire(stages, 0, node, "tokens");
    setValue(node, "start_step", first + 1);
    app.canvas.selectItems([stages]);
  });
}

/** @param {ComfyNode} node */
function whyNotDenoise(node) {
  const given = ["patch_schedule", "sampler", "guider", "start_step"].find((name) => wired(node, name));
  const taken = node.outputs.slice(1).find(({ links }) => links?.length);
  if (given || taken) return say("not with {value} wired", { value: given ?? taken?.name });
  return whyNotExplode(node);
}

/** Whether this host has Start Loop and End Loop. */
const hasLoops = () => "StartLoop" in LiteGraph.registered_node_types && "EndLoop" in LiteGraph.registered_node_types;

/** @param {ComfyNode} node */
function denoiseItem(node) {
  if (hasLoops()) {
    const whyNot = whyNotDenoise(node) || (endOf(node) == null ? say("the number of steps is not known") : "");
    return menuItem(say("Explode into a loop of stages"), whyNot, () => explodeIntoLoop(node));
  }
  return menuItem(say("Explode its first step into stages"), whyNotDenoise(node), () => explodeFirstStep(node));
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
  const whole = values.find((value) => ["heun", "dpmpp_2m_sde", "resample", "pi_resize"].includes(String(value)));
  return whole ? say("not with {value}", { value: whole }) : "";
}

/** @type {(label: string, whyNot: string, callback: () => void) => MenuItem} */
export function menuItem(label, whyNot, callback) {
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
    if (node.comfyClass === DENOISE) return [denoiseItem(node)];
    if (!node.isSubgraphNode() || node.properties.exploded !== STEP) return [];
    return [menuItem(say("Collapse into DiT Denoise Step"), whyNotCollapse(node), () => collapse(node))];
  },
});

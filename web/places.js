// Where nodes are and what their wires bring, through Reroutes and over the borders of subgraphs. Nothing here knows of a page.

const FROM_OUTSIDE = -10; // what a wire in a subgraph comes from that begins outside it
const BYPASSED = 4;

/** A node, and the subgraph nodes that it is inside of, outermost first: one subgraph may be shown by several nodes. */
export class Place {
  /** @param {ComfyNode} node @param {SubgraphNode[]} above */
  constructor(node, above) {
    this.node = node;
    this.above = above;
  }

  /** As a run names it: "5", or "3:5" in the subgraph of node 3. */
  get id() {
    return [...this.above, this.node].map(({ id }) => id).join(":");
  }

  get kind() {
    return this.node.comfyClass;
  }

  /** The place that the wire into an input comes from. @param {string} name */
  origin(name) {
    return origin(this.node, this.above, inputOf(this.node, name));
  }

  /** A widget's value; undefined where a wire brings it. @param {string} name @returns {unknown} */
  value(name) {
    const { node, above } = this;
    const input = inputOf(node, name);
    if (input?.link == null)
      return ((input && node.getWidgetFromSlot(input)) ?? node.widgets?.find((widget) => widget.name === name))?.value;
    const link = node.graph.getLink(input.link);
    const around = /** @type {ComfyNode | undefined} */ (above.at(-1));
    if (!link || !around || Number(link.origin_id) !== FROM_OUTSIDE) return undefined;
    return new Place(around, above.slice(0, -1)).value(around.inputs[link.origin_slot].name);
  }

  /** All places whose results it needs, nearest first. */
  ancestors() {
    /** @type {Map<string, Place>} */
    const found = new Map([[this.id, this]]);
    for (const here of found.values()) {
      for (const input of here.node.inputs ?? []) {
        const before = origin(here.node, here.above, input);
        if (before && !found.has(before.id)) found.set(before.id, before);
      }
    }
    return [...found.values()].slice(1);
  }
}

/** @param {ComfyNode} node @param {string} name */
const inputOf = (node, name) => node.inputs?.find((input) => input.name === name);

/** @param {GraphNode} node @param {SubgraphNode[]} above @param {{link?: any} | undefined} input @returns {Place | null} */
function origin(node, above, input) {
  const link = input?.link == null ? undefined : node.graph?.getLink(input.link);
  return link ? start(/** @type {Graph} */ (node.graph), above, link) : null;
}

/** Where a wire on a graph begins. @param {Graph} graph @param {SubgraphNode[]} above @param {Link} link @returns {Place | null} */
function start(graph, above, link) {
  if (Number(link.origin_id) === FROM_OUTSIDE) {
    const around = above.at(-1);
    return around ? origin(around, above.slice(0, -1), around.inputs[link.origin_slot]) : null;
  }
  const node = graph.getNodeById(link.origin_id);
  if (!node) return null;
  if (node.type === "Reroute") return origin(node, above, node.inputs[0]);
  if (node.mode === BYPASSED) {
    return origin(
      node,
      above,
      node.inputs.find(({ type }) => type === node.outputs[link.origin_slot].type),
    );
  }
  if (!node.isSubgraphNode()) return new Place(/** @type {ComfyNode} */ (node), above);
  const [inner] = node.subgraph.outputNode.slots[link.origin_slot].getLinks();
  return inner ? start(node.subgraph, [...above, node], inner) : null;
}

/** Every node of a graph and of the subgraphs in it. @param {Graph} graph @param {SubgraphNode[]} above @returns {Generator<Place>} */
export function* places(graph, above = []) {
  for (const node of graph.nodes) {
    if (node.isSubgraphNode()) yield* places(node.subgraph, [...above, node]);
    else yield new Place(/** @type {ComfyNode} */ (node), above);
  }
}

/** Where a node is; in a subgraph that several nodes show, where the first of them shows it. @param {ComfyNode} node */
export function placeOf(node) {
  for (const place of places(node.graph.rootGraph)) if (place.node === node) return place;
  return new Place(node, []);
}

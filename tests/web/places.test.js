import assert from "node:assert/strict";
import { test } from "node:test";
import { Place, placeOf, places } from "../../web/places.js";

/** A graph as litegraph has it: nodes by name, each with [input, "from" or "from.slot"]; "in.2" is the subgraph's third input. */
function makeGraph(nodes, outputs = []) {
  const graph = { nodes: [], links: [], getLink: (id) => graph.links[id], getNodeById: (id) => graph.nodes.find((node) => node.id === id) };
  const link = (from) => {
    const [origin, slot = "0"] = from.split(".");
    graph.links.push({ origin_id: origin === "in" ? -10 : origin, origin_slot: Number(slot) });
    return graph.links.length - 1;
  };
  for (const [id, { inputs = {}, widgets = {}, subgraph, ...rest }] of Object.entries(nodes)) {
    graph.nodes.push({
      id,
      type: id,
      comfyClass: id,
      graph,
      subgraph,
      mode: 0,
      outputs: [{ type: "*" }],
      inputs: Object.entries(inputs).map(([name, from]) => ({ name, type: "*", link: from === null ? null : link(from) })),
      widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
      isSubgraphNode: () => subgraph !== undefined,
      getWidgetFromSlot: () => undefined,
      ...rest,
    });
  }
  graph.outputNode = { slots: outputs.map((from) => ({ getLinks: () => (from ? [graph.links[link(from)]] : []) })) };
  graph.rootGraph = graph;
  return graph;
}

const within = (root, ...graphs) => {
  for (const graph of graphs) graph.rootGraph = root;
  return root;
};
const at = (graph, id) => [...places(graph)].find((place) => place.id === id);
const ids = (found) => found.map(({ id }) => id);

test("wires lead through reroutes and what is bypassed", () => {
  const graph = makeGraph({
    load: {},
    reroute: { type: "Reroute", inputs: { "": "load" } },
    off: { mode: 4, inputs: { x: "reroute" } },
    end: { inputs: { x: "off", y: null } },
  });
  assert.equal(at(graph, "end").origin("x").id, "load");
  assert.equal(at(graph, "end").origin("y"), null);
  assert.equal(at(graph, "end").origin("z"), null);
  assert.deepEqual(ids(at(graph, "end").ancestors()), ["load"]);
});

test("wires lead into subgraphs and out of them", () => {
  const inner = makeGraph(
    { patchify: { inputs: { latent: "in.0", patch_size: "in.1" } }, denoise: { inputs: { tokens: "patchify", dit: "in.2" } } },
    ["denoise", ""],
  );
  const root = within(
    makeGraph({
      load: {},
      empty: {},
      box: { subgraph: inner, inputs: { latent: "empty", size: null, dit: "load" }, widgets: { size: 4 } },
      save: { inputs: { images: "box.0", other: "box.1" } },
    }),
    inner,
  );
  const save = at(root, "save");
  assert.equal(save.origin("images").id, "box:denoise");
  assert.equal(save.origin("other"), null);
  assert.deepEqual(ids(save.ancestors()), ["box:denoise", "box:patchify", "load", "empty"]);
  const patchify = placeOf(inner.nodes[0]);
  assert.equal(patchify.id, "box:patchify");
  assert.equal(patchify.origin("latent").id, "empty");
  assert.equal(patchify.value("patch_size"), 4); // the widget is on the subgraph's node
});

test("a subgraph that is there twice has places of its own for each", () => {
  const inner = makeGraph({ patchify: { inputs: { latent: "in.0", patch_size: "in.1" } } }, ["patchify"]);
  const box = (size, latent) => ({ subgraph: inner, inputs: { latent, size: null }, widgets: { size } });
  const root = within(makeGraph({ one: {}, two: {}, a: box(2, "one"), b: box(8, "two"), save: { inputs: { images: "b" } } }), inner);
  const [behind, latent] = at(root, "save").ancestors();
  assert.deepEqual([behind.id, behind.value("patch_size"), latent.id], ["b:patchify", 8, "two"]);
  assert.equal(at(root, "a:patchify").value("patch_size"), 2);
});

test("a value that a wire brings is not known", () => {
  const graph = makeGraph({ number: {}, node: { inputs: { steps: "number", cfg: null }, widgets: { steps: 20, cfg: 3 } } });
  assert.equal(at(graph, "node").value("steps"), undefined);
  assert.equal(at(graph, "node").value("cfg"), 3);
  assert.equal(at(graph, "node").value("none"), undefined);
});

test("a node of a subgraph that no node shows has a place too", () => {
  const lonely = within(makeGraph({}), makeGraph({ patchify: {} }));
  const [node] = makeGraph({ patchify: {} }).nodes;
  node.graph = { ...node.graph, rootGraph: lonely };
  assert.deepEqual([placeOf(node).id, new Place(node, []).kind], ["patchify", "patchify"]);
});

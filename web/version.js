import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { isOurs, note, unknownTypes } from "./version_note.js";

// A workflow with the pack's nodes says in `extra.dit_blocks` which version of the pack it is for.

/** @type {string} */
let own;
/** @type {unknown} */
let saved;
let told = "";

function sign() {
  if (own) app.rootGraph.extra.dit_blocks = { version: own };
}

app.registerExtension({
  name: "dit-blocks.version",

  async setup() {
    const answer = await api.fetchApi("/dit_blocks/version");
    if (answer.ok) own = (await answer.json()).version;
  },

  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (isOurs(node.comfyClass)) sign();
  },

  beforeConfigureGraph(graph) {
    saved = graph.extra?.dit_blocks?.version;
  },

  afterConfigureGraph(missing) {
    if (!own) return;
    const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
    if (graphs.some(({ nodes }) => nodes.some(({ type }) => isOurs(type)))) sign();
    // Undo loads the graph anew.
    const line = note(saved, own, unknownTypes(missing));
    if (line && line !== told) app.extensionManager.toast.add({ severity: "warn", summary: line, life: 15_000 });
    told = line || told;
  },
});

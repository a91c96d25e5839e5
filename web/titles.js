import { app } from "../../scripts/app.js";
import { inEditorsLanguage } from "./language.js";
import { places } from "./places.js";
import { inBoth } from "./titles_zh.js";

// Titles of nodes and groups in the examples are in the editor's language, as their notes are, until they are changed by hand.

/** @param {{title: string}} one */
function retitle(one) {
  const both = inBoth(one.title);
  if (both) one.title = inEditorsLanguage(both);
}

function show() {
  const inside = [...places(app.rootGraph)].map(({ node }) => node);
  if (!inside.some(({ properties }) => properties?.texts)) return; // only the examples have notes in two languages
  for (const graph of new Set([app.rootGraph, ...inside.map((node) => node.graph)])) {
    const { nodes, groups } = /** @type {any} */ (graph);
    for (const one of [...nodes, ...groups]) retitle(one);
  }
  app.canvas.setDirty(true, true);
}

app.registerExtension({
  name: "dit-blocks.titles",
  init() {
    /** @type {any} */ (app.ui.settings).addEventListener("Comfy.Locale.change", () => setTimeout(show));
  },
  afterConfigureGraph: show,
});

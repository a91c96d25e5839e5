import { app } from "../../scripts/app.js";
import { inEditorsLanguage } from "./language.js";
import { places } from "./places.js";
import { inBoth } from "./titles_zh.js";

// Titles of nodes, groups and subgraphs in the examples are in the editor's language, as their notes are, until they are changed by hand.

/** @template {string} K @param {Record<K, string>} one @param {K} key of its title */
function retitle(one, key) {
  const both = inBoth(one[key]);
  if (both) one[key] = /** @type {any} */ (inEditorsLanguage(both));
}

function show() {
  const inside = [...places(app.rootGraph)].map(({ node }) => node);
  if (!inside.some(({ properties }) => properties?.texts)) return; // only the examples have notes in two languages
  for (const graph of new Set([app.rootGraph, ...inside.map((node) => node.graph)])) {
    const { nodes, groups } = /** @type {any} */ (graph);
    for (const one of [...nodes, ...groups]) retitle(one, "title");
    if (graph !== app.rootGraph) retitle(/** @type {any} */ (graph), "name"); // what the way back shows
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

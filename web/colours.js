import { app } from "../../scripts/app.js";

// Colours of the pack's own sockets and wires, of Okabe & Ito's set that colour-blind people tell apart. Core has taken the other hues.

/** @type {Record<string, string>} */
const COLOURS = { DIT: "#e69f00", DIT_TOKENS: "#56b4e9", DIT_HIDDEN: "#cc79a7", DIT_PATCH_SCHEDULE: "#f0e442" };

function paint() {
  for (const [type, colour] of Object.entries(COLOURS)) {
    app.canvas.default_connection_color_byType[type] = colour;
    /** @type {any} */ (app.canvas.constructor).link_type_colors[type] = colour;
    document.documentElement.style.setProperty(`--color-datatype-${type}`, colour);
  }
  app.canvas.setDirty(true, true);
}

// A colour palette, once it is loaded, takes the colours of all types that it does not name.
app.registerExtension({
  name: "dit-blocks.colours",
  setup() {
    /** @type {any} */ (app.ui.settings).addEventListener("Comfy.ColorPalette.change", () => setTimeout(paint, 500));
  },
  afterConfigureGraph: paint,
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("DiTBlocks")) paint();
  },
});

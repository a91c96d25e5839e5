import { app } from "../../scripts/app.js";
import { inEditorsLanguage } from "./language.js";
import { places } from "./places.js";

// The notes of the examples say the same in two languages: a note shows the editor's, until its words are changed by hand.

const FONT = "12px"; // ComfyUI's 10 px can't be read where a whole workflow is in view

/** @type {HTMLStyleElement | undefined} for Nodes 2.0, which makes a note's element itself */
let sheet;

function show() {
  const ids = [];
  for (const { node } of places(app.rootGraph)) {
    const texts = /** @type {{en: string, zh?: string} | undefined} */ (node.properties?.texts);
    const [widget] = texts ? (node.widgets ?? []) : [];
    if (!texts || !widget) continue;
    const { element } = /** @type {{element?: HTMLElement}} */ (widget);
    element?.style.setProperty("--comfy-textarea-font-size", FONT);
    ids.push(node.id);
    const wanted = inEditorsLanguage(texts);
    if (widget.value !== wanted && Object.values(texts).includes(String(widget.value))) {
      widget.value = wanted;
      widget.callback?.(wanted);
    }
  }
  sheet ??= document.head.appendChild(document.createElement("style"));
  sheet.textContent = ids.map((id) => `[data-node-id="${id}"] { --comfy-textarea-font-size: ${FONT} }`).join("\n");
}

app.registerExtension({
  name: "dit-blocks.notes",
  init() {
    /** @type {any} */ (app.ui.settings).addEventListener("Comfy.Locale.change", () => setTimeout(show));
  },
  afterConfigureGraph: show,
});

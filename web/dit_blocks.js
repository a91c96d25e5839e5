import { app } from "../../scripts/app.js";
import { pictureLanguage, say, speak } from "./language.js";

// Nodes that say something about their result (shapes, token arithmetic) show it as text on themselves.
const REPORTING = new Set(["DiTBlocksVAEEncode", "DiTBlocksPatchifyImage", "DiTBlocksParity"]);

function reportElement() {
  const element = document.createElement("div");
  element.className = "dit-blocks-report";
  Object.assign(element.style, {
    position: "relative",
    fontSize: "12px",
    lineHeight: "1.35",
    padding: "4px 8px",
    color: "var(--input-text)",
    background: "var(--comfy-input-bg)",
    borderRadius: "4px",
    overflow: "auto",
  });
  return element;
}

app.registerExtension({
  name: "dit-blocks",

  init() {
    speak(app.extensionManager.setting.get("Comfy.Locale"));
    const settings = /** @type {any} */ (app.ui.settings); // which tells of a change before it has stored it
    settings.addEventListener("Comfy.Locale.change", (/** @type {CustomEvent} */ { detail }) => speak(detail.value));
  },

  /** @param {ComfyNode} node */
  nodeCreated(node) {
    const ours = node.comfyClass?.startsWith("DiTBlocks");
    const language = /** @type {any} */ (ours && node.widgets?.find(({ name }) => name === "language"));
    if (language) language.serializeValue = () => (language.value === "auto" ? pictureLanguage() : language.value); // in what is run
    if (!REPORTING.has(node.comfyClass)) return;
    const element = reportElement();
    const says = element.appendChild(document.createElement("div"));
    const show = () => {
      const before = node.comfyClass === "DiTBlocksParity" ? say("run to compare with the whole model") : say("run to see the arithmetic");
      says.textContent = String(node.properties.report ?? before);
    };
    show();
    const widget = node.addDOMWidget("report", "dit-blocks-report", element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => 56,
    });
    widget.serialize = false;
    const executed = node.onExecuted;
    node.onExecuted = (output) => {
      executed?.call(node, output);
      if (!output?.text) return;
      node.properties.report = output.text.join("\n");
      show();
    };
    const configured = node.onConfigure;
    node.onConfigure = (saved) => {
      configured?.call(node, saved);
      show();
    };
  },
});

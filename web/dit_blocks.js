import { app } from "../../scripts/app.js";

// Nodes that say something about their result (shapes, token arithmetic) show it as text on themselves.
const REPORTING = new Set(["DiTBlocksVAEEncode", "DiTBlocksPatchify", "DiTBlocksPatchifyImage", "DiTBlocksRunBlocks",
  "DiTBlocksParity"]);

function reportElement(node) {
  const element = document.createElement("div");
  element.className = "dit-blocks-report";
  Object.assign(element.style, {
    fontSize: "11px", lineHeight: "1.35", padding: "4px 8px", color: "var(--input-text)",
    background: "var(--comfy-input-bg)", borderRadius: "4px", overflow: "auto",
  });
  element.textContent = node.properties.report ?? "run to see the arithmetic";
  return element;
}

app.registerExtension({
  name: "dit-blocks",

  nodeCreated(node) {
    if (!REPORTING.has(node.comfyClass)) return;
    const element = reportElement(node);
    const widget = node.addDOMWidget("report", "dit-blocks-report", element, {
      serialize: false, hideOnZoom: false, getMinHeight: () => 48,
    });
    widget.serialize = false;
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (!output?.text) return;
      this.properties.report = output.text.join("\n");
      element.textContent = this.properties.report;
    };
    const configured = node.onConfigure;
    node.onConfigure = function () {
      configured?.apply(this, arguments);
      if (this.properties.report) element.textContent = this.properties.report;
    };
  },
});

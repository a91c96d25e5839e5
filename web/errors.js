import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { make, panelOf, RED } from "./panel.js";
import { places } from "./places.js";
import { isOurs } from "./version_note.js";

// The sentence that names the cause of an error, where it was made: on the node's own box and in a toast, not only behind "View details".

const MARK = "dit-blocks-error";

function clear() {
  for (const old of document.querySelectorAll(`.${MARK}`)) old.remove();
}

/** @param {ComfyNode} node @param {string} sentence */
function showOn(node, sentence) {
  const style = { position: "absolute", left: "0", right: "0", bottom: "0", maxHeight: "100%", overflow: "auto", padding: "4px 6px" };
  const line = make("div", { ...style, background: RED, color: "#fff", zIndex: "1" }, { role: "alert", class: MARK });
  line.textContent = sentence;
  line.addEventListener("click", () => line.remove());
  panelOf(node)?.append(line);
}

/** @param {{node_id?: unknown, node_type?: string, exception_message?: string}} detail */
function tell({ node_id, node_type, exception_message }) {
  const sentence = exception_message?.trim();
  if (!isOurs(node_type) || !sentence) return;
  const place = [...places(app.rootGraph)].find(({ id }) => id === String(node_id));
  if (place) showOn(place.node, sentence);
  app.extensionManager.toast.add({ severity: "error", summary: sentence, life: 20_000 });
}

app.registerExtension({
  name: "dit-blocks.errors",
  setup() {
    api.addEventListener("execution_start", clear);
    api.addEventListener("execution_error", ({ detail }) => tell(/** @type {any} */ (detail)));
  },
  beforeConfigureGraph: clear,
});

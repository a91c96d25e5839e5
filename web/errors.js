import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { errorInWords } from "./errors_zh.js";
import { make, panelOf, RED } from "./panel.js";
import { places } from "./places.js";
import { isOurs } from "./version_note.js";

// The sentence that names the cause of an error, where it was made: on the node's own box and in ComfyUI's message, which says only that a
// node failed, not only behind "View details". In a toast where there is no such message.

const MARK = "dit-blocks-error";
const MESSAGE = "[data-testid=error-overlay-messages] p";
const [SOON, LATE] = [100, 1500]; // milliseconds until ComfyUI's message is there

/** @type {{element: HTMLElement, theirs: string, sentence: string} | null} what stands in ComfyUI's message, and what it said */
let put = null;
let runs = 0;

/** Before other errors: ComfyUI writes its own words only where they differ from those it wrote before. */
function takeBack() {
  runs += 1;
  if (put && put.element.textContent === put.sentence) put.element.textContent = put.theirs;
  put = null;
}

function clear() {
  takeBack();
  for (const old of document.querySelectorAll(`.${MARK}`)) old.remove();
}

/** @param {string} sentence @param {boolean} otherwise whether a toast tells it where ComfyUI has no message */
async function tellOnTop(sentence, otherwise) {
  const run = runs;
  for (let waited = SOON; waited < LATE; waited += SOON) {
    await new Promise((done) => setTimeout(done, SOON));
    if (run !== runs) return;
    const element = /** @type {HTMLElement | null} */ (document.querySelector(MESSAGE));
    if (!element) continue;
    put = { element, theirs: element.textContent, sentence };
    element.textContent = sentence;
    element.style.setProperty("-webkit-line-clamp", "9");
    return;
  }
  if (otherwise) app.extensionManager.toast.add({ severity: "error", summary: sentence, life: 20_000 });
}

/** @param {string} id */
const placeNamed = (id) => [...places(app.rootGraph)].find((place) => place.id === id);

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
  if (!isOurs(node_type) || !exception_message?.trim()) return;
  const sentence = errorInWords(exception_message.trim());
  const place = placeNamed(String(node_id));
  if (place) showOn(place.node, sentence);
  tellOnTop(sentence, true);
}

/** What was refused before the run, a line each; "" where ComfyUI or another pack refused something too.
 * @param {Record<string, {class_type: string, errors: {type: string, details: string}[]}>} refused by node */
function inLines(refused) {
  const all = Object.entries(refused).flatMap(([id, { class_type, errors }]) => errors.map((error) => ({ id, class_type, ...error })));
  if (!all.every(({ class_type, type }) => isOurs(class_type) && type === "custom_validation_failed")) return "";
  const lines = all.map(({ id, details }) =>
    details.replace(/^\w+ - (.*)$/s, (_, rule) => `${placeNamed(id)?.node.title ?? id}: ${errorInWords(rule)}`),
  );
  return [...new Set(lines)].join("\n"); // a rule on two widgets is told at each
}

app.registerExtension({
  name: "dit-blocks.errors",
  setup() {
    const queue = api.queuePrompt.bind(api);
    api.queuePrompt = async (...given) => {
      takeBack();
      return queue(...given).catch((/** @type {any} */ error) => {
        const lines = inLines(error.response?.node_errors ?? {});
        if (lines) tellOnTop(lines, false);
        throw error;
      });
    };
    api.addEventListener("execution_start", clear);
    api.addEventListener("execution_error", ({ detail }) => tell(/** @type {any} */ (detail)));
  },
  beforeConfigureGraph: clear,
});

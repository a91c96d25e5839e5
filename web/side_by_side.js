import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./language.js";
import { isUndo, make } from "./panel.js";
import { places } from "./places.js";
import { viewUrl } from "./upstream.js";

// After a change of patch size and nothing else: the picture before and the one now, side by side until dismissed.

/** @typedef {{filename: string, subfolder: string, type: string}} File */
/** @typedef {Record<string, {class_type: string, inputs: Record<string, unknown>}>} Prompt */

// Inputs that say how a picture is cut, or that do not change it.
const FREE = new Set(["patch_size", "patch_method", "rows", "coarse_cfg", "selection", "filename_prefix", "quick_look", "capture_blocks"]);

/** All that a node's picture depends on, but for how it is cut: seed, prompts, schedule, wires. @param {Prompt} prompt @param {string} id */
function kept(prompt, id) {
  /** @type {Map<string, [string, unknown][]>} */
  const found = new Map();
  const waiting = [id];
  for (const here of waiting) {
    if (found.has(here) || !prompt[here]) continue;
    const inputs = Object.entries(prompt[here].inputs).filter(([name]) => !FREE.has(name));
    found.set(here, inputs);
    for (const [, value] of inputs) if (Array.isArray(value)) waiting.push(String(value[0]));
  }
  return JSON.stringify([...found].sort(([a], [b]) => a.localeCompare(b)));
}

/** @type {Map<string, number>} the patch size that each Patchify last ran with */
const sizes = new Map();
/** @type {Map<string, {label: string, file: File, kept: string}>} what each node that shows pictures showed last */
const shown = new Map();
/** @type {Map<string, File>} the pictures of the run that goes on */
const drawn = new Map();
/** @type {HTMLElement | null} */
let box = null;
let loads = 0; // of workflows
let began = 0; // after which of them the run began that goes on
/** @type {Map<string, Prompt>} what was queued, by the run's id */
const queued = new Map();

/** @param {string} label @param {File} file */
function figure(label, file) {
  const element = make("figure", { margin: "0" });
  const caption = make("figcaption", { textAlign: "center" });
  caption.textContent = label;
  element.append(make("img", { width: "192px", display: "block" }, { src: viewUrl(file), alt: label }), caption);
  return element;
}

function dismiss() {
  box?.remove();
  box = null;
}

/** @param {{label: string, file: File}[]} pictures */
function show(pictures) {
  dismiss();
  box = make(
    "div",
    {
      position: "fixed",
      left: "50%",
      bottom: "24px",
      transform: "translateX(-50%)",
      zIndex: "1000",
      display: "flex",
      gap: "8px",
      padding: "8px",
      font: "12px sans-serif",
      color: "var(--input-text)",
      background: "var(--comfy-menu-bg)",
      border: "1px solid var(--border-color)",
      borderRadius: "8px",
    },
    { role: "dialog", "aria-label": "before and now", class: "dit-blocks-side-by-side" },
  );
  const close = make("button", { alignSelf: "start", cursor: "pointer" }, { "aria-label": "dismiss" });
  close.textContent = "×";
  close.addEventListener("click", dismiss);
  box.append(...pictures.map(({ label, file }) => figure(label, file)), close);
  document.body.append(box);
}

/** The patch sizes that a picture was made with. @param {import("./places.js").Place | undefined} place */
function label(place) {
  const ran = place?.ancestors().filter(({ kind }) => kind === "DiTBlocksPatchify") ?? [];
  return ran
    .map(({ id }) => sizes.get(id))
    .filter(Boolean)
    .map((p) => `p = ${p}`)
    .join(", ");
}

/** @param {string} id @param {Record<string, any> | null} output */
function executed(id, output) {
  const facts = output?.dit_blocks?.[0];
  if (facts?.patch_size) sizes.set(id, facts.patch_size);
  if (output?.images?.[0]) drawn.set(id, output.images[0]);
}

let running = "";

/** @param {string} run */
function start(run) {
  running = run;
  began = loads;
  drawn.clear(); // of a run that was broken off
}

/** Only now has every node told what it ran with: those with a result kept from before do so last. */
function finished() {
  if (began !== loads) return; // another workflow has been loaded since
  const prompt = queued.get(running) ?? {};
  for (const [id, file] of drawn) {
    const now = { label: label([...places(app.rootGraph)].find((place) => place.id === id)), file, kept: kept(prompt, id) };
    const before = shown.get(id);
    if (before?.label && now.label && before.label !== now.label && before.kept === now.kept) {
      show([
        { label: say("before: {label}", before), file: before.file },
        { label: say("now: {label}", now), file },
      ]);
    }
    shown.set(id, now);
  }
  drawn.clear();
}

app.registerExtension({
  name: "dit-blocks.side-by-side",
  setup() {
    api.addEventListener("executed", ({ detail }) => executed(String(detail.display_node ?? detail.node), detail.output));
    api.addEventListener("execution_start", ({ detail }) => start(detail.prompt_id));
    const queue = api.queuePrompt.bind(api);
    api.queuePrompt = async (number, prompt, ...rest) => {
      const answer = await queue(number, prompt, ...rest);
      if (answer.prompt_id) queued.set(answer.prompt_id, /** @type {any} */ (prompt.output));
      if (queued.size > 50) queued.delete(/** @type {string} */ (queued.keys().next().value));
      return answer;
    };
    api.addEventListener("execution_success", finished);
  },
  beforeConfigureGraph(graph) {
    if (isUndo(graph)) return;
    loads += 1;
    sizes.clear();
    shown.clear();
    drawn.clear();
    dismiss();
  },
});

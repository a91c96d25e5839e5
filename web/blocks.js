import { app } from "../../scripts/app.js";
import { newest } from "./answers.js";
import { errorInWords } from "./errors_zh.js";
import { say } from "./language.js";
import { addPanel, asking, make, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";
import { blocksInWords } from "./words.js";

// Which blocks the model has and which of them run, on DiT Blocks: the default model's before any run, others' after it.

const answers = asking("/dit_blocks/blocks");

/** @param {ComfyNode} node */
function addBlocks(node) {
  const says = make("div", {}, { "aria-live": "polite" });
  addPanel(node, "plan", 48, [says]); // "blocks" is a widget already
  const hear = newest((/** @type {string} */ words) => {
    says.textContent = words;
  });
  whenChanged(node, (facts) => {
    const place = placeOf(node);
    const loader = place.origin("dit");
    const of = loader && `${loader.id} ${loader.kind}`; // a run's answer holds while the same node brings the model
    if (facts?.kinds) node.properties.blocks_of = { of, kinds: facts.kinds };
    const told = /** @type {{of: string | null, kinds: string[]} | undefined} */ (node.properties.blocks_of);
    const kinds = loader?.kind === "DiTBlocksLoadEmbedded" ? "embedded" : told?.of === of ? told?.kinds : undefined;
    hear(blocksOf(kinds, place.value("blocks")));
  });
}

/** @param {"embedded" | string[] | undefined} kinds @param {unknown} blocks undefined where a wire brings them */
async function blocksOf(kinds, blocks) {
  const plan = kinds && (await answers.ask(JSON.stringify({ kinds, blocks: blocks ?? "" })));
  return plan
    ? plan.error
      ? errorInWords(plan.error)
      : blocksInWords(plan, blocks !== undefined)
    : say("run once to see the model's blocks");
}

app.registerExtension({
  name: "dit-blocks.blocks",

  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass === "DiTBlocksRunBlocks") addBlocks(node);
  },
});

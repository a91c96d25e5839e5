import { app } from "../../scripts/app.js";
import { tokenOf } from "./grid.js";
import { shownOf, stagesOf } from "./journey_words.js";
import { say } from "./language.js";
import { whenPointed } from "./linked.js";
import { addPanel, make, setWidget, whenChanged } from "./panel.js";
import { percent } from "./words.js";

// One token's way through a step, on Token Journey: of the token under the mouse on any panel, else of the one that was clicked.

/** @type {Record<string, number>} least height of the panel in pixels, by what it shows */
const HEIGHTS = { all: 406, "patch embedding": 214, "position embedding": 60, text: 104, blocks: 132 };
const STRIP = 12; // pixels
const BARS = 34;
const MOST_LABELS = 12; // bars that have room for their numbers

/** Numbers as colours, blue below zero and orange above, as far as the largest. @param {number[]} numbers */
function strip(numbers) {
  const canvas = make("canvas", { width: "100%", height: `${STRIP}px`, imageRendering: "pixelated", display: "block" });
  [canvas.width, canvas.height] = [numbers.length, 1];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const most = Math.max(1e-12, ...numbers.map(Math.abs));
  for (const [i, value] of numbers.entries()) {
    const [from, to, share] = [[245, 245, 245], value < 0 ? [31, 95, 180] : [217, 95, 2], Math.abs(value) / most];
    context.fillStyle = `rgb(${from.map((low, k) => Math.round(low + share * (to[k] - low))).join(" ")})`;
    context.fillRect(i, 0, 1, 1);
  }
  return canvas;
}

/** @param {number[]} numbers */
function bars(numbers) {
  const most = Math.max(1e-12, ...numbers);
  const row = make("div", { display: "flex", alignItems: "flex-end", gap: "2px", height: `${BARS + 14}px` });
  for (const value of numbers) {
    const bar = make("div", { flex: "1", minWidth: "0", textAlign: "center", whiteSpace: "nowrap" });
    if (numbers.length <= MOST_LABELS) bar.textContent = value.toFixed(value < 100 ? 1 : 0);
    bar.append(make("div", { height: `${Math.max(1, (BARS * value) / most)}px`, background: "#e69f00" }));
    row.append(bar);
  }
  return row;
}

/** @param {[string, number][]} words */
function shares(words) {
  const row = make("div", { display: "flex", flexWrap: "wrap", gap: "2px 4px", maxHeight: "38px", overflow: "hidden" });
  const most = Math.max(1e-12, ...words.map(([, share]) => share));
  for (const [word, share] of words) {
    const chip = make("span", { padding: "0 4px", borderRadius: "3px" });
    chip.style.background = `linear-gradient(90deg, #cc79a788 ${(100 * share) / most}%, transparent 0)`;
    chip.textContent = `${word} ${percent(share)}`;
    row.append(chip);
  }
  return row;
}

/** @param {ComfyNode} node */
function addJourney(node) {
  const body = make("div", { display: "flex", flexDirection: "column", gap: "3px", flex: "1", minHeight: "0" }, { "aria-live": "polite" });
  const widget = (name = "token") => node.widgets.find((one) => one.name === name);
  const show = () => String(widget("show")?.value ?? "all");
  const panel = addPanel(node, "journey", () => HEIGHTS[show()], [body]);
  /** @type {import("./journey_words.js").Told | null} */
  let told = null;
  /** @type {number | null} */
  let pointed = null;

  /** Room for what it shows. */
  const fit = () => {
    panel.style.minHeight = `${HEIGHTS[show()]}px`;
    const least = node.computeSize()[1];
    if (node.size[1] < least) node.setSize([node.size[0], least]);
  };

  const draw = () => {
    if (!told) return body.replaceChildren(say("run to follow a token; then click one on any panel"));
    const asked = pointed ?? Number(widget()?.value ?? told.query);
    const known = told.tokens.includes(asked);
    const lines = known ? [] : [say("token {token} is chosen: run again to follow it", { token: asked })];
    const parts = shownOf(stagesOf(told, known ? asked : told.query), show()).map(({ says, strips = [], bars: lengths, words }) => {
      const part = make("div", { display: "flex", flexDirection: "column", gap: "1px" });
      part.append(says, ...strips.map(strip), ...(lengths ? [bars(lengths)] : []), ...(words ? [shares(words)] : []));
      return part;
    });
    body.replaceChildren(...lines, ...parts);
  };

  whenPointed(
    node,
    (place) => {
      pointed = told && tokenOf(told.grid, place);
      draw();
    },
    (place) => {
      const token = told && tokenOf(told.grid, place);
      if (token !== null && setWidget(node, "token", token)) draw();
    },
  );
  whenChanged(node, (facts) => {
    if (facts?.tokens) told = /** @type {import("./journey_words.js").Told} */ (/** @type {unknown} */ (facts));
    fit();
    draw();
  });
}

app.registerExtension({
  name: "dit-blocks.journey",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass === "DiTBlocksTokenJourney") addJourney(node);
  },
});

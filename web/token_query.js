import { app } from "../../scripts/app.js";
import { fit, placeIn, shareOf } from "./grid.js";
import { say } from "./language.js";
import { addPanel, make, setWidget, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";
import { followHands } from "./token_hands.js";
import { picture, viewUrl } from "./upstream.js";
import { placeInWords } from "./words.js";

// The map on Token Similarity follows the mouse: each row of a picture that the run made holds one token's cosines to all. A click, or
// arrows and Enter, puts the token's number into the real widget `query`.

const HEIGHT = 240;

/** @typedef {{grid: [number, number], query: number, rows: {filename: string}, live: boolean}} Told what the run told */

/** @param {ComfyNode} node */
function addQuery(node) {
  const canvas = make(
    "canvas",
    { position: "absolute", inset: "0", width: "100%", height: "100%", touchAction: "none", outlineOffset: "-2px" },
    { tabindex: "0", role: "grid", "aria-label": "tokens" },
  );
  const says = make("div", { minHeight: "2.7em", whiteSpace: "pre-line" }, { "aria-live": "polite" });
  const box = make("div", { position: "relative", flex: "1", minHeight: "0" });
  box.append(canvas);
  addPanel(node, "similarity", HEIGHT, [box, says]);
  /** @type {Told | null} */
  let told = null;
  /** @type {number | null} */
  let hovered = null;
  let place = { x: 0, y: 0, width: 1, height: 1 };

  const chosen = () => Number(placeOf(node).value("query") ?? told?.query ?? 0);

  const draw = () => {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height || !node.graph) return;
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const rows = told && picture(viewUrl(told.rows), draw);
    if (!told || !rows) {
      says.textContent = say("run to see which tokens are alike");
      return;
    }
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    const [down, across] = told.grid;
    place = fit(told.grid, width, height);
    const side = place.width / across;
    const shown = told.live ? (hovered ?? Math.min(chosen(), down * across - 1)) : told.query;
    const from = told.live ? shown : 0;
    for (let row = 0; row < down; row++)
      context.drawImage(rows, row * across, from, across, 1, place.x, place.y + row * side, place.width, side);
    frame(context, shown);
    if (hovered !== null && hovered !== shown) frame(context, hovered);
    const lines = [say("like {place} (orange: alike, blue: opposite)", { place: placeInWords(shown, across) })];
    if (hovered !== null && hovered !== shown) {
      lines.push(say("under the mouse: {place}; click and run to compare with it", { place: placeInWords(hovered, across) }));
    } else if (hovered !== null && hovered !== chosen()) lines.push(say("click to choose it"));
    else if (chosen() !== told.query) lines.push(say("query is {query} now: run again for the outputs", { query: chosen() }));
    says.textContent = lines.join("\n");
  };

  /** @param {CanvasRenderingContext2D} context @param {number} token */
  const frame = (context, token) => {
    const share = told && shareOf(told.grid, token);
    if (!share) return;
    const { x, y, width: side } = placeIn(place, share);
    for (const [inset, colour] of /** @type {[number, string][]} */ ([
      [0.75, "#000"],
      [2.25, "#fff"],
    ])) {
      context.lineWidth = 1.5;
      context.strokeStyle = colour;
      context.strokeRect(x + inset, y + inset, Math.max(1, side - 2 * inset), Math.max(1, side - 2 * inset));
    }
  };

  new ResizeObserver(draw).observe(box);
  followHands(node, canvas, {
    maps: () => told && { grid: told.grid, boxes: [place] },
    start: () => ({ token: chosen(), map: 0 }),
    show: (at) => {
      hovered = at?.token ?? null;
      draw();
    },
    choose: ({ token }) => {
      if (setWidget(node, "query", token)) draw();
    },
  });
  whenChanged(node, (facts) => {
    if (facts?.rows) {
      told = /** @type {Told} */ (/** @type {unknown} */ (facts));
      hovered = null;
    }
    draw();
  });
}

app.registerExtension({
  name: "dit-blocks.token-query",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass === "DiTBlocksTokenSimilarity") addQuery(node);
  },
});

import { app } from "../../scripts/app.js";
import { makeFrame, putFrame } from "./frames.js";
import { fit, placeIn, shareOf } from "./grid.js";
import { say } from "./language.js";
import { drawLive } from "./live.js";
import { addPanel, make, setWidget, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";
import { followHands } from "./token_hands.js";
import { viewUrl } from "./upstream.js";
import { placeInWords } from "./words.js";

// The picture on nodes that show maps over the token grid: the token under the mouse is framed in each of its maps.

const KINDS = new Set(
  ["AttentionMap", "AttentionSteps", "PositionSimilarity", "ConceptMap", "TokenPCA", "ResponseMaps", "ContentAndPlace"].map(
    (name) => `DiTBlocks${name}`,
  ),
);
const HEIGHT = 225;
/** @type {Record<string, number>} */
const HIGHER = { DiTBlocksContentAndPlace: 420 }; // three rows of maps and pictures with words
const FILL = { position: "absolute", inset: "0", width: "100%", height: "100%", objectFit: "contain" };

/** @typedef {import("./grid.js").Box} Box */
/** @typedef {{grid: import("./grid.js").Pair, maps: {box: Box, first: number}[], query: number | null, sheet: {filename: string}}} Told
 * query: the image token that was asked for, if one was; box: a share of the picture; first: the number of the token at its upper left */

/** @param {ComfyNode} node */
function addMaps(node) {
  const image = make("img", { ...FILL, display: "none" }, { alt: "", draggable: "false" });
  const live = make("canvas", { ...FILL, display: "none" });
  const frames = make("div");
  const box = make(
    "div",
    { position: "relative", flex: "1", minHeight: "0", touchAction: "none", outlineOffset: "-2px" },
    { tabindex: "0", role: "grid", "aria-label": "tokens" },
  );
  box.append(image, live, frames);
  const under = { position: "absolute", left: "0", right: "0", bottom: "0", padding: "2px 6px", background: "var(--comfy-input-bg)" };
  const says = make("div", { ...under, pointerEvents: "none", whiteSpace: "pre-line" }, { "aria-live": "polite" });
  addPanel(node, "maps", HIGHER[node.comfyClass] ?? HEIGHT, [box, says]);
  node.hideOutputImages = true; // ComfyUI's own preview would show the picture a second time, in Nodes 2.0
  node.onDrawBackground = () => {}; // and on the canvas
  /** @type {Told | null} */
  let told = null;
  /** @type {import("./token_hands.js").At | null} */
  let at = null;

  const chosen = () => Number(placeOf(node).value("query") ?? told?.query ?? 0);
  /** Whether `query` is an image token, in the picture that is shown and in the next one. */
  const asks = () => told !== null && told.query !== null && placeOf(node).value("direction") !== "text to image";

  const maps = () => {
    if (!told || !image.naturalWidth || image.style.display) return null;
    const shown = fit([image.naturalHeight, image.naturalWidth], box.clientWidth, box.clientHeight);
    return { grid: told.grid, boxes: told.maps.map((map) => placeIn(shown, map.box)) };
  };

  const draw = () => {
    if (!node.graph) return; // taken out while the page still had it
    const [shown, place] = [maps(), told && at && shareOf(told.grid, at.token)];
    const places = shown && place ? shown.boxes.map((one) => placeIn(one, place)) : [];
    while (frames.children.length < places.length) frames.append(makeFrame());
    for (const [i, frame] of [...frames.children].entries()) putFrame(/** @type {HTMLElement} */ (frame), places[i] ?? null);
    says.textContent = words().join("\n");
    says.style.display = says.textContent ? "" : "none"; // the picture has all the room otherwise
  };

  const words = () => {
    if (!told) return [say("run to see the maps")];
    if (!at) return asks() && chosen() !== told.query ? [say("query is {query} now: run again for the outputs", { query: chosen() })] : [];
    const first = told.maps[at.map]?.first ?? 0;
    const lines = [placeInWords(at.token, told.grid[1], first)];
    if (asks() && first + at.token !== chosen()) lines.push(say("click to choose it"));
    return lines;
  };

  followHands(node, box, {
    maps,
    start: () => {
      const [rows, columns] = /** @type {Told} */ (told).grid;
      const number = asks() ? chosen() : 0;
      const map = Math.max(
        0,
        (told?.maps ?? []).findIndex(({ first }) => first <= number && number < first + rows * columns),
      );
      return { token: number % (rows * columns), map };
    },
    show: (to) => {
      at = to;
      draw();
    },
    choose: ({ token, map }) => {
      if (asks() && setWidget(node, "query", /** @type {Told} */ (told).maps[map].first + token)) draw();
    },
  });
  new ResizeObserver(draw).observe(box);
  image.addEventListener("load", () => {
    image.style.display = "";
    live.style.display = "none";
    [node.imgs, node.overIndex] = [[image], 0]; // for the menu of the node, which opens and saves its picture
    draw();
  });
  drawLive(
    node,
    (picture) => {
      [live.width, live.height] = [picture.width, picture.height];
      live.getContext("2d")?.drawImage(picture, 0, 0);
      [image.style.display, live.style.display] = ["none", ""];
      draw();
    },
    () => told,
  );
  whenChanged(node, (facts) => {
    if (facts?.sheet) {
      told = /** @type {Told} */ (/** @type {unknown} */ (facts));
      if (at && (at.token >= told.grid[0] * told.grid[1] || at.map >= told.maps.length)) at = null;
      image.src = viewUrl(told.sheet);
    }
    draw();
  });
}

app.registerExtension({
  name: "dit-blocks.map-sheet",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (KINDS.has(node.comfyClass)) addMaps(node);
  },
});

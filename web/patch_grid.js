import { app } from "../../scripts/app.js";
import { newest } from "./answers.js";
import { ask, mixedAfter, tokensOf } from "./costs.js";
import { errorInWords } from "./errors_zh.js";
import {
  fit,
  gridOf,
  mostOf,
  neighbour,
  placeIn,
  readSelection,
  rectangle,
  remap,
  shareOf,
  tokenAt,
  tokenOf,
  writeSelection,
} from "./grid.js";
import { say } from "./language.js";
import { pick, point, whenPointed } from "./linked.js";
import { addPanel, make, setWidget, whenChanged } from "./panel.js";
import { placeOf } from "./places.js";
import { picture, viewUrl } from "./upstream.js";
import { mixedInWords, placeInWords, readInWords, stepInWords, tokensInWords } from "./words.js";

// The picture under its token grid, on Patchify: what a patch size means, before anything has run. Clicks and drags choose tokens.

const HEIGHT = 240;

/** @typedef {[number, number]} Pair */

class PatchGrid {
  /** @param {ComfyNode} node */
  constructor(node) {
    this.node = node;
    /** @type {Record<string, any>} what Patchify told after its last run */
    this.told = {};
    /** @type {Pair | null} */
    this.size = null;
    this.typed = 0;
    /** @type {CanvasImageSource | null} */
    this.image = null;
    /** @type {import("./costs.js").Costs | null} */
    this.costs = null;
    /** @type {ReturnType<typeof mixedAfter>} of the steps that its tokens come to */
    this.mixed = null;
    this.asked = "";
    this.answered = "";
    this.hear = newest((/** @type {import("./costs.js").Costs | null} */ costs) => {
      if (this.answered === this.asked && costs === this.costs) return;
      this.answered = this.asked;
      this.costs = costs;
      this.mix();
      this.draw();
    });
    /** @type {number | null} */
    this.hovered = null;
    /** @type {import("./linked.js").Place | null} where another panel points */
    this.pointed = null;
    /** @type {{from: number, to: number, adds: boolean} | null} */
    this.drag = null;
    this.canvas = make(
      "canvas",
      { position: "absolute", inset: "0", width: "100%", height: "100%", touchAction: "none", outlineOffset: "-2px" },
      { tabindex: "0", role: "grid", "aria-label": "tokens" },
    );
    this.says = make("div", { minHeight: "30px" }, { "aria-live": "polite" });
    const box = make("div", { position: "relative", flex: "1", minHeight: "0" });
    box.append(this.canvas);
    this.sizes = make("div", { display: "flex", gap: "4px", minHeight: "24px" }, { role: "group", "aria-label": "patch sizes" });
    addPanel(node, "grid", HEIGHT, [this.sizes, box, this.says]);
    new ResizeObserver(() => this.draw()).observe(box);
    this.listen();
    whenChanged(node, (facts) => this.refresh(facts));
    whenPointed(node, (place) => {
      this.pointed = place;
      this.draw();
    });
  }

  // --- what there is to show ---

  /** @param {Record<string, any>} [facts] */
  refresh(facts) {
    if (facts) this.told = facts;
    if (!this.node.graph) return; // taken out while a picture was loading
    const place = placeOf(this.node);
    const { question, size, image } = tokensOf(place, () => this.refresh());
    const ran = this.told.picture && String(size) === String(this.told.size);
    this.size = size;
    this.image = image ?? (ran ? picture(viewUrl(this.told.picture), () => this.refresh()) : null);
    this.typed = Number(place.value("patch_size") ?? this.told.patch_size ?? 0);
    this.asked = JSON.stringify(question);
    this.mix();
    this.draw(); // the grid does not wait for the answer
    this.hear(ask(question));
  }

  mix() {
    this.mixed = this.node.graph && mixedAfter(placeOf(this.node), this.size, this.patchSize);
  }

  get patchSize() {
    return this.typed || this.costs?.own || this.told.patch_size || 0;
  }

  get grid() {
    return this.size && this.patchSize ? gridOf(this.size, this.patchSize) : null;
  }

  get fits() {
    return this.size !== null && this.patchSize > 0 && this.patchSize <= Math.min(...this.size);
  }

  get selection() {
    return this.node.widgets.find(({ name }) => name === "selection");
  }

  /** @returns {Set<number>} */
  get chosen() {
    const [rows, columns] = this.grid ?? [0, 0];
    return readSelection(String(this.selection?.value ?? ""), rows * columns);
  }

  /** @param {Iterable<number>} tokens */
  choose(tokens) {
    if (!setWidget(this.node, "selection", writeSelection(tokens))) return;
    this.mix();
    this.draw();
  }

  // --- the sizes that the model has ---

  offer() {
    const native = this.costs?.native ?? [];
    const now = this.patchSize;
    const known = `${native} ${now}`;
    if (this.sizes.dataset.shown === known) return;
    this.sizes.dataset.shown = known;
    this.sizes.title = say("sizes of the model");
    this.sizes.replaceChildren(...[...native].sort((a, b) => a - b).map((p) => this.button(p, p === now)));
  }

  /** @param {number} p @param {boolean} chosen */
  button(p, chosen) {
    const style = { cursor: "pointer", font: "inherit", padding: "1px 10px", borderRadius: "4px", border: "1px solid var(--border-color)" };
    const colours = chosen ? { background: "#56b4e9", color: "#000" } : { background: "transparent", color: "inherit" };
    const button = make("button", { ...style, ...colours }, { "aria-pressed": String(chosen) });
    button.textContent = `p = ${p}`;
    button.addEventListener("pointerdown", (event) => event.stopPropagation());
    button.addEventListener("click", () => setWidget(this.node, "patch_size", p));
    return button;
  }

  // --- drawing ---

  draw() {
    this.offer();
    this.say();
    const { canvas, grid, size } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(ratio, ratio);
    if (!grid || !size || !this.fits) return;
    const p = this.patchSize;
    this.box = fit([grid[0] * p, grid[1] * p], width, height);
    const cell = this.box.width / (grid[1] * p);
    context.fillStyle = "#555";
    context.fillRect(this.box.x, this.box.y, this.box.width, this.box.height);
    context.fillStyle = "#888";
    context.fillRect(this.box.x, this.box.y, size[1] * cell, size[0] * cell);
    if (this.image) context.drawImage(this.image, this.box.x, this.box.y, size[1] * cell, size[0] * cell);
    this.drawCells(context, grid, cell * p);
  }

  /** @param {CanvasRenderingContext2D} context @param {Pair} grid @param {number} side */
  drawCells(context, [rows, columns], side) {
    const { x, y, width, height } = /** @type {DOMRect} */ (this.box);
    const mark = (/** @type {number} */ token, /** @type {string} */ style) => {
      context.fillStyle = style;
      context.fillRect(x + (token % columns) * side, y + Math.floor(token / columns) * side, side, side);
    };
    const dragged = new Set(this.drag ? rectangle([rows, columns], this.drag.from, this.drag.to) : []);
    for (const token of this.chosen) if (!dragged.has(token) || this.drag?.adds) mark(token, "rgba(255, 200, 0, 0.45)");
    if (this.drag?.adds) for (const token of dragged) mark(token, "rgba(255, 200, 0, 0.45)");
    if (this.mixed?.patches && this.size) this.drawMixed(context, this.mixed.patches, this.size, side / this.patchSize);
    else {
      const line = side < 5 ? 0.25 : 0.75;
      context.fillStyle = "rgba(255, 255, 255, 0.7)";
      for (let row = 0; row <= rows; row++) context.fillRect(x, y + row * side - line / 2, width, line);
      for (let column = 0; column <= columns; column++) context.fillRect(x + column * side - line / 2, y, line, height);
    }
    const at = shareOf([rows, columns], this.hovered) ?? this.pointed;
    if (!at) return;
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    const framed = placeIn({ x, y, width, height }, at);
    context.strokeRect(framed.x, framed.y, framed.width, framed.height);
  }

  /** Each patch of the steps that follow, framed. @param {CanvasRenderingContext2D} context @param {Map<number, Set<number>>} patches by size
   * @param {Pair} size @param {number} cell of the latent, in pixels */
  drawMixed(context, patches, size, cell) {
    const { x, y } = /** @type {DOMRect} */ (this.box);
    context.strokeStyle = "rgba(255, 255, 255, 0.8)";
    for (const [p, places] of patches) {
      const columns = size[1] / p;
      const side = cell * p;
      context.lineWidth = side < 5 ? 0.25 : 0.75;
      for (const patch of places) context.strokeRect(x + (patch % columns) * side, y + Math.floor(patch / columns) * side, side, side);
    }
  }

  say() {
    const { grid, size, patchSize: p } = this;
    const lines = [];
    if (!size) lines.push(say("run once to see the grid: the latent's size is not known yet"));
    else if (!p) lines.push(say("run once to see the model's own patch size"));
    else if (!this.fits)
      lines.push(say("patch_size {p} does not fit into a latent of {height}×{width} cells", { p, height: size[0], width: size[1] }));
    else if (grid) {
      const cost = this.answered === this.asked ? this.costs?.sizes?.[p] : undefined;
      lines.push(tokensInWords(grid, p, cost?.values, cost?.tokens));
      if (this.costs && cost?.flops && cost.share) lines.push(stepInWords(cost.flops, cost.share, this.costs.own, p));
      else if (this.costs?.error) lines.push(errorInWords(this.costs.error));
      const how = cost && readInWords(cost, p);
      if (how) lines.push(how);
      if (this.mixed) lines.push(mixedInWords(this.mixed));
      const last = grid[0] * grid[1] - 1;
      const most = mostOf(String(this.selection?.value ?? ""));
      const chosen = this.chosen.size;
      const at = this.hovered ?? tokenOf(grid, this.pointed);
      if (most > last)
        lines.push(say("the grid has tokens 0 to {last}, the selection goes on to {most}: Escape takes it back", { last, most }));
      else if (at !== null) lines.push(placeInWords(at, grid[1]));
      else if (chosen) lines.push(say("{count} selected, Escape takes it back", { count: chosen }));
    }
    this.says.textContent = lines.join("\n");
    this.says.style.whiteSpace = "pre-line";
  }

  // --- hands ---

  /** @param {number | null} token */
  hover(token) {
    this.hovered = token;
    point(this.node, this.grid && shareOf(this.grid, token));
  }

  /** @param {PointerEvent} event @param {boolean} clamped to the nearest token */
  under(event, clamped = false) {
    const { grid, box } = this;
    if (!grid || !box) return null;
    const seen = this.canvas.getBoundingClientRect();
    const scale = this.canvas.clientWidth / seen.width; // the graph may be zoomed
    let [x, y] = [((event.clientX - seen.left) * scale - box.x) / box.width, ((event.clientY - seen.top) * scale - box.y) / box.height];
    if (clamped) [x, y] = [x, y].map((share) => Math.min(Math.max(share, 0), 1 - 1e-9));
    return tokenAt(grid, x, y);
  }

  /** @param {number} token */
  begin(token) {
    this.drag = { from: token, to: token, adds: !this.chosen.has(token) };
    pick(this.node, this.grid && shareOf(this.grid, token));
  }

  end() {
    const { drag, grid, chosen } = this;
    this.drag = null;
    if (!drag || !grid) return;
    for (const token of rectangle(grid, drag.from, drag.to)) chosen[drag.adds ? "add" : "delete"](token);
    this.choose(chosen);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      const token = this.under(event);
      if (token === null || event.button) return;
      event.stopPropagation();
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.begin(token);
      this.draw();
    });
    canvas.addEventListener("pointermove", (event) => {
      this.hover(this.under(event, this.drag !== null));
      if (this.drag && this.hovered !== null) this.drag.to = this.hovered;
      this.draw();
    });
    canvas.addEventListener("pointerup", () => this.end());
    canvas.addEventListener("pointercancel", () => {
      this.drag = null;
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => {
      if (this.drag) return;
      this.hover(null);
      this.draw();
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    const typed = this.node.widgets.find(({ name }) => name === "patch_size");
    if (!typed) return;
    const called = typed.callback;
    typed.callback = (...given) => {
      const [from, chosen] = [this.patchSize, this.chosen];
      called?.apply(typed, given);
      const to = Number(typed.value) || this.costs?.own || 0;
      if (chosen.size && this.size && from && to && from !== to) this.choose(remap(chosen, this.size, from, to));
    };
  }

  /** Arrows move, Shift with them extends, Space and Enter choose, Escape takes all back. @param {KeyboardEvent} event */
  key(event) {
    const { grid } = this;
    if (!grid) return;
    const here = this.hovered ?? 0;
    const next = neighbour(grid, here, event.key);
    if (next !== null) {
      if (event.shiftKey) this.choose(this.chosen.add(here).add(next));
      this.hover(next);
    } else if (event.key === " " || event.key === "Enter") {
      this.begin(here);
      this.end();
    } else if (event.key === "Escape") this.choose([]);
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.draw();
  }
}

app.registerExtension({
  name: "dit-blocks.patch-grid",
  /** @param {ComfyNode} node */
  nodeCreated(node) {
    if (node.comfyClass === "DiTBlocksPatchify") new PatchGrid(node);
  },
});

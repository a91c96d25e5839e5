import { api } from "../../scripts/api.js";
import { cellOf } from "./grid.js";

// What the wires into a node can tell before anything has run.

/** @typedef {import("./places.js").Place} Place */

/** The picture that LoadImage nodes show, by its file. @type {Map<string, HTMLImageElement>} */
const pictures = new Map();

/** @param {string} url @param {() => void} loaded @returns {HTMLImageElement | null} the picture, null until it is there */
export function picture(url, loaded) {
  let image = pictures.get(url);
  if (!image) {
    image = new Image();
    image.src = url;
    image.addEventListener("load", loaded);
    pictures.set(url, image);
  }
  return image.complete && image.naturalWidth ? image : null;
}

/** @param {{filename: string, subfolder?: string, type?: string}} file */
export function viewUrl({ filename, subfolder = "", type = "input" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

const EMPTY = new Set(["DiTBlocksEmptyLatent", "EmptyLatentImage", "EmptySD3LatentImage"]);
const ENCODE = new Set(["DiTBlocksVAEEncode", "VAEEncode"]);

/**
 * What is known of a latent before a run: the height and width of its pictures in pixels, how many they are, and the picture it is of.
 * @param {Place} place @param {string} name the input that takes the latent @param {() => void} changed called when a picture has come
 * @returns {{pixels: [number, number] | null, batch?: number, image: HTMLImageElement | null}}
 */
function source(place, name, changed) {
  const from = place.origin(name);
  if (from && EMPTY.has(from.kind)) {
    const [height, width, batch] = ["height", "width", "batch_size"].map((one) => from.value(one));
    const known = typeof height === "number" && typeof width === "number";
    return { pixels: known ? [height, width] : null, batch: typeof batch === "number" ? batch : undefined, image: null };
  }
  const loader = from && ENCODE.has(from.kind) ? from.origin("pixels") : null;
  const file = loader?.kind === "LoadImage" ? loader.value("image") : undefined;
  if (typeof file !== "string") return { pixels: null, image: null };
  const [path, type] = file.match(/^(.*) \[(input|output|temp)\]$/)?.slice(1) ?? [file, "input"];
  const cut = path.lastIndexOf("/");
  const image = picture(viewUrl({ filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type }), changed);
  return { pixels: image && [image.naturalHeight, image.naturalWidth], batch: 1, image };
}

/**
 * What is known of a latent: its size in cells, how many pictures, and the picture it is of.
 * @param {Place} place @param {string} name @param {Record<string, any>} told what the node told after its last run @param {() => void} changed
 * @returns {{size: [number, number] | null, batch?: number, image: HTMLImageElement | null}}
 */
export function latent(place, name, told, changed) {
  const { pixels, batch = told.batch, image } = source(place, name, changed);
  if (!pixels) return { size: told.size ?? null, batch, image };
  if (told.size) told.cell ??= cellOf(pixels, told.size); // of what has run: what is wired now may be another size
  const cell = told.cell ?? 8;
  return { size: [Math.floor(pixels[0] / cell), Math.floor(pixels[1] / cell)], batch, image };
}

const PASSED = new Set(["DiTBlocksStepCache", "DiTBlocksSteerSteps"]);

/** The node that a model comes from: a cache over the steps hands on the same one. @param {Place} place @param {string} input the one that takes it */
export function loaderOf(place, input = "dit") {
  let loader = place.origin(input);
  while (loader && PASSED.has(loader.kind)) loader = loader.origin("dit");
  return loader;
}

/** The shape of the model on a wire: the default one is known before any run, others after it.
 * @param {Place} place @param {unknown} told @param {string} input the one that takes it */
export function shape(place, told, input = "dit") {
  const loader = loaderOf(place, input);
  if (loader?.kind === "DiTBlocksLoadEmbedded") return "embedded";
  return loader ? /** @type {Record<string, unknown> | null} */ (told ?? null) : null;
}

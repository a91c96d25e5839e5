import { api } from "../../scripts/api.js";

// What the wires into a node can tell before anything has run.

/** The node that a wire into `name` comes from; through Reroutes, not out of a subgraph. @param {ComfyNode} node @param {string} name @returns {ComfyNode | null} */
export function origin(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  const before = /** @type {ComfyNode | null} */ (slot < 0 ? null : node.getInputNode(slot));
  return before?.type === "Reroute" ? origin(before, before.inputs[0].name) : before;
}

/** A widget's value; undefined where a wire brings it. @param {ComfyNode} node @param {string} name */
export function value(node, name) {
  const wired = node.inputs?.some((input) => input.name === name && input.link != null);
  return wired ? undefined : node.widgets?.find((widget) => widget.name === name)?.value;
}

/** All nodes whose results a node needs, nearest first. @param {ComfyNode} node @returns {ComfyNode[]} */
export function ancestors(node) {
  const found = [node];
  for (const here of found) {
    for (const { name } of here.inputs ?? []) {
      const before = origin(here, name);
      if (before && !found.includes(before)) found.push(before);
    }
  }
  return found.slice(1);
}

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

const CELL = 8; // pixels to a latent cell, in every VAE of these loaders
const EMPTY = new Set(["DiTBlocksEmptyLatent", "EmptyLatentImage", "EmptySD3LatentImage"]);
const ENCODE = new Set(["DiTBlocksVAEEncode", "VAEEncode"]);

/**
 * What is known of a latent before a run: its size in cells, and the picture it is of.
 * @param {ComfyNode} node @param {string} name the input that takes the latent @param {() => void} changed called when a picture has come
 * @returns {{size: [number, number] | null, image: HTMLImageElement | null}}
 */
export function latent(node, name, changed) {
  const source = origin(node, name);
  if (source && EMPTY.has(source.comfyClass)) {
    const [height, width] = ["height", "width"].map((side) => value(source, side));
    const known = typeof height === "number" && typeof width === "number";
    return { size: known ? [Math.floor(height / CELL), Math.floor(width / CELL)] : null, image: null };
  }
  const loader = source && ENCODE.has(source.comfyClass) ? origin(source, "pixels") : null;
  const file = loader?.comfyClass === "LoadImage" ? value(loader, "image") : undefined;
  if (typeof file !== "string") return { size: null, image: null };
  const [path, type] = file.match(/^(.*) \[(input|output|temp)\]$/)?.slice(1) ?? [file, "input"];
  const cut = path.lastIndexOf("/");
  const image = picture(viewUrl({ filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type }), changed);
  return { size: image && [Math.floor(image.naturalHeight / CELL), Math.floor(image.naturalWidth / CELL)], image };
}

/** The shape of the model on a wire: the default one is known before any run, others after it. @param {ComfyNode} node @param {unknown} told */
export function shape(node, told) {
  const loader = origin(node, "dit");
  if (loader?.comfyClass === "DiTBlocksLoadEmbedded") return "embedded";
  return loader ? /** @type {Record<string, unknown> | null} */ (told ?? null) : null;
}

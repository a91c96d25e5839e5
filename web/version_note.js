import { say } from "./language.js";

// What to say of a workflow that another version of the pack may have saved.

const PREFIX = "DiTBlocks";

/** @type {(type: unknown) => boolean} */
export const isOurs = (type) => String(type).startsWith(PREFIX);

/** @type {(version: string, other: string) => boolean} */
export const isNewer = (version, other) => version.localeCompare(other, "en", { numeric: true }) > 0;

/**
 * The pack's nodes among those that the front end misses, without the renamed ones that it can replace.
 * @param {(string | { type: string, isReplaceable?: boolean })[]} missing
 */
export function unknownTypes(missing) {
  const types = missing.filter((entry) => typeof entry === "string" || !entry.isReplaceable);
  return [...new Set(types.map((entry) => (typeof entry === "string" ? entry : entry.type)))].filter(isOurs);
}

/**
 * One line for the user, or none.
 * @param {unknown} saved the version in the workflow
 * @param {string} own the version of the pack
 * @param {string[]} unknown
 */
export function note(saved, own, unknown) {
  const newer = typeof saved === "string" && isNewer(saved, own);
  const values = { saved, own, nodes: unknown.join(", ") };
  if (!unknown.length && newer)
    return say("Saved with DiT Blocks {saved}; this is {own}. It may look or draw otherwise until the pack is updated.", values);
  if (!unknown.length) return "";
  return newer
    ? say("Saved with DiT Blocks {saved}; this is {own}, which does not have {nodes}. An update may bring what is missing.", values)
    : say("DiT Blocks {own} does not have {nodes}. An update may bring what is missing.", values);
}

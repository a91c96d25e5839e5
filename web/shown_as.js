// What a subgraph's socket is called in the editor's language. Nothing here knows of a page.

/** A socket that has the name of the one inside that it leads to, or that name and a number, is shown as that one is: "image 2" where image
 * is 图片 → "图片 2". undefined where it has another name, and where both are shown by their names.
 * @param {string} name @param {{name: string, localized_name?: string} | undefined} inside @returns {string | undefined} */
export function shownAs(name, inside) {
  const shown = inside?.localized_name;
  if (!inside || !shown || shown === inside.name) return undefined;
  const number = name.startsWith(inside.name) ? name.slice(inside.name.length) : "no";
  return /^( \d+)?$/.test(number) ? shown + number : undefined;
}

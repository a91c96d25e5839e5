import assert from "node:assert/strict";
import { test } from "node:test";
import { shownAs } from "../../web/shown_as.js";

test("a subgraph's socket is shown as the one inside", () => {
  const image = { name: "image", localized_name: "图片" };
  assert.equal(shownAs("image", image), "图片");
  assert.equal(shownAs("image 12", image), "图片 12");
});

test("a name of its own stays, and one that is shown as it is", () => {
  const image = { name: "image", localized_name: "图片" };
  for (const name of ["picture", "images", "image two", "an image", ""]) assert.equal(shownAs(name, image), undefined, name);
  assert.equal(shownAs("image", { name: "image", localized_name: "image" }), undefined);
  assert.equal(shownAs("image 2", { name: "image" }), undefined);
  assert.equal(shownAs("image", undefined), undefined);
});

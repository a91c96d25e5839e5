import assert from "node:assert/strict";
import { test } from "node:test";
import { mixedOf, mixtureOf, touchedBy, withShares } from "../../web/mixed_grid.js";

const counts = (mixed) => Object.fromEntries([...mixed].map(([p, places]) => [p, places.size]));

test("the last row with several sizes is the one that is drawn", () => {
  assert.deepEqual(mixtureOf("8 until 30%, then 4 with 2 on the mask"), { coarse: 4, splits: [{ p: 2, share: null }] });
  assert.deepEqual(mixtureOf("8 with 4 on 50% WITH 2 on the mask until 70%\n2"), {
    coarse: 8,
    splits: [
      { p: 4, share: 0.5 },
      { p: 2, share: null },
    ],
  });
  assert.equal(mixtureOf("8 with 4 on the mask until 50%, then 4 with 2 on the mask until 80%, then 2").coarse, 4);
  for (const rows of ["4 until 50%, then 2", "4 with 3 on the mask", "4 with", "", "with 2 on the mask"])
    assert.equal(mixtureOf(rows), null);
});

test("a patch is split where any part of it is touched, as Patch Regions does", () => {
  // tests/test_patch_regions.py: a mask of 64×96 over a latent of 16×24, one cell of it
  const cells = new Set([0, 1].flatMap((row) => [40, 41].map((column) => row * 96 + column)));
  const touched = touchedBy(cells, [64, 96], [16, 24]);
  assert.deepEqual([...touched(4)], [2]);
  const mixed = mixedOf([16, 24], { coarse: 4, splits: [{ p: 2, share: null }] }, touched);
  assert.deepEqual(counts(mixed), { 4: 23, 2: 4 });
  assert.deepEqual([...mixed.get(2)], [4, 5, 16, 17]);
  assert.deepEqual([...touchedBy(new Set([1]), [3, 3], [8, 8])(2)], [1, 2, 5, 6]); // a token of a third of the side
});

test("patches are split twice, and only inside of what was split", () => {
  const mixture = {
    coarse: 8,
    splits: [
      { p: 4, share: null },
      { p: 2, share: null },
    ],
  };
  const mixed = mixedOf([16, 16], mixture, touchedBy(new Set([0]), [8, 8], [16, 16]));
  assert.deepEqual(counts(mixed), { 8: 3, 4: 3, 2: 4 });
  assert.deepEqual(counts(mixedOf([16, 16], mixture, () => new Set())), { 8: 4 });
  assert.equal(
    mixedOf([14, 16], mixture, () => new Set()),
    null,
  );
  assert.equal(
    mixedOf([16, 16], { coarse: 8, splits: [{ p: 4, share: 0.5 }] }, () => new Set()),
    null,
  );
});

test("a mask costs what a share of as many patches costs", () => {
  const touched = touchedBy(new Set([0]), [8, 8], [16, 16]);
  assert.equal(withShares("8 until 30%, then 4 with 2 on the mask", [16, 16], touched), "8 until 30%, then 4 with 2 on 6.25%");
  assert.equal(withShares("8 with 4 on the mask with 2 on the mask", [16, 16], touched), "8 with 4 on 25% with 2 on 25%");
  assert.equal(withShares("4 with 2 on 30%", [16, 16], touched), "4 with 2 on 30%");
  assert.equal(
    withShares("4 of other with 2 on the mask until 50%, then 2", [16, 16], touched),
    "4 of other with 2 on 6.25% until 50%, then 2",
  );
  assert.equal(withShares("8 with 4 on the mask with 2 on 50%", [16, 16], touched), "8 with 4 on 25% with 2 on 50%");
  assert.equal(withShares("8 with 4 on 50% with 2 on the mask", [16, 16], touched), undefined);
  assert.equal(withShares("4 with 2 on the mask", [14, 16], touched), undefined);
});

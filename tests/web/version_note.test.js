import assert from "node:assert/strict";
import test from "node:test";
import { speak } from "../../web/language.js";
import { isNewer, note, unknownTypes } from "../../web/version_note.js";

test("versions are compared by number", () => {
  assert.ok(isNewer("0.10.0", "0.9.1") && isNewer("1.0.0", "0.99.99"));
  assert.ok(!isNewer("0.1.0", "0.1.0") && !isNewer("0.1.0", "0.1.1"));
});

test("unknown types are ours, named once, and not those that are replaced", () => {
  const missing = [
    "DiTBlocksOld",
    { type: "DiTBlocksNew" },
    { type: "DiTBlocksNew" },
    { type: "Other" },
    { type: "DiTBlocksWas", isReplaceable: true },
  ];
  assert.deepEqual(unknownTypes(missing), ["DiTBlocksOld", "DiTBlocksNew"]);
});

test("a newer version or an unknown node is worth a line", () => {
  assert.equal(note("0.1.0", "0.1.0", []), "");
  assert.equal(note(undefined, "0.1.0", []), "");
  assert.equal(note({ not: "a version" }, "0.1.0", []), "");
  assert.match(note("0.2.0", "0.1.0", []), /^Saved with DiT Blocks 0\.2\.0; this is 0\.1\.0\./);
  assert.match(note("0.2.0", "0.1.0", ["DiTBlocksNew"]), /0\.2\.0; this is 0\.1\.0, which does not have DiTBlocksNew\./);
  assert.match(note("0.1.0", "0.1.0", ["DiTBlocksA", "DiTBlocksB"]), /^DiT Blocks 0\.1\.0 does not have DiTBlocksA, DiTBlocksB\./);
});

test("it is said in the editor's language", () => {
  speak("zh");
  const lines = [note("0.2.0", "0.1.0", []), note("0.2.0", "0.1.0", ["DiTBlocksNew"]), note("0.1.0", "0.1.0", ["DiTBlocksNew"])];
  speak("en");
  assert.deepEqual(lines, [
    "由 DiT Blocks 0.2.0 保存；这里是 0.1.0。更新节点包之前，外观或结果可能不同。",
    "由 DiT Blocks 0.2.0 保存；这里是 0.1.0，没有 DiTBlocksNew。更新节点包也许就有了。",
    "DiT Blocks 0.1.0 没有 DiTBlocksNew。更新节点包也许就有了。",
  ]);
});

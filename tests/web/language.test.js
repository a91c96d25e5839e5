import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { CHINESE, say, speak } from "../../web/language.js";
import { tokensInWords } from "../../web/words.js";

const folder = new URL("../../web/", import.meta.url);
const names = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();

test("everything that is said has a translation, and no other has one", () => {
  const scripts = readdirSync(folder).filter((name) => name.endsWith(".js"));
  const said = scripts.flatMap((name) =>
    [...readFileSync(new URL(name, folder), "utf8").matchAll(/\bsay\(\s*"([^"]+)"/g)].map(([, text]) => text),
  );
  assert.deepEqual([...new Set(said)].sort(), Object.keys(CHINESE).sort());
});

test("a translation fills in the same values", () => {
  for (const [english, chinese] of Object.entries(CHINESE)) assert.deepEqual(names(chinese), names(english), english);
});

test("the editor's language is spoken", () => {
  speak("zh-TW");
  assert.equal(tokensInWords([32, 32], 2, 16), "1,024 个 token，每个 16 个值：32×32 个 2×2 的图块");
  assert.equal(say("no such text {p}", { p: 2 }), "no such text 2");
  speak("en");
  assert.equal(say("before: {label}", { label: "p = 2" }), "before: p = 2");
});

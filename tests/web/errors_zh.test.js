import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { ERRORS, errorInWords } from "../../web/errors_zh.js";
import { speak } from "../../web/language.js";

const root = new URL("../../", import.meta.url);
const names = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();

test("an error is told in the editor's language", () => {
  const cfg = "DiT Denoise: cfg 3 needs a negative: wire one, or set cfg to 1";
  const step = "Add Noise: step 99 is outside the schedule, whose steps are 0 to 19";
  assert.equal(errorInWords(cfg), cfg);
  speak("zh");
  assert.equal(errorInWords(cfg), "DiT Denoise: cfg 3 需要负面条件：请接上一个，或把 cfg 设为 1");
  assert.equal(errorInWords(step), "Add Noise: 第 99 步在日程之外，日程的步是 0 到 19");
  assert.equal(errorInWords("end_step 2 is not after start_step 5"), "end_step 2 不在 start_step 5 之后");
  for (const other of ["", "Patchify: no such error", `${step}\n${step}`]) assert.equal(errorInWords(other), other);
  speak("en");
});

test("every error that has a translation is one of the pack's Python, with the same values", () => {
  const sources = ["dit_impl", "nodes"].flatMap((folder) =>
    readdirSync(new URL(folder, root), { recursive: true })
      .filter((name) => name.endsWith(".py"))
      .map((name) => readFileSync(new URL(`${folder}/${name}`, root), "utf8")),
  );
  const said = sources.join("\n").replace(/"\s*\n\s*f?"/g, "");
  const plain = said.replace(/\{[^{}]*\}/g, "{}");
  const advice = [": set step to {fitting}", ": use the schedule that they were made with"]; // put together where it is said
  for (const [english, chinese] of Object.entries(ERRORS)) {
    assert.deepEqual(names(chinese), names(english), english);
    const parts = advice.some((one) => english.endsWith(one)) ? english.split(/: (?=set step|use the)/) : [english];
    for (const part of parts) assert.ok(plain.includes(part.replace(/\{\w+\}/g, "{}")), part);
  }
});

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { inBoth } from "../../web/titles_zh.js";

const EXAMPLES = new URL("../../example_workflows/", import.meta.url);
const THE_SAME = /^(p = \d|CFG|Autoguidance)$/; // in both languages

test("every title in the examples has its Chinese, and comes back", () => {
  const [missing, titles] = [new Set(), new Set()];
  for (const name of readdirSync(EXAMPLES).filter((file) => file.endsWith(".json"))) {
    const graph = JSON.parse(readFileSync(new URL(name, EXAMPLES), "utf8"));
    for (const { nodes, groups = [] } of [graph, ...(graph.definitions?.subgraphs ?? [])]) {
      for (const { title } of [...nodes, ...groups]) {
        if (title) titles.add(title);
        if (title && !THE_SAME.test(title.replace(/^\d+ /, "")) && !inBoth(title)) missing.add(title);
      }
    }
  }
  assert.deepEqual([...missing], []);
  for (const title of titles) {
    const both = inBoth(title);
    if (both) assert.equal(inBoth(both.zh).en, title); // and comes back
  }
});

test("a title is found by either language, with its number", () => {
  assert.deepEqual(inBoth("2 See it"), { en: "2 See it", zh: "2 看见它" });
  assert.deepEqual(inBoth("第 7 步"), { en: "Step 7", zh: "第 7 步" });
  assert.equal(inBoth("my own"), undefined);
  assert.equal(inBoth(""), undefined);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { Answers, newest } from "../../web/answers.js";

test("what was answered is not asked again", async () => {
  let asked = 0;
  const answers = new Answers(async (question) => {
    asked += 1;
    return `${question}!`;
  });
  assert.deepEqual(await Promise.all([answers.ask("a"), answers.ask("a"), answers.ask("b")]), ["a!", "a!", "b!"]);
  assert.equal(asked, 2);
});

test("a question that failed is asked again", async () => {
  let fails = true;
  const answers = new Answers(async () => {
    if (fails) throw new Error("no network");
    return "there";
  });
  assert.equal(await answers.ask("a"), null);
  fails = false;
  assert.equal(await answers.ask("a"), "there");
});

test("what is kept does not grow without end", async () => {
  let asked = 0;
  const answers = new Answers(async () => {
    asked += 1;
  });
  for (let i = 0; i < 60; i++) await answers.ask(String(i));
  await answers.ask("59");
  assert.equal(asked, 60);
  await answers.ask("0");
  assert.equal(asked, 61);
});

test("a late answer does not take the place of a newer one", async () => {
  /** @type {string[]} */
  const heard = [];
  const hear = newest((/** @type {string} */ answer) => heard.push(answer));
  /** @type {(answer: string) => void} */
  let later = () => {};
  const old = hear(
    new Promise((resolve) => {
      later = resolve;
    }),
  );
  await hear(Promise.resolve("new"));
  later("old");
  await old;
  assert.deepEqual(heard, ["new"]);
});

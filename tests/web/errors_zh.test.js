import assert from "node:assert/strict";
import { test } from "node:test";
import { ERRORS, errorInWords } from "../../web/errors_zh.js";
import { speak } from "../../web/language.js";
import { PHRASES } from "../../web/zh/phrases.js";

const names = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();

test("an error is told in the editor's language", () => {
  const cfg = "DiT Denoise: cfg 3 needs a negative: wire one, or set cfg to 1";
  const step = "Add Noise: step 99 is outside the schedule, whose steps are 0 to 19";
  assert.equal(errorInWords(cfg), cfg);
  speak("zh");
  assert.equal(errorInWords(cfg), "DiT Denoise: cfg 3 需要负面条件：请接上一个，或把 cfg 设为 1");
  assert.equal(errorInWords(step), "Add Noise: 第 99 步在日程之外，日程的步是 0 到 19");
  assert.equal(errorInWords("end_step 2 is not after start_step 5"), "结束步 2 不在起始步 5 之后");
  for (const other of ["", "Patchify: no such error", `${step}\n${step}`]) assert.equal(errorInWords(other), other);
  speak("en");
});

test("of two patterns that fit, the one with more words counts", () => {
  speak("zh");
  const attends = "block 3 of SD3 showed no attention: it is replaced or compiled by a patch on the MODEL";
  assert.equal(errorInWords(`Attention Map: ${attends}`), "Attention Map: SD3 的第 3 块没有露出注意力：MODEL 上的补丁替换或编译了它");
  const whole = "Patchify: factor is a whole number from 1 to 64, not 'many'";
  assert.equal(errorInWords(whole), "Patchify: factor 是 1 到 64 的整数，不是 'many'");
  const list = "Load DiT: scale is a list of 2, each a whole number from 1 to 9, not [0, 1]";
  assert.equal(errorInWords(list), "Load DiT: scale 是列表（2 项），每项是 1 到 9 的整数，不是 [0, 1]");
  const nested = "Load DiT: a: its metadata 'dit' does not describe a DiT: downscale is a whole number of at least 1, not 0";
  assert.equal(errorInWords(nested), "Load DiT: a：元数据 'dit' 描述的不是 DiT：downscale 是至少 1 的整数，不是 0");
  const wire = "Token Map: x takes tokens, this is a LATENT: put Patchify before this node";
  assert.equal(errorInWords(wire), "Token Map: x 要 tokens，这是 LATENT：请在本节点之前放 Patchify");
  assert.equal(errorInWords("Load DiT: positive is empty"), "Load DiT: 正面条件是空的");
  assert.equal(errorInWords("Patchify: patch_size is at least 1, not 0"), "Patchify: 图块大小至少是 1，不是 0");
  speak("en");
});

test("words and errors inside an error are translated too", () => {
  speak("zh");
  const told = {
    "Add Noise: step 3 begins at noise level 0.5, the tokens stand at 0.7: set step to 2":
      "Add Noise: 第 3 步从噪声水平 0.5 开始，tokens 却在 0.7：请把步设为 2",
    "the cost of Flux (MODEL) is not known: Flux fails on shapes alone: no such size":
      "不知道 Flux（MODEL）的开销：Flux 只凭形状时出错: no such size",
    "Patch Budget: the cost of X (MODEL) is not known: X has no blocks that it calls once each for the picture, so that it can't be taken apart; use DiT Denoise Step":
      "Patch Budget: 不知道 X（MODEL）的开销：X 没有对图片各调用一次的块，不能拆开：请用 DiT Denoise Step",
    "Load DiT: a.safetensors: missing x; unexpected y, z and 3 more": "Load DiT: a.safetensors: 缺少 x; 多出 y, z 等另外 3 个",
    "Load DiT: models/a.safetensors: no such file": "Load DiT: models/a.safetensors：没有这个文件",
    "Load Adapter: a: no patch-size adapter; its metadata has no 'dit_adapter'":
      "Load Adapter: a：不是图块大小适配器，元数据里没有 'dit_adapter'",
    "Train DiT: step 9 made weights that are not finite: learning_rate 1 is too high; the last good state, of step 8, is in a/b":
      "Train DiT: 第 9 步的权重不再是有限数：学习率 1 太高；最近的好状态是第 8 步的，在 a/b",
    "Train DiT: the loss of step 2 is nan, its gradient's norm nan: learning_rate 1 is too high; the last good state, of step 1, is in a":
      "Train DiT: 第 2 步的损失是 nan，梯度的范数是 nan：学习率 1 太高；最近的好状态是第 1 步的，在 a",
    'Position Embed: X has positions of its own kind inside attention: only mode "model" is possible, not "none"':
      'Position Embed: X 在注意力内部有自己的位置：位置方式只能是 "model"，不是 "none"',
    "DiT Blocks: the blocks of X run in another order: or not": "DiT Blocks: the blocks of X run in another order: or not",
  };
  for (const [english, chinese] of Object.entries(told)) assert.equal(errorInWords(english), chinese);
  speak("en");
});

test("a translation has the values of its error, and every error finds its own", () => {
  speak("zh");
  for (const [english, chinese] of Object.entries({ ...ERRORS, ...PHRASES })) {
    assert.deepEqual(names(chinese), names(english), english);
  }
  for (const [english, chinese] of Object.entries(ERRORS)) {
    const said = (/** @type {string} */ text) => text.replace(/\{(\w+)\}/g, (_, name) => `«${name}»`);
    assert.equal(errorInWords(`Some Node: ${said(english)}`).replace("Some Node: ", ""), said(chinese), english);
  }
  speak("en");
});

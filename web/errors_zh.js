import { inEditorsLanguage } from "./language.js";

// The errors that a user of the editor meets most, in Chinese. The log keeps the English, and so does the page for any other error.

/** An error of the pack's Python, with a name in braces for each of its values. @type {Record<string, string>} */
export const ERRORS = {
  "cfg {cfg} needs a negative: wire one, or set cfg to 1": "cfg {cfg} 需要负面条件：请接上一个，或把 cfg 设为 1",
  "cfg {cfg} needs a negative: wire one into DiT Condition, or the prediction of another branch into negative":
    "cfg {cfg} 需要可以远离的预测：请在 DiT Condition 接负面条件，或在 negative 接另一个分支的预测",
  "{what} is guided already: for cfg {cfg}, wire a negative prediction into negative":
    "{what} 已引导过：要用 cfg {cfg}，请在 negative 接一个对照预测",
  "{what} is not from Final Layer or DiT Guidance": "{what} 不是来自 Final Layer 或 DiT Guidance",
  "step {step} is outside the schedule, whose steps are 0 to {last}": "第 {step} 步在日程之外，日程的步是 0 到 {last}",
  "end_step {end} is not after start_step {start}": "end_step {end} 不在 start_step {start} 之后",
  "step {step} begins at noise level {begins}, the tokens stand at {stands}: set step to {fitting}":
    "第 {step} 步从噪声水平 {begins} 开始，tokens 却在 {stands}：请把 step 设为 {fitting}",
  "step {step} begins at noise level {begins}, the tokens stand at {stands}: use the schedule that they were made with":
    "第 {step} 步从噪声水平 {begins} 开始，tokens 却在 {stands}：请用产生它们的那个日程",
  "sigmas are a list of at least 2 noise levels, not {shape}: wire a Sigma Schedule":
    "sigmas 是至少 2 个噪声水平的列表，不是 {shape}：请接 Sigma Schedule",
  "{what} {side} {length} is smaller than patch_size {p}": "{what} 的 {side} {length} 小于 patch_size {p}",
  "{model} knows patch sizes {sizes}, the tokens have patch_size {p}": "{model} 认识的图块大小是 {sizes}，tokens 的 patch_size 是 {p}",
  "{model} has latents of {channels} channels, the tokens come from {others}":
    "{model} 的潜变量有 {channels} 个通道，tokens 的有 {others} 个",
  "the tokens are not in the latent space of {model}: wire its dit into Patchify":
    "tokens 不在 {model} 的潜空间里：请把它的 dit 接到 Patchify",
  "{model} reads text, not a class label: use CLIP Text Encode": "{model} 读文本，不读类别标签：请用 CLIP Text Encode",
  "the hidden states have not been through {stage}": "隐藏状态还没有经过 {stage}",
  "the hidden states are conditioned already": "隐藏状态已经过 DiT Condition",
  "the patches are embedded already": "图块已经嵌入过",
  "{input} takes raw tokens, these are hidden states: put Final Layer before this node":
    "{input} 要原始 tokens，这是隐藏状态：请在本节点之前放 Final Layer",
  "{input} takes hidden states, these are raw tokens: put DiT Condition or Patch Embed before this node":
    "{input} 要隐藏状态，这是原始 tokens：请在本节点之前放 DiT Condition 或 Patch Embed",
  "{model} has blocks 0 to {last}, there is no block {block}": "{model} 的块是 0 到 {last}，没有第 {block} 块",
  "query {query} is outside the grid of {size} tokens, which are 0 to {last} in reading order":
    "query {query} 在 {size} 个 token 的网格之外，按阅读顺序是 0 到 {last}",
  "the prediction was made at sigma {made}, step {step} is at {sigma}": "预测是在 sigma {made} 做的，第 {step} 步在 {sigma}",
};

const KNOWN = Object.entries(ERRORS).map(([english, zh]) => {
  const pattern = english.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{(\w+)\}/g, "(?<$1>.+?)");
  return /** @type {const} */ ([new RegExp(`^(?<node>[^:]+: )?${pattern}$`), zh]);
});

/** An error of the pack's Python in the editor's language, with the node's name before it where it has one. @param {string} en */
export function errorInWords(en) {
  for (const [pattern, chinese] of KNOWN) {
    const { node = "", ...values } = en.match(pattern)?.groups ?? { none: "" };
    if ("none" in values) continue;
    return inEditorsLanguage({ en, zh: node + chinese.replace(/\{(\w+)\}/g, (_, name) => values[name]) });
  }
  return en;
}

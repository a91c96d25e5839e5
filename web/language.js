// What the pack's own boxes and menus say, in the editor's language. The English text is the key.

/** @type {Record<string, string>} */
export const CHINESE = {
  "run to see the arithmetic": "运行后显示算式",
  "run to compare with the whole model": "运行后与整个模型比较",
  "run once to see the grid: the latent's size is not known yet": "运行一次即可看到网格：还不知道潜变量的大小",
  "run once to see the model's own patch size": "运行一次即可知道模型自己的图块大小",
  "patch_size {p} does not fit into a latent of {height}×{width} cells": "图块大小 {p} 放不进 {height}×{width} 格的潜变量",
  "token {token}: row {row}, column {column}": "token {token}：第 {row} 行，第 {column} 列",
  "{count} selected, Escape takes it back": "已选 {count} 个，按 Esc 取消",
  "the grid has tokens 0 to {last}, the selection goes on to {most}: Escape takes it back":
    "网格只有 token 0 到 {last}，选择却到了 {most}：按 Esc 取消",
  "{count} tokens of {values} values: {rows}×{columns} patches of {p}×{p}":
    "{count} 个 token，每个 {values} 个值：{rows}×{columns} 个 {p}×{p} 的图块",
  "{count} tokens of {values} values: {frames} frames of {rows}×{columns} patches of {p}×{p}":
    "{count} 个 token，每个 {values} 个值：{frames} 帧，各 {rows}×{columns} 个 {p}×{p} 的图块",
  "{count} tokens: {rows}×{columns} patches of {p}×{p}": "{count} 个 token：{rows}×{columns} 个 {p}×{p} 的图块",
  "in the steps: patches of {sizes}, where a run puts them": "各步中：{sizes} 的图块，放在哪里运行时才知道",
  "in the steps: {patches} patches": "各步中的图块：{patches}",
  "{count} of {p}×{p}": "{count} 个 {p}×{p}",
  "{flops}FLOPs a step, p = {p} is the model's own": "每步 {flops}FLOPs，p = {p} 是模型自己的",
  "{flops}FLOPs a step, {share} of p = {own}": "每步 {flops}FLOPs，是 p = {own} 的 {share}",
  "{tokens} tokens, {flops}FLOPs a step": "{tokens} 个 token，每步 {flops}FLOPs",
  "{tokens} tokens in each of {batch} pictures, {flops}FLOPs a step": "{batch} 张图片各 {tokens} 个 token，每步 {flops}FLOPs",
  "{steps} steps: {flops}FLOPs": "{steps} 步：{flops}FLOPs",
  "{steps} steps: {flops}FLOPs, {share} of p = {own} throughout": "{steps} 步：{flops}FLOPs，是全程 p = {own} 的 {share}",
  "no weights for p = {p}: read by resample, on a coarser latent": "没有 p = {p} 的权重：用 resample 在更粗的潜变量上读",
  "no weights for p = {p}: read by pi_resize, coarsely": "没有 p = {p} 的权重：用 pi_resize 粗略地读",
  "sizes of the model": "模型自带的大小",
  "cfg {cfg} needs a negative: wire one into DiT Condition, or a prediction into negative":
    "cfg {cfg} 需要可以远离的预测：请在 DiT Condition 接负面条件，或在 negative 接一个预测",
  "run once to see the model's blocks": "运行一次即可看到模型的块",
  "blocks {has}": "块 {has}",
  "blocks {has}; runs {count}: {numbers}": "块 {has}；运行 {count} 个：{numbers}",
  "cost: of the Denoise that takes these sigmas, where its model is known": "开销：取用此噪声调度的 DiT Denoise 的开销，知道其模型时显示",
  "cost: known after a run where the model's shape is": "开销：若知道模型的形状，运行后显示",
  "run to walk through x0, step by step": "运行后可逐步查看 x0",
  "x0 at step {step}, σ = {sigma}": "第 {step} 步的 x0，σ = {sigma}",
  "x0 at step {step}, σ = {sigma}, after block {block}": "第 {step} 步、第 {block} 块之后的 x0，σ = {sigma}",
  "blocks left out in {count} of {steps} steps": "{steps} 步中有 {count} 步省去了块",
  "run a sampler to see in which steps blocks are left out": "运行采样器后显示哪些步省去了块",
  "run to see x0": "运行后显示 x0",
  "x0: the picture that the model expects": "x0：模型预期的图片",
  "before: {label}": "之前：{label}",
  "now: {label}": "现在：{label}",
  "Saved with DiT Blocks {saved}; this is {own}. It may look or draw otherwise until the pack is updated.":
    "由 DiT Blocks {saved} 保存；这里是 {own}。更新节点包之前，外观或结果可能不同。",
  "Saved with DiT Blocks {saved}; this is {own}, which does not have {nodes}. An update may bring what is missing.":
    "由 DiT Blocks {saved} 保存；这里是 {own}，没有 {nodes}。更新节点包也许就有了。",
  "DiT Blocks {own} does not have {nodes}. An update may bring what is missing.": "DiT Blocks {own} 没有 {nodes}。更新节点包也许就有了。",
  "its patch: {count} values": "它的图块：{count} 个值",
  "× row {number} of the patch embedding, and the products below": "× 图块嵌入的第 {number} 行，下面是乘积",
  "{some} + … = {sum}; bias {bias}: number {number} of {width} is {embedded}":
    "{some} + … = {sum}；偏置 {bias}：{width} 个数中的第 {number} 个是 {embedded}",
  "its vector, {shown} of {width} numbers": "它的向量，{width} 个数中的 {shown} 个",
  "patch embedding: number {number} of {width} is {embedded}": "图块嵌入：{width} 个数中的第 {number} 个是 {embedded}",
  "its place adds {added}: {placed}; its place vector has length {length}":
    "它的位置加 {added}：得 {placed}；整个位置向量的长度为 {length}",
  "its place adds nothing: rotary positions turn queries and keys": "它的位置不加任何东西：旋转位置转动 query 和 key",
  "its place adds nothing: rotary; layers before the blocks make this number {placed}":
    "它的位置不加任何东西（旋转位置）；各块之前的层使这个数变为 {placed}",
  "embedding and place, not shown apart here: number {number} of {width} is {placed}":
    "嵌入与位置（这里不分开显示）：{width} 个数中的第 {number} 个是 {placed}",
  "its place adds nothing here": "它的位置在这里不加任何东西",
  "length before the blocks and after each": "进入各块之前与每块之后的长度",
  "words it reads most, mean of heads and blocks": "它读得最多的词（各头各块的平均）",
  "no block shows this token reading text": "没有块显示这个 token 在读文本",
  "the head answers {count} values": "输出层给出 {count} 个值",
  "run to follow a token; then click one on any panel": "运行后可跟随一个 token；然后在任一面板上点一个",
  "token {token} is chosen: run again to follow it": "已选 token {token}：再运行一次即可跟随它",
  "run to see the maps": "运行后显示各图",
  "run to see which tokens are alike": "运行后可看到哪些 token 相似",
  "like {place} (orange: alike, blue: opposite)": "与 {place} 相似（橙：相似，蓝：相反）",
  "under the mouse: {place}; click and run to compare with it": "鼠标下：{place}；点击并运行即可与它比较",
  "click to choose it": "点击选定",
  "query is {query} now: run again for the outputs": "query 现为 {query}：再运行一次以更新输出",
  "Explode into stages": "展开为各阶段",
  "Collapse into DiT Denoise Step": "收起为 DiT Denoise Step",
  "changed inside": "内部有改动",
  "{widgets} changed": "{widgets} 有改动",
  "not with {value}": "{value} 时不可",
  "not with {value} wired": "接有 {value} 时不可",
  "the number of steps is not known": "不知道有多少步",
  "Explode into a loop of stages": "展开为各阶段的循环",
  "Explode its first step into stages": "把第一步展开为各阶段",
  "Wire its stages for every step": "为每一步连出各阶段",
  "it has them": "已经连好了",
};

let chinese = false;

/** @param {unknown} locale "en", "zh", "zh-TW" … */
export function speak(locale) {
  chinese = String(locale).startsWith("zh");
}

/** @param {{en: string, zh?: string}} texts */
export const inEditorsLanguage = ({ en, zh }) => (chinese && zh) || en;

/** What a node's language widget is called in the editor's language. */
export const pictureLanguage = () => (chinese ? "中文" : "English");

/** @param {string} english @param {Record<string, unknown>} values of the names in braces */
export function say(english, values = {}) {
  const text = (chinese && CHINESE[english]) || english;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

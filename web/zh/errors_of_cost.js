/** @type {Record<string, string>} */
export const ERRORS = {
  'a shape is "embedded" or an object with a kind and its fields, not {given}':
    '形状是 "embedded"，或一个带 kind 和各字段的对象，不是 {given}',
  "the rows say 'of other', and no other model is wired": "各行写了 'of other'，却没有接另一模型",
  "what capture_blocks costs with {model} is not known": "不知道 {model} 记录各块要多少开销",
  "patch_size {p} does not fit into a latent of {height}×{width} cells": "图块大小 {p} 放不进 {height}×{width} 格的潜变量",
  "{model} runs the stages that were wired for one step in every step, whose cost is not counted: wire the dit from before that node":
    "{model} 每步都按为一步接好的各阶段运行，其开销不计算：请接那个节点之前的 dit",
  "a picture of {width}×{height} pixels in patches of {p} leaves no token":
    "{width}×{height} 像素的图片切成大小 {p} 的图块，一个 token 也不剩",
  "the cost of {model} is no polynomial in its tokens": "{model} 的开销不是 token 数的多项式",
  "a fitted shape has {count} polynomials, or {numbers} numbers for a grid": "拟合的形状有 {count} 个多项式，或一个网格的 {numbers} 个数",
  "what {model} costs is known {where}, not for {rows}×{columns}: Patch Budget counts every size":
    "{model} 的开销只在{where}已知，{rows}×{columns} 的不知道：Patch Budget 能算任何大小",
};

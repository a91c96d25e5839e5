/** @type {Record<string, string>} */
export const ERRORS = {
  "{what} is empty": "{what} 是空的",
  "{what} is a class label, {model} reads text: use CLIP Text Encode": "{what} 是类别标签，{model} 读的是文本：请用 CLIP Text Encode",
  "{what} has width {width}, {model} reads width {own}: use the CLIP that came with this model":
    "{what} 的宽度是 {width}，{model} 读的宽度是 {own}：请用这个模型自带的 CLIP",
  "{what} has no class_label, which {model} reads: use Class Label": "{what} 没有 {model} 要读的类别标签：请用 Class Label",
  "{what} is class {label}, {model} knows classes 0 to {last}": "{what} 是类别 {label}，{model} 认识的类别是 0 到 {last}",
  "{what} has no pooled_output, which {model} needs": "{what} 没有 {model} 需要的 pooled_output",
  "{what} has a pooled_output of width {width}, {model} reads {own}": "{what} 的 pooled_output 宽度是 {width}，{model} 读的是 {own}",
  "{what} has an attention_mask for {masked} tokens, but text of {tokens}":
    "{what} 的 attention_mask 有 {masked} 个 token，文本却有 {tokens} 个",
  "{count} positions of width {width} are not a square 2-D sine-cosine table": "{count} 个宽度 {width} 的位置不是正方形的二维正弦余弦表",
  "the position table has values that are NaN or infinite": "位置表里有 NaN 或无穷大的值",
  "no evenly spaced grid gives this position table (it differs by {error})": "没有等距的网格能给出这个位置表（相差 {error}）",
  'mode "scaled": {model} stretches its own positions over every grid already: use mode "model"':
    '位置方式 "scaled"：{model} 已经把自己的位置拉伸到任何网格上：请用 "model"',
  'the rotary positions of {model} can\'t be changed: only mode "model" is possible': '{model} 的旋转位置不能改：位置方式只能是 "model"',
  "the layers of {model} can't be counted": "数不出 {model} 的各层",
  "block {block} needs the text tokens, but the last block ({last}) drops them: run it last":
    "第 {block} 块需要文本 tokens，但最后一块（{last}）会丢掉它们：请把那块放在最后",
  "{model} has blocks 0 to {last}, there is no block {block}": "{model} 的块是 0 到 {last}，没有第 {block} 块",
};

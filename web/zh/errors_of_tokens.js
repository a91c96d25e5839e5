/** @type {Record<string, string>} */
export const ERRORS = {
  "the hidden states have no embedded tokens yet: put Patch Embed before this node":
    "隐藏状态还没有嵌入的 tokens：请在本节点之前放 Patch Embed",
  "{first} holds {kind}, {second} holds {other}: both must be the same kind": "{first} 是{kind}，{second} 是{other}：两者必须同类",
  "{first} comes from {model}, {second} from {other}": "{first} 来自 {model}，{second} 来自 {other}",
  "{first} has {shape}, {second} has {other}": "{first} 是 {shape}，{second} 是 {other}",
  '"same place" takes the tokens of another wire: wire one into source': '"same place" 取另一条连线的 tokens：请在“来源”接一条',
  "the {width}×{height} rectangles at column {column}, row {row} and at column {to_column}, row {to_row} overlap":
    "第 {column} 列、第 {row} 行与第 {to_column} 列、第 {to_row} 行的 {width}×{height} 矩形重叠了",
  "{first} and {second} are in different latent spaces: wire the same dit into both Patchify nodes":
    "{first} 和 {second} 在不同的潜空间里：请给两个 Patchify 接同一个 dit",
  "tokens of a video with a noise mask cannot be moved": "带噪声遮罩的视频 tokens 不能移动",
  "fill is one of {known}, not {fill}": "填充方式是 {known} 之一，不是 {fill}",
  "a latent of {height}×{width} is not a multiple of {p}: patches of several sizes need that":
    "{height}×{width} 的潜变量不是 {p} 的倍数：几种大小的图块需要这样",
  "patches of {p} can't be split into patches of {finer}": "大小 {p} 的图块不能分成大小 {finer} 的",
  "a patch of {p} to split is not there, or is named twice": "要分开的大小 {p} 的图块不存在，或写了两次",
  "a latent of {height}×{width} cells is not a multiple of {p}: patches of several sizes need that":
    "{height}×{width} 格的潜变量不是 {p} 的倍数：几种大小的图块需要这样",
  "patches of {p} go where the mask is, and there is none: wire a mask into Patch Regions":
    "大小 {p} 的图块放在遮罩处，却没有遮罩：请在 Patch Regions 接一个",
  "{what} are of several areas of the picture, of {sizes} tokens, but this node needs all tokens on one grid: leave Conditioning (Set Area) out, or use Conditioning (Set Mask)":
    "{what}属于图片的几个区域，各有 {sizes} 个 token，本节点却要所有 token 在一个网格上：请去掉 Conditioning (Set Area)，或用 Conditioning (Set Mask)",
  "it is not known which tokens of {model} are the picture's where {what} come from": "不知道{what}所在处 {model} 的哪些 token 属于图片",
  "it is not known which tokens of {model} are the picture's where {what} come from: it has {known} of them there, the grid has {count}":
    "不知道{what}所在处 {model} 的哪些 token 属于图片：那里有 {known} 个，网格有 {count} 个",
  "these are more than {most} {what}s": "这里多于 {most} 个{what}",
  "{whole} has {what}s 0 to {last}, there is no {item} {number}": "{whole}的{what}是 0 到 {last}，没有{item} {number}",
  '{what}s are numbers and ranges such as "0-11", "0,2,4-7", "11-0", "all" or "all but 7", not {part}':
    '{what}是编号和范围，例如 "0-11"、"0,2,4-7"、"11-0"、"all" 或 "all but 7"，不是 {part}',
  "patch_method is one of {known}, not {method}": "图块方式是 {known} 之一，不是 {method}",
  "patch_size is at least 1, not {p}": "图块大小至少是 1，不是 {p}",
  "{model} knows patch sizes {sizes}, not {p}: patch_method native can't read it, resample or pi_resize may":
    "{model} 认识的图块大小是 {sizes}，没有 {p}：图块方式 native 读不了，请试 resample 或 pi_resize",
  "resample takes multiples of {model}'s own patch size {own}, not {p}: pi_resize takes any":
    "resample 只读 {model} 自己的图块大小 {own} 的倍数，不读 {p}：pi_resize 什么大小都读",
  "latent {side} {length} is smaller than patch size {p}": "潜变量的{side} {length} 小于图块大小 {p}",
  "hidden has not been through DiT Condition and Patch Embed, in this order": "隐藏状态没有先经过 DiT Condition、再经过 Patch Embed",
  "hidden has been through a node that can't run again in every step: wire Patch Embed, Position Embed, DiT Blocks, Steer and the nodes that edit tokens, after DiT Condition":
    "隐藏状态经过了不能每步重跑的节点：请在 DiT Condition 之后接 Patch Embed、Position Embed、DiT Blocks、Steer 和改动 tokens 的节点",
  "hidden comes from two DiT Condition nodes; in every step there is one, the sampler's own":
    "隐藏状态来自两个 DiT Condition：每步只有一个，就是采样器自己的",
  "hidden has been through the blocks of two models; in every step there is one": "隐藏状态经过了两个模型的块：每步只有一个模型",
  "{width}×{height} tokens from column {column}, row {row} are not all inside the grid of {columns} columns and {rows} rows":
    "从第 {column} 列、第 {row} 行起的 {width}×{height} 个 token 超出了 {columns} 列、{rows} 行的网格",
  "selection: {error}": "选择：{error}",
  "towards is taken before block {block}, away before block {other}: take both at the same place":
    "“朝向”取自第 {block} 块之前，“远离”取自第 {other} 块之前：请在同一处取两者",
  "the mask covers no token: a token counts if the mask covers more than half of it": "遮罩没有盖住任何 token：盖住一半以上的 token 才算",
  "vectors that are averaged are taken at one place: this one is {found}; more is {more}":
    "求平均的向量要取自同一处：这个是 {found}；“更多”是 {more}",
  "the vector has {count} numbers, for {source}; tokens of {model} have {width}":
    "向量有 {count} 个数，属于 {source}；{model} 的 token 有 {width} 个",
  "rows is {known}, not {rows}": "“哪些行”是 {known}，不是 {rows}",
  "{what} holds raw tokens: wire hidden states, from Patch Embed, Position Embed or DiT Blocks":
    "{what} 是原始 tokens：请接 Patch Embed、Position Embed 或 DiT Blocks 的隐藏状态",
  "a latent is [B, C, H, W], or [B, C, T, H, W] with frames, not {shape}": "潜变量是 [B, C, H, W]，带帧时是 [B, C, T, H, W]，不是 {shape}",
  "{frames} latent frames are not a multiple of the {patch} frames in a patch of this model":
    "潜变量的 {frames} 帧不是这个模型每个图块 {patch} 帧的倍数",
  "the {what} holds {count} values that are NaN or infinite": "{what}里有 {count} 个 NaN 或无穷大的值",
  "the model's latents have {channels} channels, this one has {own}": "模型的潜变量有 {channels} 个通道，这个有 {own} 个",
  "an image is [B, H, W, C], not {shape}": "图像是 [B, H, W, C]，不是 {shape}",
  "{first} has a {shape} grid of patches of {p}, {second} a {other} grid of patches of {q}":
    "{first} 是 {shape} 的网格、图块大小 {p}，{second} 是 {other} 的网格、图块大小 {q}",
  "{what} {side} {length} is smaller than patch_size {p}": "{what}的{side} {length} 小于图块大小 {p}",
};

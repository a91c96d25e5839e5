/** @type {Record<string, string>} */
export const ERRORS = {
  "{what} has width {width}, {model} reads width {own}: use the CLIP that goes with this model":
    "{what} 的宽度是 {width}，{model} 读的宽度是 {own}：请用这个模型配套的 CLIP",
  'the rotary positions of {model} are made in a way that is not known: use mode "model"':
    '不知道 {model} 的旋转位置怎样产生：位置方式请用 "model"',
  "this MODEL carries a wrapper around the whole diffusion model ({key}), which stages would leave out; use DiT Denoise Step":
    "这个 MODEL 带有包住整个扩散模型的包装（{key}），各阶段会漏掉它：请用 DiT Denoise Step",
  "{kind}.{method} is not {upstream}.{name}, which the stages follow; use DiT Denoise Step":
    "{kind}.{method} 不是各阶段所依照的 {upstream}.{name}：请用 DiT Denoise Step",
  "{kind} has no {attribute} in ComfyUI {version}; use DiT Denoise Step":
    "在 ComfyUI {version} 里，{kind} 没有 {attribute}：请用 DiT Denoise Step",
  "the width of the text that {model} reads is not known": "不知道 {model} 读的文本有多宽",
  "the {what} of {model} can't be told apart from the rest of its forward, which it has no stage adapter for":
    "{model} 的{what}无法从它 forward 的其余部分分开，它没有各阶段的适配",
  "the blocks of {model} are known after DiT Condition only": "在 DiT Condition 之后才知道 {model} 的块",
  "the heads of {model} are known once its attention was seen": "看到 {model} 的注意力之后才知道它的头数",
  "it is not known where the picture's tokens are in the attention of block {block} of {model} ({path})":
    "不知道图片的 tokens 在 {model} 第 {block} 块（{path}）的注意力里的何处",
  "the stages of Lumina 2 and Z-Image take no reference latents; use DiT Denoise Step":
    "Lumina 2 和 Z-Image 的各阶段不读参考潜变量：请用 DiT Denoise Step",
  "the width of the text that {model} reads is its own affair": "{model} 读的文本有多宽由它自己决定",
  "{model} is asked to compute in another type than its weights have, which it can't in stages":
    "要 {model} 用不同于权重的类型计算，分阶段时做不到",
  "{model} merges the keys of neighbours in some blocks, whose cost is not known here": "{model} 在一些块里合并相邻的键，这里不知道其开销",
  "block {block} of {model} merges the keys of neighbours: there is no key for each token":
    "{model} 的第 {block} 块合并相邻的键：不是每个 token 都有键",
  "{model}'s attention takes no mask from outside: its image tokens read all others":
    "{model} 的注意力不接受外来的遮罩：它的图像 tokens 互相都看",
  "it is not known which are the picture's tokens {place} of {model}, so they can't be changed there":
    "不知道在 {model} {place}哪些是图片的 tokens，不能在那里改动",
  "block {block} of {model} ({path}) can't run after block {last} ({after}): it reads what other blocks answered":
    "{model} 的第 {block} 块（{path}）不能在第 {last} 块（{after}）之后运行：它读其他块的回答",
  "block {block} of {model} ({path}) can't run after block {last} ({after}): it takes other tokens":
    "{model} 的第 {block} 块（{path}）不能在第 {last} 块（{after}）之后运行：它要的是别的 tokens",
  "block {block} of {model} ({path}) gives what it was not given, so it can't be left out":
    "{model} 的第 {block} 块（{path}）给出了没有给它的东西，不能略去",
  "block {block} of {model} ({path}) needs tokens that the block before drops: run that one last":
    "{model} 的第 {block} 块（{path}）需要前一块丢掉的 tokens：请把前一块放在最后",
  "{model} runs its blocks in another order than when they were counted ({path}), so that stages would be wrong; {whole}":
    "{model} 运行各块的次序与清点时不同（{path}），各阶段会出错：{whole}",
  "the attention of block {block} of {model} ({path}) can't be seen: it has none, or does not hand its options on to it":
    "看不到 {model} 第 {block} 块（{path}）的注意力：它没有，或没有把选项传给注意力",
  "{model}, or a patch on it, draws random numbers while it runs, and stages would draw others; {whole}":
    "{model} 或它上面的补丁运行时会抽随机数，各阶段抽到的会不同：{whole}",
  "{model} has no blocks that it calls once each for the picture, so that it can't be taken apart; {whole}":
    "{model} 没有对图片各调用一次的块，不能拆开：{whole}",
  "a patch on this MODEL runs in the place of {name}, so that the blocks of {model} can't be numbered; {whole}":
    "这个 MODEL 上的补丁代替了 {name}，{model} 的块无法编号：{whole}",
  "{model} gives something else when its blocks only answer what they answered before: they keep a memory of their own, so that it can't be taken apart; {whole}":
    "{model} 的块重复先前的回答时，结果却不同：它们有自己的记忆，不能拆开：{whole}",
  "the layers of {model} are counted by its own forward": "{model} 的各层由它自己的 forward 清点",
};

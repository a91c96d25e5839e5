/** @type {Record<string, string>} */
export const ERRORS = {
  "{model} does not say which token is which word: write text token numbers, 0 to {last}, into word":
    "{model} 没有说明哪个 token 是哪个词：请在“词”里写文本 token 的编号，0 到 {last}",
  "word has no word in it: {word}": "“词”里没有词：{word}",
  "direction is one of {known}, not {direction}": "方向是 {known} 之一，不是 {direction}",
  "at_steps takes steps from {start} to {last}, not {text}": "“哪些步”是 {start} 到 {last} 的步，不是 {text}",
  "word has no word and no number in it: {word}": "“词”里既没有词也没有编号：{word}",
  "the prompt has no word {word}; its words are {words}": "提示词里没有 {word}，它的词是 {words}",
  "{model} has no text tokens here, so there is no {queries} to {keys} attention":
    "{model} 在这里没有文本 tokens，所以没有 {queries} 到 {keys} 的注意力",
  "block {block} of {model} showed no attention: it is replaced or compiled by a patch on the MODEL":
    "{model} 的第 {block} 块没有露出注意力：MODEL 上的补丁替换或编译了它",
  "in {model} text does not attend to the picture: its blocks have cross-attention from image to text only":
    "{model} 的文本不看图片：它的块只有从图片到文本的交叉注意力",
  "{model} has heads 0 to {last}, and {mean} for their mean, there is no head {head}":
    "{model} 的注意力头是 0 到 {last}，{mean} 是它们的平均，没有第 {head} 个头",
  "{asked} take {needed}, {free} are free: {fit} {unit} would fit": "{asked}要 {needed}，空闲的有 {free}：放得下 {fit} {unit}",
  "token {token} is outside {whole} are 0 to {last}": "token {token} 在{whole}是 0 到 {last}",
  "block {block} of {model} attends in a batch of {batch} to {keys} keys, where {expected} and {others} were expected: a patch on the MODEL changes what it sees, or memory is short":
    "{model} 的第 {block} 块在批大小 {batch} 里看 {keys} 个键，本应是 {expected} 和 {others}：MODEL 上的补丁改变了它看到的东西，或内存不足",
  "the concepts go with the picture from the first block on, and these hidden states come before block {block}: put this node in the place of DiT Blocks":
    "概念从第一块起就与图片同行，这些隐藏状态却已到第 {block} 块之前：请把本节点放在 DiT Blocks 的位置",
  "concepts ride along as text that reads the picture, and in {model} text does not attend to the picture, or none of these blocks shows it: it takes blocks with joint attention, as in SD3, Flux, Qwen-Image and the default model":
    "概念作为读图片的文本同行，而 {model} 的文本不看图片，或这些块都没有露出来：这需要联合注意力的块，如 SD3、Flux、Qwen-Image 和默认模型",
  "the hidden states hold {tokens} tokens, and {without} without what the conditioning adds, such as reference pictures: leave those out":
    "隐藏状态有 {tokens} 个 token，不算条件添加的（例如参考图片）则有 {without} 个：请去掉它们",
  "there are concepts 0 to {last}, there is no concept {concept}": "概念是 0 到 {last}，没有第 {concept} 个概念",
  "this clip does not say which of its tokens is which word, so that a word can't be told from the rest of a prompt":
    "这个 clip 没有说明哪个 token 是哪个词，无法把一个词与提示词的其余部分分开",
  "concepts has no word in it: write one thing on each line": "概念里没有词：请每行写一样东西",
  "{name} alone has nothing to be told from: write a second concept, or into against what else is in the picture, such as background":
    "只有 {name} 就没有可以与它区分的：请再写一个概念，或在“对照”里写图中还有什么，例如 background",
  "at most {most} concepts, with those in against; these are {count}": "概念连同“对照”里的至多 {most} 个，这里有 {count} 个",
  "the clip does not know {words} of the concept {concept}": "clip 不认识概念 {concept} 里的 {words}",
  "it is not known which tokens of this clip are those of the concept {concept}": "不知道这个 clip 的哪些 token 属于概念 {concept}",
  "the positions are added already: wire the hidden states from before Position Embed":
    "位置已经加上了：请接 Position Embed 之前的隐藏状态",
  "{model} has no positions: its tokens are only content": "{model} 没有位置：它的 tokens 只有内容",
  "{model} does not add positions to tokens, it rotates queries and keys by them: use Position Similarity":
    "{model} 不把位置加到 tokens 上，而是用它们旋转查询和键：请用 Position Similarity",
  "other has {count} pictures, tokens has {batch}: give 1 or as many": "“另一张”有 {count} 张图片，tokens 有 {batch} 张：请给 1 张或一样多",
  "other has {grid} tokens of patch_size {p}, tokens has {own} of {size}: both must have the same size":
    "“另一张”有 {grid} 个图块大小 {p} 的 token，tokens 有 {own} 个大小 {size} 的：两者必须一样大",
  "the patch embedding of {model} takes more than {channels} channels of {p}×{size} cells":
    "{model} 的图块嵌入读的不止 {channels} 个通道的 {p}×{size} 格",
  "{model} knows patch sizes {sizes}, not {p}": "{model} 认识的图块大小是 {sizes}，没有 {p}",
  "the patch embedding of {model} is not known: {error}": "不知道 {model} 的图块嵌入：{error}",
  "a token's journey begins with its raw values, and these patches are embedded already: wire hidden from DiT Condition":
    "token 的旅程从它的原始值开始，这些图块却已嵌入：请接 DiT Condition 的隐藏状态",
  "the grid has tokens 0 to {last}, there is no token {token}": "网格的 token 是 0 到 {last}，没有 token {token}",
  "an embedded token of {model} has numbers 0 to {last}, there is no number {number}":
    "{model} 的嵌入 token 有第 0 到 {last} 个数，没有第 {number} 个",
  "the rotary positions of {model} have an unknown form: {form}": "{model} 的旋转位置是未知的形式：{form}",
  "{model} has no positions": "{model} 没有位置",
  "{model} has {count} rotary positions, but its attention has {keys} keys": "{model} 有 {count} 个旋转位置，注意力却有 {keys} 个键",
  "{model} makes positions only after DiT Condition: wire the hidden states after Patch Embed":
    "{model} 在 DiT Condition 之后才有位置：请接 Patch Embed 之后的隐藏状态",
  "nothing is wired: wire an image, a latent, tokens or hidden states": "什么都没有接：请接图像、潜变量、tokens 或隐藏状态",
  "the prompt of {model} has pictures in it, which Patch Budget counts where positive is wired":
    "{model} 的提示词里有图片：在 Patch Budget 接上正面条件才能计算",
  "count is at least 1, not {count}": "数量至少是 1，不是 {count}",
  "query {query} is outside the grid of {size} tokens, which are 0 to {last} in reading order":
    "查询 {query} 在 {size} 个 token 的网格之外，按阅读顺序是 0 到 {last}",
  "show is one of {known}, not {show}": "显示是 {known} 之一，不是 {show}",
  "a way is patch sizes ('4 until 50%, then 2', '4 by resample'), '8 steps', 'regions 25%', 'cache 0.1', 'skip 3-4' or 'full run', joined by +, not {part}":
    "一种方式是图块大小（'4 until 50%, then 2'、'4 by resample'）、'8 steps'、'regions 25%'、'cache 0.1'、'skip 3-4' 或 'full run'，用 + 相连，不是 {part}",
  "the word after 'by' is one of {known}, not {method}": "'by' 后面的词是 {known} 之一，不是 {method}",
  "{line} takes no step: 1 at least": "{line} 一步也没有：至少 1 步",
  "there is nothing to compare: write a line for each way, such as '8 steps' or '4 until 50%, then 2'":
    "没有可比较的：请每种方式写一行，例如 '8 steps' 或 '4 until 50%, then 2'",
  "{line} says twice what the {what} are: once is enough": "{line} 把 {what} 说了两次：一次就够",
};

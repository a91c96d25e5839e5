/** @type {Record<string, string>} */
export const ERRORS = {
  "{model} can have no patch-size adapter: it is for SD3, SD3.5 and Flux, and for the pack's own models":
    "{model} 不能有图块大小适配器：它用于 SD3、SD3.5、Flux 和本包自己的模型",
  "{model} is no rectified flow: a patch size can't be taught to it here": "{model} 不是整流流：这里不能教它图块大小",
  "ControlNet's residuals are for patches of {own}: end it before the steps at {p}, or after them":
    "ControlNet 的残差针对大小 {own} 的图块：请让它在图块大小 {p} 的步之前结束，或在其后",
  "the guider ({kind}) is over {other}, the dit is {model}: wire one model into both":
    "引导器（{kind}）用的是 {other}，dit 是 {model}：请给两者接同一个模型",
  "{model} is steered in every step, or runs wired stages; the guider's model does not: put Steer (MODEL) or Stages (MODEL) before the guider ({kind})":
    "{model} 每步转向或按连线的各阶段运行，引导器的模型却没有：请在引导器（{kind}）之前放 Steer (MODEL) 或 Stages (MODEL)",
  "{what} is not what the guider ({kind}) was given as {input}, and the guider's own counts: wire the same conditioning into both":
    "{what} 不是引导器（{kind}）得到的 {input}，而以引导器自己的为准：请给两者接同一个条件",
  "{what} is not what the guider ({kind}) was given as {input}, and the guider's own counts: leave it unwired here":
    "{what} 不是引导器（{kind}）得到的 {input}，而以引导器自己的为准：请在这里不接它",
  "no layer reads the latent": "没有读潜变量的层",
  "{function} can't run on a tensor without values": "{function} 不能在没有数值的张量上运行",
  "{function} changes the shape of a tensor without values": "{function} 会改变没有数值的张量的形状",
  "it is not known what prompts it takes: wire positive": "不知道它接受怎样的提示词：请接正面条件",
  "the cost of {model} (MODEL) is not known: {why}": "不知道 {model}（MODEL）的开销：{why}",
  "the latents of {model} are no pictures, and have no width and height": "{model} 的潜变量不是图片，没有宽和高",
  "the cost of {model} is not known: {error}": "不知道 {model} 的开销：{error}",
  "this MODEL sets cfg {cfg} itself, which needs a negative conditioning: wire one":
    "这个 MODEL 自己设了 cfg {cfg}，需要负面条件：请接上一个",
  "a latent [B, C, L] is cut into its positions: patch_size is 0 or 1 for it, not {p}":
    "[B, C, L] 的潜变量按位置切开：它的图块大小是 0 或 1，不是 {p}",
  "ddim draws what lies outside a noise mask by Add Noise's seed: use Add Noise":
    "ddim 用 Add Noise 的种子画噪声遮罩之外的部分：请用 Add Noise",
  "every conditioning is outside its range of steps here, so that the model is not asked; use DiT Denoise Step":
    "在这里，所有条件都在自己的步范围之外，不会调用模型：请用 DiT Denoise Step",
  "{model} samples the tensors of a LATENT on scales of their own, which tokens do not have: use KSampler":
    "{model} 对 LATENT 的各个张量用各自的尺度采样，tokens 没有这些尺度：请用 KSampler",
  "a latent of several tensors is cut into single values: patch_size is 0 or 1 for it, not {p}":
    "由几个张量组成的潜变量切成单个的值：它的图块大小是 0 或 1，不是 {p}",
  "a wrapper on this MODEL begins with other noise than Add Noise drew, such as FreeNoise; use DiT Denoise":
    "这个 MODEL 上的包装用的起始噪声与 Add Noise 抽的不同（例如 FreeNoise）：请用 DiT Denoise",
  "name {name} is no folder inside {root}": "名称 {name} 不是 {root} 里的文件夹",
  "filename_prefix {prefix} leaves the output folder": "文件名前缀 {prefix} 走出了输出文件夹",
  "a wrapper on this MODEL has parts of this step read at other sizes ({sizes} latent cells); use DiT Denoise Step":
    "这个 MODEL 上的包装让这一步的一些部分以别的大小读（{sizes} 个潜变量格）：请用 DiT Denoise Step",
  "a function on this MODEL asks the model for something else than DiT Condition laid out, which the stages did not compute; use DiT Denoise or DiT Denoise Step":
    "这个 MODEL 上的函数向模型要的不是 DiT Condition 排好的，各阶段没有计算：请用 DiT Denoise 或 DiT Denoise Step",
  "{model} is no model that ComfyUI's loaders know: save it with Save DiT, and load it with Load DiT":
    "{model} 不是 ComfyUI 的加载器认识的模型：请用 Save DiT 保存，用 Load DiT 加载",
  "{model} is a MODEL already: wire that": "{model} 本来就是 MODEL：请直接接它",
  "the noise of {model} ({sampling}) is neither rectified flow's nor DDPM's: its patch size can't be changed":
    "{model}（{sampling}）的噪声既不是整流流的，也不是 DDPM 的：不能改它的图块大小",
  "{model} reads patches of {rows}×{columns} cells, which are no squares: its patch size can't be changed":
    "{model} 读 {rows}×{columns} 格的图块，不是正方形：不能改它的图块大小",
  "there are no weights for patches of {p}: load an adapter for them": "没有大小 {p} 的图块的权重：请加载用于它的适配器",
  "reference latents and patches of several sizes are not possible together": "参考潜变量不能与几种大小的图块一起用",
  "an attention mask and patches of several sizes are not possible together": "注意力遮罩不能与几种大小的图块一起用",
  "{model} knows patch sizes {sizes}, not {p}: in one sequence each size needs weights of its own, which Load Adapter or Train DiT gives a MODEL of SD3, SD3.5 or Flux":
    "{model} 认识的图块大小是 {sizes}，没有 {p}：在同一序列里，每种大小都要有自己的权重，SD3、SD3.5 或 Flux 的 MODEL 可由 Load Adapter 或 Train DiT 得到",
  "this MODEL reads patches of several sizes in this step, which has no stages of its own; use DiT Denoise Step":
    "这个 MODEL 在这一步读几种大小的图块，这没有自己的各阶段：请用 DiT Denoise Step",
  "patches of several sizes ({mixture}) are for pictures, not for films": "几种大小的图块（{mixture}）用于图片，不用于视频",
  "{model} (MODEL) has {why}: leave one of the two out": "{model}（MODEL）带有{why}：请去掉其中一个",
  "patches of several sizes ({mixture}) and {what} are not possible together": "几种大小的图块（{mixture}）不能与{what}一起用",
  "ControlNet's residuals are for patches of {own}: end it before the coarse steps, or start them after it":
    "ControlNet 的残差针对大小 {own} 的图块：请让它在粗图块的步之前结束，或让那些步在它之后开始",
  "{model} can't read patches of {p}, which it is given as a latent of {cells} cells: {error}; use its own patch size {own}, or a larger picture":
    "{model} 读不了大小 {p} 的图块，给它的是 {cells} 格的潜变量：{error}；请用它自己的图块大小 {own}，或更大的图片",
  "{node}: a latent of several tensors, such as a film with its sound, can't be cached: leave it out":
    "{node}：由几个张量组成的潜变量（例如带声音的视频）不能缓存：请去掉这个节点",
  "this MODEL carries a wrapper around the whole diffusion model ({key}), which {what} would leave out: take one of the two away":
    "这个 MODEL 带有包住整个扩散模型的包装（{key}），{what}会漏掉它：请拿掉其中一个",
  "this MODEL carries patches inside its blocks ({patches}), which do nothing where blocks are left out: take those patches or Step Cache away":
    "这个 MODEL 的块里有补丁（{patches}），略去块时它们不起作用：请拿掉这些补丁或 Step Cache",
  "this MODEL carries {what}: in a part of the steps it would do another thing than in KSampler; {whole}, with one patch size and without capture_blocks":
    "这个 MODEL 带有{what}：只走一部分步时，它与在 KSampler 里不同：{whole}，只用一种图块大小，不用“记录各块”",
  "the conditioning carries hooks, which hold for one model call only; use DiT Denoise Step":
    "条件带有钩子，只对一次模型调用有效：请用 DiT Denoise Step",
  "this MODEL carries {what}; {whole}": "这个 MODEL 带有{what}：{whole}",
  "this MODEL carries DiT Blocks (MODEL), whose plan stages would leave out: take it away, and use DiT Blocks, or use DiT Denoise":
    "这个 MODEL 带有 DiT Blocks (MODEL)，各阶段会漏掉它的计划：请拿掉它，改用 DiT Blocks，或用 DiT Denoise",
  "this MODEL carries context windows, which read the video in overlapping pieces; use DiT Denoise":
    "这个 MODEL 带有上下文窗口，把视频分成重叠的片段读：请用 DiT Denoise",
  "this MODEL carries {name}, which asks the model once more after the stages; use DiT Denoise or DiT Denoise Step":
    "这个 MODEL 带有 {name}，它在各阶段之后还要再调用一次模型：请用 DiT Denoise 或 DiT Denoise Step",
  "this SAMPLER ({kind}) adds the noise itself, so that it can't go on with tokens in the middle of a run: give it all steps, from Add Noise on":
    "这个 SAMPLER（{kind}）自己加噪，不能从半途的 tokens 继续：请从 Add Noise 起给它全部的步",
  '{node}: this model call is not one of KSampler\'s, so that its rows and tokens are not known: take the mask away, and set rows to "both"':
    '{node}：这次模型调用不是 KSampler 的，不知道它的行和 tokens：请拿掉遮罩，并把“哪些行”设为 "both"',
  "{node}: this model call reads {cells} of {size} latent cells, so that it is not known where the mask is in it: take the mask away":
    "{node}：这次模型调用只读 {size} 个潜变量格中的 {cells}，不知道遮罩在其中何处：请拿掉遮罩",
  "it is not known which tokens of a latent of several tensors, such as a film with its sound, are the picture's":
    "不知道由几个张量组成的潜变量（例如带声音的视频）的哪些 token 属于图片",
  'rows "positive": {guider} has no positive prompt': '哪些行 "positive"：{guider} 没有正面提示词',
};

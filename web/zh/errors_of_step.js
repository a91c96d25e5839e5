/** @type {Record<string, string>} */
export const ERRORS = {
  "{what} is not from Final Layer or DiT Guidance": "{what} 不是来自 Final Layer 或 DiT Guidance",
  "{what} is guided already: for cfg {cfg}, wire a negative prediction into negative":
    "{what} 已引导过：要用 cfg {cfg}，请在“对照预测”接一个",
  "prediction and negative are of different steps: sigma {sigma} and {other}": "预测和对照预测属于不同的步：sigma {sigma} 和 {other}",
  "prediction and negative have shapes {shape} and {other}": "预测和对照预测的形状是 {shape} 和 {other}",
  "prediction and negative are in different latent spaces: both must come from models that use the same VAE":
    "预测和对照预测在不同的潜空间里：两者必须来自用同一个 VAE 的模型",
  "cfg {cfg} needs a negative: wire one into DiT Condition, or the prediction of another branch into negative":
    "cfg {cfg} 需要可以远离的预测：请在 DiT Condition 接负面条件，或在“对照预测”接另一个分支的预测",
  "prediction is not from Final Layer or DiT Guidance": "预测不是来自 Final Layer 或 DiT Guidance",
  "the hidden states come from {source}, {theirs}; the dit is {model}, {own}: they go on only in a model of the same shape":
    "隐藏状态来自 {source}，{theirs}；dit 是 {model}，{own}：它们只能在同样形状的模型里继续",
  "the hidden states come from {source}, which has another latent space than {model}": "隐藏状态来自 {source}，它与 {model} 的潜空间不同",
  "the blocks of {model} run by replaying its own forward, so that its hidden states go on in no other model":
    "{model} 的块靠重放它自己的 forward 运行，它的隐藏状态不能在别的模型里继续",
  "the hidden states are conditioned already": "隐藏状态已经过 DiT Condition",
  "the conditioning has areas, which the model reads as pictures of their own: put DiT Condition before Patch Embed":
    "条件带有区域，模型把它们当作单独的图片读：请把 DiT Condition 放在 Patch Embed 之前",
  "{model} can embed patches only after DiT Condition: put DiT Condition before Patch Embed":
    "{model} 在 DiT Condition 之后才能嵌入图块：请把 DiT Condition 放在 Patch Embed 之前",
  "mode is one of {known}, not {mode}": "位置方式是 {known} 之一，不是 {mode}",
  "DyPE goes by the noise level: put DiT Condition before Position Embed":
    "DyPE 取决于噪声水平：请把 DiT Condition 放在 Position Embed 之前",
  'mode "{mode}" is for rotary positions, which {model} has not': '位置方式 "{mode}" 用于旋转位置，{model} 没有',
  '{model} has positions of its own kind inside attention: only mode "model" is possible, not "{mode}"':
    '{model} 在注意力内部有自己的位置：位置方式只能是 "model"，不是 "{mode}"',
  "{model} has rotary positions, which its blocks need: put Position Embed before DiT Blocks":
    "{model} 用旋转位置，它的块需要这些位置：请在 DiT Blocks 之前放 Position Embed",
  "attention is one of {known}, not {attention}": "注意力是 {known} 之一，不是 {attention}",
  "the graft has {tokens} tokens of width {width}, the hidden states have {count} of {own}":
    "移植来源有 {tokens} 个宽度 {width} 的 token，隐藏状态有 {count} 个宽度 {own} 的",
  "the prediction was made at sigma {made}, step {step} is at {sigma}": "预测是在 sigma {made} 做的，第 {step} 步在 {sigma}",
  "the prediction and the tokens are in different latent spaces: wire the same dit into both":
    "预测和 tokens 在不同的潜空间里：请给两者接同一个 dit",
  "the prediction has shape {shape}, the tokens {tokens}": "预测的形状是 {shape}，tokens 的是 {tokens}",
  "the hidden states have not been through {stage}": "隐藏状态还没有经过 {stage}",
  "the patches are embedded already": "图块已经嵌入过",
  'attention "itself": the image tokens of block {block} of {model} do not read each other':
    '注意力 "itself"：{model} 第 {block} 块的图像 tokens 互不相看',
};

/** @type {Record<string, string>} */
export const ERRORS = {
  "an adapter for {model} learns patches of one size, {p}: leave mix {mix} out":
    "{model} 的适配器只学一种大小的图块，{p}：请去掉混合图块 {mix}",
  "{model} has patch sizes {sizes} already: choose another patch_size, not {p}": "{model} 已有图块大小 {sizes}：请选 {p} 以外的新图块大小",
  "rank is at least 1, or 0 for the highest that fits into {share} of the model, not {rank}":
    "LoRA 秩至少是 1，或写 0 取模型的 {share} 之内最高的，不是 {rank}",
  "{model} has patch sizes {sizes}: {name} is one of them, not {p}": "{model} 的图块大小是 {sizes}：{name} 是其中之一，不是 {p}",
  "step {step} made weights that are not finite: learning_rate {rate} is too high": "第 {step} 步的权重不再是有限数：学习率 {rate} 太高",
  "the set has {count} pictures, validation holds out {held}: none is left for training":
    "训练集有 {count} 张图片，验证留出 {held} 张：没有剩下可训练的",
  "the set has latents of {channels} channels, the model reads {own}": "训练集的潜变量有 {channels} 个通道，模型读 {own} 个",
  "the shorter side of the set's latents is {side} cells, less than a patch of {p}":
    "训练集潜变量的短边是 {side} 格，不到一个大小 {p} 的图块",
  "batch {batch} is not a multiple of {processes} processes": "批大小 {batch} 不是 {processes} 个进程的倍数",
  "{name} is at least 1, not {value}": "{name} 至少是 1，不是 {value}",
  "{name} is at most {most}, not {value}": "{name} 至多是 {most}，不是 {value}",
  "{name} is at least 0, not {value}": "{name} 至少是 0，不是 {value}",
  "{name} is above 0, not {value}": "{name} 要大于 0，不是 {value}",
  "{name} is from 0 to below 1, not {value}": "{name} 从 0 起、小于 1，不是 {value}",
  "mix {mix}: the set has latents of {height}×{width} cells, which is not a multiple of {p}":
    "混合图块 {mix}：训练集的潜变量是 {height}×{width} 格，不是 {p} 的倍数",
  "the loss of step {step} is {loss}, its gradient's norm {norm}: learning_rate {rate} is too high":
    "第 {step} 步的损失是 {loss}，梯度的范数是 {norm}：学习率 {rate} 太高",
  "target of {kind} is one of {known}, x0, own, not {target}": "{kind} 的损失目标是 {known}、x0、own 之一，不是 {target}",
  "times is one of {known}, not {times}": "时间分布是 {known} 之一，不是 {times}",
  "weighting is one of {known}, not {weighting}": "时间加权是 {known} 之一，不是 {weighting}",
  "weighting {weighting} is for rectified flows, but this model is a DDPM: use none":
    "时间加权 {weighting} 用于整流流，这个模型却是 DDPM：请用 none",
  "mix is patch sizes of one sequence, coarse to fine, as in '4-2' or '4-2, 8-4-2', not {mix}":
    "混合图块是同一序列里的图块大小，由粗到细，例如 '4-2' 或 '4-2, 8-4-2'，不是 {mix}",
  "mix {mix}: patches of {coarse} are split into a smaller size that divides it, not into {fine}":
    "混合图块 {mix}：大小 {coarse} 的图块要分成能整除它的更小的大小，不能分成 {fine}",
  "{model} is a MODEL, and ComfyUI manages its weights: it can learn a patch-size adapter, but not be trained as a whole":
    "{model} 是 MODEL，权重由 ComfyUI 管理：它能学图块大小适配器，不能整体训练",
  "scope is one of {known}, not {scope}": "训练范围是 {known} 之一，不是 {scope}",
  "{model} has patch sizes {sizes}, not {p}": "{model} 的图块大小是 {sizes}，没有 {p}",
  "{model} reads patches of one size in a step, not of several: leave mix {mix} out":
    "{model} 一步里只读一种大小的图块：请去掉混合图块 {mix}",
  "mix {mix}: {model} has patch sizes {sizes}, not {p}": "混合图块 {mix}：{model} 的图块大小是 {sizes}，没有 {p}",
  "the training set has no captions, and {model} reads text: wire captions and clip into Training Set":
    "训练集没有描述，{model} 却读文本：请在 Training Set 接描述和 clip",
  "the set is empty: there is no picture in it": "训练集是空的：里面没有图片",
  "a set takes latents of pictures, [B, C, H, W], not {shape}": "训练集要图片的潜变量 [B, C, H, W]，不是 {shape}",
  "the latents of a set come from one VAE, these have {channels} channels": "一个训练集的潜变量来自同一个 VAE，这些的通道数却是 {channels}",
  "latent {number} holds values that are NaN or infinite": "第 {number} 个潜变量里有 NaN 或无穷大的值",
  "there are {captions} captions for {count} pictures: give one for each, or one for all":
    "{count} 张图片有 {captions} 条描述：请每张一条，或全部共用一条",
  "there are {conditionings} conditionings for {count} latents": "{count} 个潜变量有 {conditionings} 个条件：两者要一样多",
  "{count} pictures of {size}×{side} pixels take {needed} GiB: {free} GiB of memory are free":
    "{count} 张 {size}×{side} 像素的图片要 {needed} GiB：空闲内存有 {free} GiB",
  "kinds is one of {known}, not {kinds}": "内容是 {known} 之一，不是 {kinds}",
  "captions need a clip, which encodes them": "描述需要 clip 来编码：请接一个",
  "captions are missing: wire captions, or leave clip out for a model without text": "缺少描述：请接描述；模型不读文本时，请去掉 clip",
  "{name} is from {least} to {most}, not {value}": "{name} 是 {least} 到 {most}，不是 {value}",
  "its step is {step}, its log is of {steps} steps": "它的步是 {step}，记录却有 {steps} 步",
  "it holds parameters or losses that are NaN or infinite": "里面有 NaN 或无穷大的参数或损失",
  "moments of parameter {number}, of another shape or of none there is": "第 {number} 个参数的动量形状不同，或没有这个参数",
  "there is nothing to resume: no state in {path}": "没有可以继续的训练：{path} 里没有状态",
  "{path} is of another model or scope: its {count} parameters are not the {own} trained here":
    "{path} 属于另一个模型或训练范围：它的 {count} 个参数不是这里训练的 {own} 个",
  "another training is writing {path}: wait until it has ended, or choose another name":
    "另一个训练正在写 {path}：请等它结束，或换一个名称",
  "{error}; the last good state, of step {step}, is in {path}": "{error}；最近的好状态是第 {step} 步的，在 {path}",
  "{path} is no state of a training: {why}": "{path} 不是训练的状态：{why}",
  "resume goes on with the settings it began with: {name} was {before}, not {value}":
    "继续训练要用开始时的设置：{name} 原来是 {before}，不是 {value}",
  "{path} is no state of this training: its {name} does not fit ({error})": "{path} 不是这次训练的状态：它的 {name} 不符（{error}）",
  "other entries, or numbers that are NaN or infinite": "内容不同，或有 NaN 或无穷大的数",
  "{model} is a MODEL: training steps work only for the pack's own models": "{model} 是 MODEL：一步步的训练只用于本包自己的模型",
  "time is 0 to 1, or -1 for a random one, not {time}": "时刻是 0 到 1，或写 -1 随机抽取，不是 {time}",
  "prediction is not from Final Layer: guided predictions and plain tokens have no loss":
    "预测不是来自 Final Layer：引导过的预测和普通 tokens 没有损失",
  "the tokens do not hold their clean values: make them with Add Noise at Time or Add Noise":
    "tokens 不带自己的干净值：请用 Add Noise at Time 或 Add Noise 产生",
  "the loss takes one conditioning, but DiT Condition has {count}: leave its negative out":
    "损失只要一个条件，DiT Condition 却有 {count} 个：请去掉它的负面条件",
  "{model} can't learn yet: put Trainable DiT after its loader": "{model} 还不能学习：请在它的加载器之后放 Trainable DiT",
  "the loss comes from another dit: wire the same Trainable DiT into Diffusion Loss and Train Step":
    "损失来自另一个 dit：请给 Diffusion Loss 和 Train Step 接同一个 Trainable DiT",
  "the gradient's norm is {norm}: the model was not changed": "梯度的范数是 {norm}：模型没有改动",
  "no gradient leads from the loss back to the model's parameters: {error}": "从损失到模型参数没有梯度：{error}",
};

/** @type {Record<string, string>} */
export const ERRORS = {
  "{model} reads patches of {p} by {method}, which has no stages of its own":
    "{model} 用 {method} 读大小 {p} 的图块，这种方式没有自己的各阶段",
  "{model} runs whole, by diffusers: for its stages load it as a MODEL and use DiT from MODEL":
    "{model} 由 diffusers 整体运行：要用它的各阶段，请作为 MODEL 加载，再用 DiT from MODEL",
  "{model} has one block, and the first always runs: there is nothing to leave out": "{model} 只有一块，而第一块总要运行：没有可以略去的",
  "{model} draws pictures, the tokens are of a latent with {frames} frames": "{model} 画图片，tokens 却来自 {frames} 帧的潜变量",
  "every conditioning is outside its range of steps at step {step}, so that the model is not asked; use DiT Denoise Step":
    "在第 {step} 步，所有条件都在自己的步范围之外，不会调用模型：请用 DiT Denoise Step",
  "start_percent {start} is after end_percent {end}": "开始比例 {start} 在结束比例 {end} 之后",
  'blocks: a factor is a number after *, as in "7*0.5", not {factor}': '块：系数是 * 后面的数，例如 "7*0.5"，不是 {factor}',
  "{model} reads patches of one size in a step, not {mixture}: use one patch size for each step":
    "{model} 一步里只读一种大小的图块，不是 {mixture}：请让每步只用一种图块大小",
  "{model} has {why}: leave one of the two out": "{model} 带有{why}：请去掉其中一个",
  "{model} knows patch sizes {sizes}, not {p}: in one sequence each size needs weights of its own":
    "{model} 认识的图块大小是 {sizes}，没有 {p}：在同一序列里，每种大小都要有自己的权重",
  "{mixture}: there is no mask; wire one into Patch Regions or Patch Schedule":
    "{mixture}：没有遮罩，请在 Patch Regions 或 Patch Schedule 接一个",
  "{model} reads patches of several sizes ({mixture}), which has no stages of its own":
    "{model} 读几种大小的图块（{mixture}），这没有自己的各阶段",
  "patches of several sizes ({mixture}) and a conditioning with an area are not possible together":
    "几种大小的图块（{mixture}）不能与带区域的条件一起用",
  "{model} has no class names: label is a number from 0 to {last}, not {label}": "{model} 没有类名：类别是 0 到 {last} 的数，不是 {label}",
  "label {label} is no class of {model}: give a number from 0 to {last}, or a name such as {name}":
    "{model} 没有类别 {label}：请写 0 到 {last} 的数，或 {name} 这样的名称",
  "label {label} names the classes {found} of {model}: give the number": "类别 {label} 是 {model} 的 {found} 几类：请写编号",
  "label {label} is outside the classes of {model}, 0 to {last}": "类别 {label} 不在 {model} 的类别 0 到 {last} 之内",
  "{model} reads text, not a class label: use CLIP Text Encode": "{model} 读文本，不读类别标签：请用 CLIP Text Encode",
  "{model} draws single pictures, not films: frames is 1, not {frames}": "{model} 画单张图片，不画视频：帧数是 1，不是 {frames}",
  "cfg {cfg} needs a negative: wire one, or set cfg to 1": "cfg {cfg} 需要负面条件：请接上一个，或把 cfg 设为 1",
  "{model} has latents of {channels} channels, the tokens come from {others}":
    "{model} 的潜变量有 {channels} 个通道，tokens 的有 {others} 个",
  "the tokens are not in the latent space of {model}: wire its dit into Patchify":
    "tokens 不在 {model} 的潜空间里：请把它的 dit 接到 Patchify",
  "{model} knows patch sizes {sizes}, the tokens have patch_size {p}": "{model} 认识的图块大小是 {sizes}，tokens 的图块大小是 {p}",
  "the tokens hold values that are NaN or infinite": "tokens 里有 NaN 或无穷大的值",
  "{model} runs the stages that were wired for one step in every step (Stages Every Step or Stages (MODEL)), which other stages would leave out: wire the dit from before that node":
    "{model} 每步都按为一步接好的各阶段运行（Stages Every Step 或 Stages (MODEL)），别的各阶段会漏掉它们：请接那个节点之前的 dit",
  "{model} is steered in every step, which stages would leave out: put Steer between them in the place of Steer Every Step or Steer (MODEL), or use DiT Denoise":
    "{model} 每步都在转向，各阶段会漏掉它：请在各阶段之间放 Steer，代替 Steer Every Step 或 Steer (MODEL)，或用 DiT Denoise",
  "ddim holds what lies outside a noise mask to other noise than the stages began with; use DiT Denoise Step":
    "ddim 给噪声遮罩之外的部分用的噪声，与各阶段开始时的不同：请用 DiT Denoise Step",
  "{solver} asks the model for more than the step's prediction; use DiT Denoise Step, or another solver":
    "{solver} 向模型要的不止这一步的预测：请用 DiT Denoise Step，或换一个求解器",
  "the shape of {model} is not known: {error}": "不知道 {model} 的形状：{error}",
  "the patch schedule is empty: write rows such as '4 until 50%, then 2'": "图块日程是空的：请写 '4 until 50%, then 2' 这样的行",
  "the patch schedule does not cover the last steps: end it with a size alone, as in 'then {p}'":
    "图块日程没有包括最后几步：请以单独一个大小结尾，例如 'then {p}'",
  "the rows say 'of other', and no other model is wired: wire a dit into other, or leave 'of other' out":
    "各行写了 'of other'，却没有接另一模型：请在“另一模型”接一个 dit，或去掉 'of other'",
  "'of other' takes a model of the same family: other ({other}) has another latent space than dit ({model})":
    "'of other' 要同一族的模型：另一模型（{other}）与 dit（{model}）的潜空间不同",
  "a Step Cache goes over the steps of one model: take it off {model}, or leave 'of other' out of the rows":
    "Step Cache 只管一个模型的步：请从 {model} 拿掉它，或从各行去掉 'of other'",
  "{who} runs one model, and the rows say 'of other': that is for Patch Schedule with DiT Denoise":
    "{who} 只运行一个模型，各行却写了 'of other'：那是给 Patch Schedule 加 DiT Denoise 用的",
  "a row is a patch size and where it ends, as in '4 until 50%', '4 until sigma 0.6', '4 of other until 50%' or '4 with 2 on 25%', not {row}":
    "一行是图块大小和它到哪里为止，例如 '4 until 50%'、'4 until sigma 0.6'、'4 of other until 50%' 或 '4 with 2 on 25%'，不是 {row}",
  "patch size {p} has no end, and rows follow it: write '{size} until 50%'":
    "图块大小 {p} 没有写到哪里为止，后面却还有行：请写 '{size} until 50%'",
  "a patch size is at least 1 and a share at most 100%, not {p} until {share}%":
    "图块大小至少是 1，比例至多是 100%，不是 {p} until {share}%",
  "the patch schedule goes backwards: its {kind}s are {ends}": "图块日程往回走了：各行的 {kind} 是 {ends}",
  "tokens of a latent [B, C, L], or of one of several tensors, are single places: their patch size is 1, not {p}":
    "[B, C, L] 的潜变量，或由几个张量组成的潜变量，每个 token 是单个位置：图块大小是 1，不是 {p}",
  "'of other' takes a model of the same family: other ({other}) has {theirs}, dit ({model}) has {own}":
    "'of other' 要同一族的模型：另一模型（{other}）是 {theirs}，dit（{model}）是 {own}",
  "patches of {coarse} are split into a size that divides it, not into {fine}": "大小 {coarse} 的图块要分成能整除它的大小，不能分成 {fine}",
  "a share is at most 100%, not {share}%": "比例至多是 100%，不是 {share}%",
  "hidden comes from a model of another shape: {shape}; {model} is {own}": "隐藏状态来自另一种形状的模型：{shape}；{model} 是 {own}",
  "{nodes} runs the whole of a step, so that {beside} can't hold at the same time: take one of the two away, or wire both into one step":
    "{nodes} 运行整个一步，{beside}不能同时生效：请拿掉其中一个，或把两者接进同一步",
  'a mask, rows "positive" and edited tokens are for prompts of the whole picture: leave Conditioning (Set Area) out, or use Conditioning (Set Mask)':
    '遮罩、哪些行 "positive" 和改动过的 tokens 只用于整幅图的提示词：请去掉 Conditioning (Set Area)，或用 Conditioning (Set Mask)',
  "the vector was taken before block {block}, of {source}; {model} has {count} blocks":
    "向量取自 {source} 的第 {block} 块之前，{model} 只有 {count} 块",
  "threshold is 0 or more, not {threshold}": "阈值是 0 或更大，不是 {threshold}",
};

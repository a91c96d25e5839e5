/** @type {Record<string, string>} */
export const ERRORS = {
  "{what} is for ComfyUI's own samplers and guiders: run this workflow in ComfyUI, or leave {input} unwired":
    "{what}用于 ComfyUI 自己的采样器和引导器：请在 ComfyUI 里运行这个工作流，或不接{input}",
  "capture_blocks reads single steps from the inside, without the {what}: turn it off, or leave {input} unwired":
    "“记录各块”从内部读单步，不用{what}：请关掉它，或不接{input}",
  "the {what} goes with one model, and the patch_schedule says 'of other': leave {input} unwired, or 'of other' out":
    "{what}只配一个模型，图块日程却写了 'of other'：请不接{input}，或去掉 'of other'",
  "a sampler takes its steps without a break, and the patch_schedule changes the size from {p} to {size} on the way: use Patch Schedule (MODEL) before DiT from MODEL, or leave sampler unwired":
    "采样器不间断地走完各步，图块日程却在途中把大小从 {p} 变成 {size}：请在 DiT from MODEL 之前用 Patch Schedule (MODEL)，或不接采样器",
  "capture_blocks shows the blocks of one patch size, and a step of the patch_schedule has several ({mixture}): leave one of the two out":
    "“记录各块”显示一种图块大小的块，图块日程的一步却有几种（{mixture}）：请去掉其中一个",
  "capture_blocks shows the blocks of one model, and the patch_schedule says 'of other': leave one of the two out":
    "“记录各块”显示一个模型的块，图块日程却写了 'of other'：请去掉其中一个",
  "{what} is one of those in {where} ({some}), not {name}": "{what}是 {where} 里的一个（{some}），不是 {name}",
  "patch_size 0 means the model's own: wire a dit, or set a size": "图块大小 0 表示模型自己的：请接一个 dit，或设一个大小",
  "a model is wired into other, and no row names it: write '4 of other until 50%', or take the wire away":
    "“另一模型”接了模型，却没有一行提到它：请写 '4 of other until 50%'，或去掉连线",
  "where is mask, and no mask is wired: wire one, or choose detail": "“何处”是 mask，却没有接遮罩：请接一个，或选 detail",
  "wire either images or latents": "图像和潜变量，请只接其中一个",
  "images need a vae to encode them: wire one": "图像需要 vae 来编码：请接一个",
  "samples need a positive conditioning: wire one, or set sample_every to 0": "采样需要正面条件：请接一个，或把采样间隔设为 0",
  "{input} takes {kinds}, this is {what}": "{input} 要{kinds}，这是{what}",
  "{input} takes raw tokens, these are hidden states: put Final Layer before this node":
    "{input} 要原始 tokens，这是隐藏状态：请在本节点之前放 Final Layer",
  "{input} takes hidden states, these are raw tokens: put DiT Condition or Patch Embed before this node":
    "{input} 要隐藏状态，这是原始 tokens：请在本节点之前放 DiT Condition 或 Patch Embed",
  "the vae can't decode a latent of {shape}: {error}": "vae 不能解码 {shape} 的潜变量：{error}",
};

/** @type {Record<string, string>} */
export const ERRORS = {
  "{name}: prediction is one of {known}, not {prediction}": "{name}：预测量是 {known} 之一，不是 {prediction}",
  "{name}: {key} is a number from {least} to {most}, not {value}": "{name}：{key} 是 {least} 到 {most} 的数，不是 {value}",
  "DDPM: beta_schedule is linear or scaled_linear, not {schedule}": "DDPM：beta_schedule 是 linear 或 scaled_linear，不是 {schedule}",
  "step {step} begins at noise level {begins}, the tokens stand at {stands}: {advice}":
    "第 {step} 步从噪声水平 {begins} 开始，tokens 却在 {stands}：{advice}",
  "{what} has an area with frames, of a video: this is a picture": "{what} 的区域带有帧，是给视频的：这里是图片",
  "{what} has an area that begins at row {row}, column {column} of a latent of {height}×{width} cells":
    "{what} 的区域从第 {row} 行、第 {column} 列开始，超出了 {height}×{width} 格的潜变量",
  "{what} carries {extra}": "{what} 带有{extra}",
  "{what} is the default, which fills what others leave, and has an area too: take one of both away":
    "{what} 是默认条件，填补其他条件剩下的部分，却又带有区域：请去掉其中一个",
  "{what} has an area of {height}×{width} latent cells, patches are {least} a side: make it larger":
    "{what} 的区域是 {height}×{width} 个潜变量格，图块边长是 {least}：请把它放大",
  "scheduler is one of {known}, not {scheduler}": "调度器是 {known} 之一，不是 {scheduler}",
  "denoise is above 0 and at most 1, not {denoise}": "去噪强度大于 0，至多是 1，不是 {denoise}",
  "steps is at least 1, not {steps}": "步数至少是 1，不是 {steps}",
  "solver is one of {known}, not {solver}": "求解器是 {known} 之一，不是 {solver}",
  "{solver} is for DDPM models; for a rectified flow the same step is euler": "{solver} 用于 DDPM 模型：整流流的同一步请用 euler",
  "{solver} adds noise on its way, and can't find a picture's noise on a schedule that rises: use euler, heun or dpmpp_2m":
    "{solver} 会在途中加噪，在上升的日程上找不到图片的噪声：请用 euler、heun 或 dpmpp_2m",
  "{solver} draws noise by Add Noise's seed: use Add Noise before it": "{solver} 用 Add Noise 的种子抽噪声：请先用 Add Noise",
  "sigmas are a list of at least 2 noise levels, not {shape}: wire a Sigma Schedule":
    "噪声水平是至少 2 个数的列表，不是 {shape}：请接 Sigma Schedule",
  "sigmas hold a value that is NaN or infinite": "噪声水平里有 NaN 或无穷大的值",
  "sigmas are 0 or more, one is {sigma}": "噪声水平是 0 或更大，其中一个是 {sigma}",
  "sigmas fall from step to step, or rise from step to step to bring a picture to its noise; these do both: {first} … {before}, {after} … {last}":
    "噪声水平逐步下降，或逐步上升把图片带到它的噪声；这些又升又降：{first} … {before}, {after} … {last}",
  "step {step} is outside the schedule, whose steps are 0 to {last}": "第 {step} 步在日程之外，日程的步是 0 到 {last}",
  "end_step {end} is not after start_step {start}": "结束步 {end} 不在起始步 {start} 之后",
  "the tokens have a noise mask, but not the clean tokens and the noise it needs: use Add Noise":
    "tokens 有噪声遮罩，却没有它需要的干净 tokens 和噪声：请用 Add Noise",
  "sigmas that rise, from a picture to its noise, begin above 0: core's Flip Sigmas makes the first 0.0001":
    "从图片上升到它的噪声时，噪声水平从大于 0 开始：核心的 Flip Sigmas 会把第一个设为 0.0001",
};

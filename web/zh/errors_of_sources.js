/** @type {Record<string, string>} */
export const ERRORS = {
  "a {kind} runs whole, by diffusers: a patch size can be taught to an MM-DiT or a DiT of this library":
    "{kind} 由 diffusers 整体运行：图块大小只能教给本包的 MM-DiT 或 DiT",
  "the adapter for patch size {p} is for {other} ({base}), not for {model} ({found})":
    "图块大小 {p} 的适配器属于 {other}（{base}），不属于 {model}（{found}）",
  "the adapter is for patch size {p} from {start}, {model} has {sizes}": "适配器把图块大小 {start} 变成 {p}，{model} 的是 {sizes}",
  "{model} carries no adapter: teach it a patch size with Train DiT, or load an adapter":
    "{model} 没有适配器：请用 Train DiT 教它一种图块大小，或加载适配器",
  "{model} carries adapters for patch sizes {sizes}, not {p}": "{model} 的适配器是图块大小 {sizes} 的，没有 {p}",
  "{model} is a MODEL that can have no patch-size adapter": "{model} 这个 MODEL 不能有图块大小适配器",
  "{model} runs whole, by diffusers: a patch-size adapter is for models with stages":
    "{model} 由 diffusers 整体运行：图块大小适配器用于分阶段的模型",
  "patch_size is {p}, but it has no embedding of such patches": "图块大小是 {p}，却没有这种图块的嵌入",
  "{path}: no patch-size adapter{what}; its metadata has no {key}": "{path}：不是图块大小适配器{what}，元数据里没有 {key}",
  "the adapter for patch size {p} does not fit its model: {error}": "图块大小 {p} 的适配器不适合它的模型：{error}",
  "{name} is {rank}, {key} has shape {shape}": "{name} 是 {rank}，{key} 的形状是 {shape}",
  "{path}: its metadata {key} does not describe an adapter: {reason}": "{path}：元数据 {key} 描述的不是适配器：{reason}",
  "{path} can't be written: {reason}": "无法写入 {path}：{reason}",
  "patch_sizes are {sizes}, not 1 to {most} numbers from 1": "patch_sizes 是 {sizes}，不是 1 到 {most} 个从 1 起的数",
  "depth is {depth}, the most is {most}": "深度是 {depth}，至多 {most}",
  "position_base is {base}, not more than 0": "position_base 是 {base}，不大于 0",
  "has {depth} blocks where its architecture has {own}": "有 {depth} 块，而它的架构有 {own} 块",
  "has no {key} in its metadata to tell its architecture": "元数据里没有说明架构的 {key}",
  "{path}: no such file": "{path}：没有这个文件",
  "{path}: not a whole safetensors file ({reason})": "{path}：不是完整的 safetensors 文件（{reason}）",
  "not a transformer that is known here (SD3, SD3.5 or DiT, original or diffusers); its keys are {keys}":
    "不是这里认识的 Transformer（SD3、SD3.5 或 DiT，原版或 diffusers 版），它的键是 {keys}",
  "{name} is {value}, not at least 1": "{name} 是 {value}，应至少是 1",
  "width {width} does not divide into {divisor} {what}": "宽度 {width} 不能分成 {divisor} 个{what}",
  "no model of width {width}: {error}": "没有宽度 {width} 的模型：{error}",
  "does not fit {layout} of width {width} and depth {depth}: {error}": "不适合宽度 {width}、深度 {depth} 的 {layout}：{error}",
  "metadata {key} is not JSON: {text}": "元数据 {key} 不是 JSON：{text}",
  "{folder}: its vae has latents of {channels} channels, its transformer reads {own}":
    "{folder}：它的 vae 的潜变量有 {channels} 个通道，transformer 读 {own} 个",
  "{folder}: its transformer is a {kind}, known are {known}": "{folder}：它的 transformer 是 {kind}，认识的是 {known}",
  "{folder}: its vae is a {kind}, known is AutoencoderKL": "{folder}：它的 vae 是 {kind}，认识的是 AutoencoderKL",
  "{name} is a {kind}, known are FlowMatch schedulers and those with a beta_schedule":
    "{name} 是 {kind}，认识的是 FlowMatch 调度器和带 beta_schedule 的",
  "{name} has prediction_type = {prediction}, known are {known}": "{name} 的 prediction_type = {prediction}，认识的是 {known}",
  "{name} has {key} = {value}, not a number": "{name} 的 {key} = {value}，不是数",
  "{name} has base_image_seq_len = {low}, not below max_image_seq_len = {high}":
    "{name} 的 base_image_seq_len = {low}，没有小于 max_image_seq_len = {high}",
  "{name} has {key}, which is not known here": "{name} 有 {key}，这里不认识",
  "{folder}/model_index.json: its id2label is not a name for each number": "{folder}/model_index.json：它的 id2label 不是每个编号一个名称",
  "{name}/config.json has {key} = {found}, not a number or one for each of {channels} channels":
    "{name}/config.json 的 {key} = {found}，不是一个数，也不是 {channels} 个通道各一个",
  "{name}: its config.json describes no {kind}: {error}": "{name}：它的 config.json 描述的不是 {kind}：{error}",
  "{path}: metadata {key} describes no model of diffusers": "{path}：元数据 {key} 描述的不是 diffusers 的模型",
  "{folder} has no {stem}.safetensors and no {index}.safetensors.index.json":
    "{folder} 里没有 {stem}.safetensors，也没有 {index}.safetensors.index.json",
  "{path}: not a JSON object": "{path}：不是 JSON 对象",
  "{path}: auto_map asks to run code of the model's own (trust_remote_code), which is never done":
    "{path}：auto_map 要求运行模型自带的代码（trust_remote_code），这里从不这样做",
  "{folder}/model_index.json names no {part}": "{folder}/model_index.json 里没有 {part}",
  "{folder}/model_index.json: {part} is {entry}, not [library, class]": "{folder}/model_index.json：{part} 是 {entry}，不是 [库, 类]",
  "{folder}: its {part} is from {source}; only classes of {library} are run, never code that comes with a model":
    "{folder}：它的 {part} 来自 {source}：只运行 {library} 的类，从不运行模型附带的代码",
  "{name}: its config.json has {key} = {told}, its weights have {found}": "{name}：config.json 里 {key} = {told}，权重里是 {found}",
  "{name}: its config.json describes {told} parameters, its weights have {found}":
    "{name}：config.json 描述了 {told} 个参数，权重里有 {found} 个",
  "{folder} has only pickles ({name}), which can run code and are never opened: save it with safe_serialization=True":
    "{folder} 里只有 pickle（{name}），它能运行代码，从不打开：请用 safe_serialization=True 保存",
  "{path}: its weight_map does not say which file each weight is in": "{path}：它的 weight_map 没有说明每个权重在哪个文件里",
  "{path}: not JSON ({reason})": "{path}：不是 JSON（{reason}）",
  "{name}: its config.json describes no model ({reason})": "{name}：它的 config.json 描述的不是模型（{reason}）",
  "{path}: {name} is not the name of a safetensors file beside it": "{path}：{name} 不是同一文件夹里 safetensors 文件的名称",
  "{folder}: the shard {name} is missing ({count} are named in {index})": "{folder}：缺少分片 {name}（{index} 列出了 {count} 个）",
  "{folder}/{part}: not a {kind} that can be read ({reason})": "{folder}/{part}：不是能读的 {kind}（{reason}）",
  "{folder}: its {part} is a {kind}, known are {known}": "{folder}：它的 {part} 是 {kind}，认识的是 {known}",
  "{name}: not an AutoencoderKL that can be read ({reason})": "{name}：不是能读的 AutoencoderKL（{reason}）",
  "{model} is not of this library: save the MODEL it came from with ComfyUI's own nodes":
    "{model} 不是本包的模型：请用 ComfyUI 自己的节点保存它所来自的 MODEL",
  "{model} carries an adapter for patch size {p}, whose attention is not the model's own: keep it with Save Adapter":
    "{model} 带有图块大小 {p} 的适配器，它的注意力不是模型自己的：请用 Save Adapter 保存",
  "{path}: its latent_format is not of the {channels} channels of its model": "{path}：latent_format 不是它的模型的 {channels} 个通道",
  "{path}: its latent_rgb is {shape}, not red, green and blue of {channels} channels and 1 more":
    "{path}：latent_rgb 是 {shape}，不是 {channels} 个通道再加 1 个的红、绿、蓝",
  "{path}: no {key} in its metadata says how it reads latents of {channels} channels":
    "{path}：元数据里没有 {key} 说明它怎样读 {channels} 个通道的潜变量",
  "flow is {kind}, not one of {known}": "flow 是 {kind}，不是 {known} 之一",
  "latent_format is not a number for each channel": "latent_format 不是每个通道一个数",
  "{path}: its metadata {key} does not describe a DiT: {reason}": "{path}：元数据 {key} 描述的不是 DiT：{reason}",
  "{path}: its {key} is {value}, not from 1 to {most}": "{path}：它的 {key} 是 {value}，不在 1 到 {most} 之间",
  "the VAE of {model} is no VAE that ComfyUI's loaders know: it comes with its DIT's own loader":
    "{model} 的 VAE 不是 ComfyUI 的加载器认识的 VAE：它随自己 DIT 的加载器一起来",
  "{path}: its metadata describes no {kind}: {error}": "{path}：元数据描述的不是 {kind}：{error}",
  "{path}: its metadata has no latent_format of scale and shift: {error}": "{path}：元数据里没有 scale 和 shift 的 latent_format：{error}",
  "the text encoder of {model} has {depth} layers: stop_at_clip_layer is from {first} to -1, not {layer}":
    "{model} 的文本编码器有 {depth} 层：stop_at_clip_layer 是 {first} 到 -1，不是 {layer}",
  "a picture is at least {side}×{least} pixels, this one is {width}×{height}": "图片至少是 {side}×{least} 像素，这张是 {width}×{height}",
  "this VAE decodes latents of {channels} channels, not {shape}": "这个 VAE 解码 {channels} 个通道的潜变量，不是 {shape}",
  "{what} {value} is not a multiple of {unit}": "{what} {value} 不是 {unit} 的倍数",
  "pos_embed: positions start at {start} in steps of {unit}, not at 0 in steps of 1":
    "pos_embed：位置从 {start} 开始、间隔 {unit}，不是从 0 开始、间隔 1",
  "missing key {key}": "缺少键 {key}",
  "{key} has shape {shape}, not {dimensions} dimensions": "{key} 的形状是 {shape}，不是 {dimensions} 维",
  "{key} has shape {shape}, not [1, positions, {width}]": "{key} 的形状是 {shape}，不是 [1, 位置数, {width}]",
  "not floating point: {key}": "不是浮点数：{key}",
  "num_attention_heads {heads} does not divide width {width}": "num_attention_heads {heads} 不能整除宽度 {width}",
  "config.json has {key} = {value}": "config.json 里 {key} = {value}",
  "{key} differs from {other}: one embedding is expected for all blocks": "{key} 与 {other} 不同：所有块应共用一个嵌入",
  "patch_sizes are different numbers from 1, not {sizes}": "图块大小是从 1 起、互不相同的数，不是 {sizes}",
  "this clip gives no pooled_output, which an MM-DiT needs beside the text states":
    "这个 clip 不给 pooled_output，MM-DiT 除文本状态外还需要它",
  "latent_channels is 0, which takes those of another model: wire one into like, or give a number":
    "潜变量通道数是 0，表示取另一个模型的：请在“参照模型”接一个，或写一个数",
  "latent_channels {channels} are not the {own} of {model}: 0 takes those": "潜变量通道数 {channels} 不是 {model} 的 {own}：写 0 就取它的",
  "a model that reads text needs a clip, to know how wide its text is": "读文本的模型需要 clip，才知道文本有多宽：请接一个",
  "pixels_to_cell is 0 to 64, not {value}": "每格像素是 0 到 64，不是 {value}",
  "pixels_to_cell {value} are not the {own} of {model}: 0 takes those": "每格像素 {value} 不是 {model} 的 {own}：写 0 就取它的",
  "picture_size {size} is smaller than a patch of {p} latent cells": "图片边长 {size} 小于 {p} 个潜变量格的图块",
  "a model of width {width} and depth {depth} has {parameters} M parameters, {needed} GiB: {free} GiB of memory are free":
    "宽度 {width}、深度 {depth} 的模型有 {parameters} M 个参数，要 {needed} GiB：空闲内存有 {free} GiB",
  'patch_sizes are whole numbers, "2" or "2, 4", not {text}': '图块大小是整数，"2" 或 "2, 4"，不是 {text}',
  "{name} is one of {known}, not {value}": "{name} 是 {known} 之一，不是 {value}",
  "{name} is at least {least}, not {value}": "{name} 至少是 {least}，不是 {value}",
  "pixel space has no weights to save": "像素空间没有权重可保存",
  "pixel space has pictures of {channels} channels, not {shape}: a latent needs its own VAE":
    "像素空间的图片有 {channels} 个通道，不是 {shape}：潜变量需要它自己的 VAE",
  "the {kind} of {model} {does}, and has no {name}, which this node asks for": "{model} 的{kind}{does}，没有本节点要的 {name}",
  "the CLIP of {model} has one text encoder, and no tokens for {name}: use CLIP Text Encode":
    "{model} 的 CLIP 只有一个文本编码器，没有 {name} 的 token：请用 CLIP Text Encode",
  "the CLIP of {model} is no CLIP that ComfyUI's loaders know: it comes with its DIT's own loader":
    "{model} 的 CLIP 不是 ComfyUI 的加载器认识的 CLIP：它随自己 DIT 的加载器一起来",
  "this LoRA changes the text encoder of {model}, which can't be done: set strength_clip to 0":
    "这个 LoRA 要改 {model} 的文本编码器，做不到：请把 strength_clip 设为 0",
  "{path}: no steering vector; its metadata has no {key}": "{path}：不是转向向量，元数据里没有 {key}",
  "{path}: its direction is {shape}, not a list of finite numbers": "{path}：它的方向是 {shape}，不是有限数的列表",
  "{path}: its metadata {key} does not describe a vector: {reason}": "{path}：元数据 {key} 描述的不是向量：{reason}",
};

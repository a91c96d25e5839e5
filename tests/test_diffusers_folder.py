"""Load DiT (diffusers): each architecture as the library itself computes it, through the nodes, and every folder that is refused."""

import json
from pathlib import Path
import re
import runpy
import shutil
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
import torch

from dit_blocks.dit_impl.model.conditioning import label_conditioning
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sources.diffusers_folder import load_folder
from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
from dit_blocks.nodes.load import LoadCheckpoint, LoadDiffusers, SaveCheckpoint
from dit_blocks.nodes.patch import Patchify, Unpatchify
from dit_blocks.nodes.vae import EmptyLatent, VAEDecode, VAEEncode
from dit_blocks.standalone import pack
from dit_blocks.standalone.folders import Folders, use

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("diffusers_models.py"))))
MAKE = {"SD3": SMALL.sd3, "DiT": SMALL.dit, "PixArt": SMALL.pixart, "Flux": SMALL.flux}
FLOWS = {"SD3": RectifiedFlow(shift=3.0), "DiT": DDPM(), "PixArt": DDPM()}


def out(node, **inputs):
    return node.execute(**inputs).result


@pytest.fixture
def models(tmp_path):
    """models/ of standalone's folders."""
    pack.load()
    with use(Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))):
        yield tmp_path / "models"


@pytest.fixture
def folder(models):
    """A function: save a model of this kind and return its folder."""
    def made(kind, transformer=None, **how):
        path = models / "diffusers" / kind
        SMALL.save(kind, path, MAKE[kind]() if transformer is None else transformer, **how)
        return path
    return made


def text(seed, length=5, **extras):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, length, SMALL.TEXT_WIDTH, generator=generator),
             {"pooled_output": torch.randn(1, SMALL.POOLED_WIDTH, generator=generator), **extras}]]


def conditioning(kind):
    if kind == "DiT":
        return label_conditioning(3), label_conditioning(5)
    if kind == "PixArt":
        return text(1, attention_mask=torch.tensor([[1, 1, 1, 0, 0]])), text(2, 3, attention_mask=torch.tensor([[1, 1, 0]]))
    return text(1, guidance=2.0), text(2, guidance=2.0)


def theirs(kind, transformer, latent, t, conds):
    """The library's own answer, one call for each conditioning, in the words of its pipelines."""
    answers = []
    for ((states, extras),) in conds:
        common = {"timestep": t.expand(len(latent)), "return_dict": False}
        if kind == "DiT":
            labels = torch.full((len(latent),), extras["class_label"])
            answers.append(transformer(latent, class_labels=labels, **common)[0][:, :4])
            continue
        common["encoder_hidden_states"] = states.expand(len(latent), -1, -1)
        if kind == "SD3":
            answers.append(transformer(latent, pooled_projections=extras["pooled_output"].expand(len(latent), -1), **common)[0])
        elif kind == "PixArt":
            size = {"resolution": torch.tensor([[latent.shape[2] * 8.0, latent.shape[3] * 8.0]]).expand(len(latent), -1),
                    "aspect_ratio": torch.full((len(latent), 1), latent.shape[2] / latent.shape[3])}
            size = size if transformer.use_additional_conditions else {"resolution": None, "aspect_ratio": None}
            answers.append(transformer(latent, encoder_attention_mask=extras["attention_mask"].expand(len(latent), -1),
                                       added_cond_kwargs=size, **common)[0][:, :4])
        else:
            from diffusers import FluxPipeline
            rows, columns = latent.shape[2] // 2, latent.shape[3] // 2
            packed = FluxPipeline._pack_latents(latent, len(latent), 16, *latent.shape[2:])
            guidance = torch.full((len(latent),), extras["guidance"]) if transformer.config.guidance_embeds else None
            answer = transformer(
                packed, pooled_projections=extras["pooled_output"].expand(len(latent), -1), guidance=guidance,
                img_ids=FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32),
                txt_ids=torch.zeros(states.shape[1], 3), **common | {"timestep": common["timestep"] / 1000})[0]
            answers.append(FluxPipeline._unpack_latents(answer, latent.shape[2] * 8, latent.shape[3] * 8, 8))
    return answers


def noisy(dit, height=64, width=64, batch=2):
    (empty,) = out(EmptyLatent, dit=dit, width=width, height=height, batch_size=batch)
    (sigmas,) = out(Schedule, dit=dit, steps=3, scheduler="simple", denoise=1.0)
    tokens, _ = out(Patchify, latent=empty, patch_size=0, dit=dit)
    tokens, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=1)
    return {"dit": dit, "tokens": tokens, "sigmas": sigmas, "start_step": 0, "end_step": 3, "solver": "euler"}


def one_step(inputs, kind, cfg=3.0):
    positive, negative = conditioning(kind)
    _, x0, *_ = out(Denoise, **inputs | {"end_step": 1}, positive=positive, negative=negative, cfg=cfg)
    latent, _ = out(Unpatchify, tokens=x0 | {"latent_format": {**x0["latent_format"], "shift": torch.zeros(x0["channels"]),
                                                               "scale": torch.ones(x0["channels"])}})
    return latent["samples"]


@pytest.mark.parametrize("kind,height,width", [("SD3", 48, 80), ("DiT", 64, 64), ("PixArt", 48, 80), ("Flux", 48, 80)])
def test_one_step_is_what_the_library_s_transformer_says(folder, kind, height, width):
    transformer = MAKE[kind]()
    dit, _, _ = load_folder(folder(kind, transformer, max_shard_size="20KB"))
    inputs = noisy(dit, height, width)
    x = torch.randn(2, dit.channels, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    if isinstance(dit.flow, DDPM):
        sigma = dit.flow.sigmas[-1].float()
        x = x * (sigma ** 2 + 1).sqrt()  # as KSampler begins: the variance that the model knows at its last time
        cond, uncond = theirs(kind, transformer, x / (sigma ** 2 + 1).sqrt(), torch.tensor(999), conditioning(kind))
    else:
        sigma = torch.tensor(1.0)
        cond, uncond = theirs(kind, transformer, x, torch.tensor(1000.0), conditioning(kind))
    wanted = x - sigma * (uncond + (cond - uncond) * 3)
    torch.testing.assert_close(one_step(inputs, kind), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("kind", MAKE)
def test_from_a_folder_to_a_picture(folder, kind):
    folder(kind)
    dit, _, vae = out(LoadDiffusers, folder=kind)
    positive, negative = conditioning(kind)
    tokens, *_ = out(Denoise, **noisy(dit), positive=positive, negative=negative, cfg=2.0)
    latent, _ = out(Unpatchify, tokens=tokens)
    (image,) = out(VAEDecode, latent=latent, vae=vae)
    assert image.shape == (2, 64, 64, 3) and image.isfinite().all() and 0 <= image.min() <= image.max() <= 1
    assert dit.name == kind and {value.dtype for value in dit.model.parameters()} == {torch.float32}


def test_what_the_folder_s_files_say(folder):
    of = {kind: load_folder(folder(kind))[0] for kind in MAKE}
    assert {kind: of[kind].flow for kind in FLOWS} == FLOWS
    assert of["Flux"].flow.shift == pytest.approx(3.1582, abs=1e-4)  # e^1.15, as ComfyUI has it for Flux
    assert {kind: dit.picture_size for kind, dit in of.items()} == {"SD3": 128, "DiT": 64, "PixArt": 128, "Flux": 1024}
    assert of["SD3"].latent_format["scale"].tolist() == [1.5] * 16
    assert of["SD3"].latent_format["shift"].tolist() == pytest.approx([0.06] * 16)
    assert of["DiT"].class_names == {0: "tench, Tinca tinca", 4: "hammerhead"}
    assert of["DiT"].class_conditioning("Hammerhead")[0][1] == {"class_label": 4}


def test_pixart_alpha_is_told_the_picture_s_size_and_masked_text_has_no_say(folder):
    transformer = SMALL.pixart(sample_size=128)
    dit, _, _ = load_folder(folder("PixArt", transformer))
    assert transformer.use_additional_conditions
    inputs = noisy(dit, 48, 80)
    first = one_step(inputs, "PixArt", cfg=1.0)
    sigma = dit.flow.sigmas[-1].float()
    x = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(1)) * sigma
    wanted = x - sigma * theirs("PixArt", transformer, x / (sigma ** 2 + 1).sqrt(), torch.tensor(999), conditioning("PixArt")[:1])[0]
    torch.testing.assert_close(first, wanted, atol=5e-5 * wanted.abs().max().item(), rtol=1e-5)
    ((states, extras),), _ = conditioning("PixArt")
    changed = states.clone()
    changed[:, 3:] += 1
    of = [out(Denoise, **inputs | {"end_step": 1}, positive=[[s, extras]], cfg=1.0)[1]["tokens"] for s in (states, changed)]
    assert torch.equal(*of)


@pytest.mark.parametrize("guided", [True, False])
def test_flux_takes_guidance_where_it_was_trained_with_it(folder, guided):
    dit, _, _ = load_folder(folder("Flux", SMALL.flux(guided)))
    inputs = noisy(dit) | {"end_step": 1}
    of = [out(Denoise, **inputs, positive=text(1, **extras), cfg=1.0)[1]["tokens"] for extras in ({}, {"guidance": 3.5}, {"guidance": 9.0})]
    assert torch.equal(of[0], of[1]) and torch.equal(of[0], of[2]) != guided


@pytest.mark.parametrize("kind", MAKE)
def test_half_precision_stays_and_variants_are_found(folder, kind):
    dit, _, vae = load_folder(folder(kind, MAKE[kind]().bfloat16(), variant="fp16", max_shard_size="20KB"))
    assert {value.dtype for value in dit.model.parameters()} == {torch.bfloat16}
    positive, _ = conditioning(kind)
    tokens, *_ = out(Denoise, **noisy(dit), positive=positive, cfg=1.0)
    assert tokens["tokens"].dtype == torch.float32 and tokens["tokens"].isfinite().all()


def test_shards_of_a_variant_under_the_names_they_had_up_to_0_30(folder):
    part = folder("SD3", variant="fp16", max_shard_size="300KB") / "transformer"
    index = part / "diffusion_pytorch_model.safetensors.index.fp16.json"
    old = index.with_name("diffusion_pytorch_model.safetensors.fp16.index.json")
    old.write_text(re.sub(r"\.fp16-(\d{5}-of-\d{5})", r"-\1.fp16", index.read_text()))
    index.unlink()
    shards = list(part.glob("*.safetensors"))
    for path in shards:
        path.rename(part / re.sub(r"\.fp16-(\d{5}-of-\d{5})", r"-\1.fp16", path.name))
    assert len(shards) > 1 and load_folder(part.parent)[0].name == "SD3"


def test_a_folder_without_its_t5_or_with_byte_order_marks_or_behind_a_link_loads(folder):
    path = folder("SD3")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(path / part)
    (path / "model_index.json").write_text((path / "model_index.json").read_text(), encoding="utf-8-sig")
    path.rename(path.with_name("0123abcd"))
    path.symlink_to(path.with_name("0123abcd"))
    dit, clip, _ = load_folder(path)
    assert dit.name == "SD3" and clip.parts["text_encoder_3"] is clip.parts["tokenizer_3"] is None


@pytest.mark.parametrize("change", [lambda value: value.to(torch.float8_e4m3fn), lambda value: value.bfloat16() if value.dim() > 1 else value],
                         ids=["float8", "mixed"])
@pytest.mark.parametrize("kind", MAKE)
def test_weights_of_any_floating_type_take_a_step(folder, kind, change):
    file = folder(kind) / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({key: change(value) for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    dit, _, _ = load_folder(file.parent.parent)
    positive, negative = conditioning(kind)
    tokens, *_ = out(Denoise, **noisy(dit), positive=positive, negative=negative, cfg=2.0)
    assert tokens["tokens"].dtype == torch.float32 and tokens["tokens"].isfinite().all() and tokens["tokens"].std() > 0.1


@pytest.mark.parametrize("kind", MAKE)
def test_save_and_load_draw_the_same(folder, models, kind):
    dit, _, _ = load_folder(folder(kind))
    SaveCheckpoint.execute(dit=dit, filename_prefix=kind)
    (models / "diffusion_models").mkdir()
    (models.parent / "output" / f"{kind}_00001_.safetensors").rename(models / "diffusion_models" / "x.safetensors")
    (loaded,) = out(LoadCheckpoint, file="x.safetensors")
    assert (loaded.name, loaded.flow, loaded.class_names) == (dit.name, dit.flow, dit.class_names)
    assert torch.equal(*(one_step(noisy(d), kind) for d in (dit, loaded)))


def test_the_vae_is_the_library_s_with_the_posterior_s_mean(models):
    reference = SMALL.save("SD3", models / "diffusers" / "SD3", SMALL.sd3())
    _, _, vae = out(LoadDiffusers, folder="SD3")
    pixels = torch.rand(1, 35, 48, 3)
    (latent,) = out(VAEEncode, pixels=pixels, vae=vae)
    with torch.no_grad():
        wanted = reference.encode(pixels[:, 1:33].movedim(-1, 1) * 2 - 1).latent_dist.mean
        torch.testing.assert_close(latent["samples"], wanted)
        picture = (reference.decode(wanted).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(vae.decode(latent["samples"]), picture)
    assert vae.decode_tiled(latent["samples"]).shape == picture.shape and not vae.vae.autoencoder.use_tiling
    assert vae.encode_tiled(pixels).shape == wanted.shape and vae.spacial_compression_decode() == 8


def test_a_half_precision_vae_that_would_overflow_is_run_in_float32(folder, models):
    path = folder("SD3")
    for upcast, dtype in ((True, torch.float32), (False, torch.float16)):
        SMALL.vae(16, force_upcast=upcast).half().save_pretrained(path / "vae")
        assert next(load_folder(path)[2].vae.parameters()).dtype == dtype


def test_a_host_runs_a_vae_of_the_published_size_itself(folder):
    path, asked = folder("SD3"), []

    def host_vae(tensors):
        asked.append(set(tensors))
        return "the host's"
    assert load_folder(path, host_vae=host_vae)[2] != "the host's" and not asked
    edit(path / "vae/config.json", block_out_channels=[128, 256, 512, 512])
    assert load_folder(path, host_vae=host_vae)[2] == "the host's" and "decoder.conv_in.weight" in asked[0]


def edit(path, **changes):
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def lose(folder, pattern):
    path = sorted(folder.glob(pattern))[1]
    path.unlink()


def to_pickle(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"")


def point_outside(folder):
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    edit(index, weight_map={"x": "../../other/model.safetensors"})


@pytest.mark.parametrize("change,message", [
    (lambda f: lose(f / "transformer", "*-of-*.safetensors"),
     "SD3/transformer: the shard diffusion_pytorch_model-00002-of-00034.safetensors is missing (34 are named in diffusion_pytorch_model."
     "safetensors.index.json)"),
    (lambda f: point_outside(f / "transformer"), "'../../other/model.safetensors' is not the name of a safetensors file beside it"),
    (lambda f: to_pickle(f / "transformer"), "SD3/transformer has only pickles (diffusion_pytorch_model.bin), which can run code"),
    (lambda f: to_pickle(f / "vae"), "SD3/vae has only pickles (diffusion_pytorch_model.bin)"),
    (lambda f: (f / "text_encoder_3/model.safetensors").unlink(), "SD3/text_encoder_3 has no model.safetensors and no model.safetensors.index"),
    (lambda f: shutil.rmtree(f / "vae"), "SD3/vae/config.json: no such file"),
    (lambda f: (f / "vae/config.json").write_text("{"), "SD3/vae/config.json: not JSON"),
    (lambda f: edit(f / "model_index.json", transformer=None), "SD3/model_index.json names no transformer"),
    (lambda f: edit(f / "model_index.json", transformer=["my_code", "SD3Transformer2DModel"]),
     "SD3: its transformer is from 'my_code'; only classes of diffusers are run, never code that comes with a model"),
    (lambda f: edit(f / "transformer/config.json", auto_map={"AutoModel": "x.py"}), "auto_map asks to run code of the model's own"),
    (lambda f: edit(f / "transformer/config.json", _class_name="SanaTransformer2DModel"),
     "SD3: its transformer is a SanaTransformer2DModel, known are SD3Transformer2DModel, DiTTransformer2DModel, PixArtTransformer2DModel, "
     "FluxTransformer2DModel"),
    (lambda f: edit(f / "transformer/config.json", _class_name="FluxTransformer2DModel"), "SD3/transformer: missing "),
    (lambda f: edit(f / "transformer/config.json", sample_size="x"), "SD3/transformer/config.json: sample_size is a whole number from 1 to 2048, not 'x'"),
    (lambda f: edit(f / "model_index.json", vae=["diffusers", "AutoencoderDC"]), "SD3: its vae is a AutoencoderDC, known is AutoencoderKL"),
    (lambda f: edit(f / "vae/config.json", scaling_factor="x"), "SD3/vae/config.json has scaling_factor = 'x', not a number"),
    (lambda f: edit(f / "vae/config.json", latent_channels=4), "SD3: its vae has latents of 4 channels, its transformer reads 16"),
    (lambda f: edit(f / "vae/config.json", block_out_channels=[4, 4, 8, 16]), "SD3/vae: its config.json describes 51,431 parameters, its weights have 20,351"),
    (lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="ConsistencyDecoderScheduler"),
     "SD3/scheduler is a ConsistencyDecoderScheduler, known are FlowMatch schedulers and those with a beta_schedule"),
    (lambda f: edit(f / "scheduler/scheduler_config.json", shift="x"), "SD3/scheduler has shift = 'x', not a number"),
    (lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler", beta_schedule="cosine"),
     "SD3/scheduler: DDPM: beta_schedule is linear or scaled_linear, not 'cosine'"),
    (lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler", beta_schedule="linear", prediction_type="sample"),
     "SD3/scheduler has prediction_type = 'sample', known are epsilon, v_prediction"),
    (lambda f: edit(f / "model_index.json", text_encoder=None), "SD3/model_index.json names no text_encoder"),
    (lambda f: edit(f / "model_index.json", text_encoder=["transformers", "LlamaModel"]), "SD3: its text_encoder is a LlamaModel, known are"),
    (lambda f: edit(f / "model_index.json", id2label=[1]), "SD3/model_index.json: its id2label is not a name for each number"),
])
def test_a_folder_that_is_refused(folder, change, message):
    change(folder("SD3", max_shard_size="20KB"))
    with pytest.raises(ValueError) as caught:
        out(LoadDiffusers, folder="SD3")
    assert str(caught.value).startswith("Load DiT (diffusers): ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_only_listed_folders_can_be_named(folder, models):
    path = folder("DiT")
    shutil.copytree(path, models.parent / "elsewhere")
    (path / "model_index.json").unlink()
    for name in ("DiT", "../../elsewhere", str(models.parent / "elsewhere")):
        with pytest.raises(ValueError, match=r"^Load DiT \(diffusers\): folder is one of those in models/diffusers \(empty\), not '"):
            out(LoadDiffusers, folder=name)


def test_parts_that_can_t_be_say_so_when_they_are_used(folder, monkeypatch):
    _, clip, vae = load_folder(folder("DiT"))
    with pytest.raises(ValueError, match="^DiT takes class labels, not text: use Class Label$"):
        clip.tokenize("a dog")
    assert not hasattr(clip, "is_dynamic")  # which ComfyUI's cache asks of every output
    path = folder("SD3")
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    _, clip, vae = load_folder(path)
    with pytest.raises(ValueError, match="^the VAE of SD3 needs diffusers .* it is not installed: "):
        vae.decode(torch.zeros(1, 16, 2, 2))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="^the text of SD3 needs transformers, and it is not installed: "):
        clip.tokenize("a dog")
    with pytest.raises(ValueError, match="^PixArt/transformer needs diffusers .* it is not installed: "):
        load_folder(folder("PixArt"))


@pytest.mark.parametrize("kind,norm", [("DiT", "ada_norm_zero"), ("PixArt", "ada_norm_single")])
def test_older_folders_that_name_only_transformer2dmodel(folder, kind, norm):
    path = folder(kind)
    edit(path / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit(path / "transformer/config.json", _class_name="Transformer2DModel", norm_type=norm, double_self_attention=False)
    dit, _, _ = load_folder(path)
    assert one_step(noisy(dit), kind).isfinite().all()


@pytest.mark.parametrize("method,size", [("resample", 4), ("pi_resize", 4), ("pi_resize", 1)])
@pytest.mark.parametrize("kind", MAKE)
def test_other_patch_sizes_on_a_folder_s_model(folder, kind, method, size):
    """Every kind reads patches of a size that is not its own, and on cells that are constant resample is the model's own coarse step."""
    dit, *_ = load_folder(folder(kind))
    own, (positive, negative) = dit.patch_size, conditioning(kind)
    size, sigmas = size * own // 2 or 1, dit.schedule(3)
    small = torch.randn(1, dit.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    big = dit.fold({"samples": small.repeat_interleave(2, -2).repeat_interleave(2, -1)}, size)
    reading = dit.reading(size, method)
    end, _ = reading.denoise(big, sigmas, positive, negative, 2.0)
    assert end["tokens"].isfinite().all() and end["tokens"].shape == big["tokens"].shape
    if method == "resample":
        coarse, level = dit.fold({"samples": small}), sigmas[1]
        x0 = reading.denoiser(big, positive)(big["tokens"], level)
        x, level = dit.flow.quieter(coarse["tokens"], level, 0.5)
        torch.testing.assert_close(reading.reading.down(x0), dit.denoiser(coarse, positive)(x, level), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_as_editors_on_windows_save_it(folder, encoding):
    path = folder("SD3")
    for name in ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"):
        (path / name).write_text((path / name).read_text(), encoding=encoding)
    load_folder(path)


def test_what_a_model_is_called(folder, tmp_path):
    path = folder("SD3")
    cached = tmp_path / "models--org--sd35" / "snapshots" / ("0" * 40)
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    (tmp_path / "linked").symlink_to(cached)
    assert load_folder(cached)[0].name == "sd35" and load_folder(tmp_path / "linked")[0].name == "linked"

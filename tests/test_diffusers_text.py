"""The text encoders of a diffusers folder: what core's CLIP Text Encode gets equals the library's own pipeline."""

import json
from pathlib import Path
import runpy
import shutil
from types import SimpleNamespace

import pytest
import torch

transformers = pytest.importorskip("transformers")
import diffusers  # noqa: E402

from dit_blocks.nodes.load import LoadDiffusers  # noqa: E402
from dit_blocks.standalone import pack  # noqa: E402
from dit_blocks.standalone.core_nodes import CLIPTextEncode  # noqa: E402
from dit_blocks.standalone.folders import Folders, use  # noqa: E402

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("diffusers_models.py"))))
MAKE = {"SD3": SMALL.sd3, "PixArt": SMALL.pixart, "Flux": SMALL.flux}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPT = "A dog and a cat"


def clip_tokenizer():
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def t5_tokenizer():
    words = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return transformers.T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)


def clip(cls, width):
    return cls(transformers.CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, projection_dim=width,
        max_position_embeddings=77, bos_token_id=52, eos_token_id=53, pad_token_id=53))


def t5():
    return transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=30, d_model=SMALL.TEXT_WIDTH, d_kv=8, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")).eval()


def build(kind):
    """The library's pipeline, small and random."""
    torch.manual_seed(0)
    # SD3's two CLIPs fill a width below T5's, and their pooled vectors the transformer's pooled width, side by side
    projected, plain = transformers.CLIPTextModelWithProjection, transformers.CLIPTextModel
    common = {"transformer": MAKE[kind](), "scheduler": SMALL.SCHEDULERS[kind], "vae": SMALL.vae(4 if kind == "PixArt" else 16)}
    if kind == "SD3":
        return diffusers.StableDiffusion3Pipeline(
            **common, text_encoder=clip(projected, 8), tokenizer=clip_tokenizer(), text_encoder_2=clip(projected, 16),
            tokenizer_2=clip_tokenizer(), text_encoder_3=t5(), tokenizer_3=t5_tokenizer())
    if kind == "Flux":
        return diffusers.FluxPipeline(**common, text_encoder=clip(plain, SMALL.POOLED_WIDTH), tokenizer=clip_tokenizer(),
                                      text_encoder_2=t5(), tokenizer_2=t5_tokenizer())
    return diffusers.PixArtSigmaPipeline(**common, text_encoder=t5(), tokenizer=t5_tokenizer())


@pytest.fixture
def models(tmp_path):
    pack.load()
    with use(Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))):
        yield tmp_path / "models" / "diffusers"


def encoded(kind):
    dit, text_encoders, _ = LoadDiffusers.execute(folder=kind).result
    (conditioning,) = CLIPTextEncode().encode(text_encoders, PROMPT)
    return dit, conditioning


@pytest.mark.parametrize("kind", MAKE)
def test_a_prompt_becomes_what_the_library_makes_of_it(models, kind):
    pipeline = build(kind)
    pipeline.save_pretrained(models / kind, max_shard_size="20KB")
    dit, (((states, extras)),) = encoded(kind)
    with torch.no_grad():
        if kind == "SD3":
            wanted, _, pooled, _ = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT)
        elif kind == "Flux":
            wanted, pooled, _ = pipeline.encode_prompt(PROMPT, PROMPT)
        else:
            wanted, mask, _, _ = pipeline.encode_prompt(PROMPT)
            pooled = None
            assert extras["attention_mask"].tolist() == mask.tolist() and 0 < mask.sum() < 300
    torch.testing.assert_close(states, wanted)
    if pooled is not None:
        torch.testing.assert_close(extras["pooled_output"], pooled)
    assert dit.model.conditions.width == states.shape[-1]


def test_from_a_prompt_to_tokens(models):
    from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
    from dit_blocks.nodes.patch import Patchify
    from dit_blocks.nodes.vae import EmptyLatent

    for kind in MAKE:
        build(kind).save_pretrained(models / kind)
        dit, conditioning = encoded(kind)
        (empty,) = EmptyLatent.execute(dit=dit, width=32, height=32, batch_size=1).result
        tokens, _ = Patchify.execute(latent=empty, patch_size=0, dit=dit).result
        (sigmas,) = Schedule.execute(dit=dit, steps=2, scheduler="simple", denoise=1.0).result
        noisy, _ = AddNoise.execute(dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=0).result
        done, *_ = Denoise.execute(dit=dit, tokens=noisy, sigmas=sigmas, start_step=0, end_step=2, positive=conditioning,
                                  negative=conditioning, cfg=2.0, solver="euler").result
        assert done["tokens"].isfinite().all()


def test_sd3_without_its_third_encoder(models):
    pipeline = build("SD3")
    pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    pipeline.save_pretrained(models / "SD3")
    _, (((states, _)),) = encoded("SD3")
    with torch.no_grad():
        torch.testing.assert_close(states, pipeline.encode_prompt(PROMPT, PROMPT, PROMPT)[0])
    assert states.shape == (1, 77 + 256, SMALL.TEXT_WIDTH) and not states[:, 77:].any()


def test_sd3_whose_third_encoder_was_not_downloaded(models, caplog):
    pipeline = build("SD3")
    pipeline.save_pretrained(models / "SD3")
    shutil.rmtree(models / "SD3" / "text_encoder_3")
    _, ((states, _),) = encoded("SD3")
    assert states.shape == (1, 77 + 256, SMALL.TEXT_WIDTH) and not states[:, 77:].any()
    assert "SD3: there is no folder text_encoder_3: prompts are read without it" in caplog.text
    shutil.rmtree(models / "SD3" / "text_encoder_2")
    with pytest.raises(ValueError, match="SD3/text_encoder_2"):
        LoadDiffusers.execute(folder="SD3")


@pytest.mark.parametrize("told, why", [({"num_layers": 10 ** 6}, "its config.json has num_hidden_layers = 1000000, its weights have 2"),
                                       ({"vocab_size": 10 ** 9}, "its config.json describes 32,000,")])
def test_what_an_encoder_says_of_its_size_is_held_against_its_weights(models, told, why):
    build("PixArt").save_pretrained(models / "PixArt")
    config = models / "PixArt" / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | told))
    _, text_encoders, _ = LoadDiffusers.execute(folder="PixArt").result
    with pytest.raises(ValueError, match=why):
        text_encoders.tokenize(PROMPT)


def test_encoders_that_do_not_fit(models):
    build("Flux").save_pretrained(models / "Flux")
    (models / "Flux" / "text_encoder" / "model.safetensors").write_bytes(b"not that")
    _, text_encoders, _ = LoadDiffusers.execute(folder="Flux").result
    with pytest.raises(ValueError, match=r"^Flux/text_encoder: not a CLIPTextModel that can be read \(") as caught:
        text_encoders.tokenize(PROMPT)
    assert "\n" not in str(caught.value)
    config = models / "Flux" / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.py"}}))
    with pytest.raises(ValueError, match="text_encoder_2/config.json: auto_map asks to run code of the model's own"):
        LoadDiffusers.execute(folder="Flux")


def test_an_encoder_with_weights_missing(models):
    from safetensors.torch import load_file, save_file

    build("Flux").save_pretrained(models / "Flux")
    path = models / "Flux" / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    _, text_encoders, _ = LoadDiffusers.execute(folder="Flux").result
    with pytest.raises(ValueError, match="^Flux/text_encoder_2: missing keys encoder.block.1.layer.0.SelfAttention.q.weight$"):
        text_encoders.tokenize(PROMPT)

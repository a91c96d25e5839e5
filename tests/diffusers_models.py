"""Small random models, saved by the diffusers library itself into folders such as its users have."""

import json
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)
import torch
from torch import nn

TEXT_WIDTH, POOLED_WIDTH = 32, 24


def randomised(model: nn.Module, std: float = 0.1) -> nn.Module:
    """Random in every parameter: a fresh model's gates and heads are zero and hide mistakes."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight") and parameter.dim() == 1), std=std)
    return model.eval().requires_grad_(False)


def vae(channels: int, **settings) -> AutoencoderKL:
    """8x down, a few thousand parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(4, 4, 8, 8),
        norm_num_groups=2, latent_channels=channels, use_quant_conv=False, use_post_quant_conv=False, **settings).eval()


def sd3(sample_size: int = 16) -> SD3Transformer2DModel:
    return randomised(SD3Transformer2DModel(
        sample_size=sample_size, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH, caption_projection_dim=64, pooled_projection_dim=POOLED_WIDTH, out_channels=16,
        pos_embed_max_size=24))


def dit() -> DiTTransformer2DModel:
    model = randomised(DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=5))
    for block in model.transformer_blocks:  # published ones hold the same embedding in every block
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


def pixart(sample_size: int = 16) -> PixArtTransformer2DModel:
    return randomised(PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=48,
        sample_size=sample_size, patch_size=2, caption_channels=TEXT_WIDTH))


def flux(guidance: bool = True) -> FluxTransformer2DModel:
    return randomised(FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6)))


SCHEDULERS = {
    "SD3": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "DiT": DDIMScheduler(beta_schedule="linear", clip_sample=False),
    "PixArt": DPMSolverMultistepScheduler(),
    "Flux": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
}
PIPELINES = {"SD3": "StableDiffusion3Pipeline", "DiT": "DiTPipeline", "PixArt": "PixArtSigmaPipeline", "Flux": "FluxPipeline"}
TEXT_PARTS = {
    "SD3": {"text_encoder": "CLIPTextModelWithProjection", "tokenizer": "CLIPTokenizer", "text_encoder_2": "CLIPTextModelWithProjection",
            "tokenizer_2": "CLIPTokenizer", "text_encoder_3": "T5EncoderModel", "tokenizer_3": "T5TokenizerFast"},
    "DiT": {},
    "PixArt": {"text_encoder": "T5EncoderModel", "tokenizer": "T5Tokenizer"},
    "Flux": {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer", "text_encoder_2": "T5EncoderModel",
             "tokenizer_2": "T5TokenizerFast"},
}


def save(kind: str, folder: Path, transformer: nn.Module, max_shard_size: str = "10GB", variant: str | None = None) -> AutoencoderKL:
    """Write what `save_pretrained` writes of a pipeline; stub files stand for the text encoders. → the VAE that was saved."""
    torch.manual_seed(1)
    if kind == "DiT":
        ours = vae(4)
        DiTPipeline(transformer, ours, SCHEDULERS[kind], id2label={0: "tench, Tinca tinca", 4: "hammerhead"}).save_pretrained(
            folder, max_shard_size=max_shard_size, variant=variant)
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {"0": "tench, Tinca tinca", "4": "hammerhead"}  # as facebook/DiT-XL-2-256 has it
        (folder / "model_index.json").write_text(json.dumps(index))
        return ours
    ours = vae(16, scaling_factor=1.5, shift_factor=0.06) if kind != "PixArt" else vae(4, scaling_factor=0.13)
    transformer.save_pretrained(folder / "transformer", max_shard_size=max_shard_size, variant=variant)
    ours.save_pretrained(folder / "vae", variant=variant)
    SCHEDULERS[kind].save_pretrained(folder / "scheduler")
    index = {"_class_name": PIPELINES[kind], "transformer": ["diffusers", type(transformer).__name__],
             "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", type(SCHEDULERS[kind]).__name__]}
    for part, name in TEXT_PARTS[kind].items():
        index[part] = ["transformers", name]
        (folder / part).mkdir()
        if part.startswith("text"):
            (folder / part / "config.json").write_text("{}")
            (folder / part / "model.safetensors").write_bytes(b"")
    (folder / "model_index.json").write_text(json.dumps(index))
    return ours

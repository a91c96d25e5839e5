"""What all tests share: small random models, and the embedded one."""

import pytest
import torch

from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.standalone import comfy_api_standin

comfy_api_standin.install()


@pytest.fixture
def backbone() -> Backbone:
    """A small random MM-DiT with patch sizes 2 and 4 on 4-channel latents."""
    torch.manual_seed(0)
    config = MMDiTConfig(patch_sizes=(2, 4), in_channels=4, width=64, depth=2, heads=2, context_width=32, pooled_width=16,
                         qk_norm=True, position="picture", position_table=8, position_base=8.0)
    model = MMDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), RectifiedFlow(), "a small DiT", picture_size=64)


@pytest.fixture
def class_dit() -> Backbone:
    """A small random class-conditional DiT with DDPM's noise levels."""
    torch.manual_seed(0)
    model = DiT(DiTConfig(in_channels=4, width=64, depth=3, heads=2, classes=10))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), DDPM(), "a small DiT", picture_size=64)


def conditioning(seed: int, batch: int = 1) -> list:
    """Random CONDITIONING that fits the small backbone."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(batch, 5, 32, generator=generator), {"pooled_output": torch.randn(batch, 16, generator=generator)}]]


@pytest.fixture
def positive() -> list:
    return conditioning(1)


@pytest.fixture
def negative() -> list:
    return conditioning(2)

"""Runs under ComfyUI's Python: Position Embed's modes on models with rotary positions. One line of JSON a case: {"case", "error"}.

    python tests/host_positions_check.py COMFYUI_DIR FOLDER_THAT_HOLDS_dit_blocks
"""

import math
import sys

from host_model_check import out
from host_models import run_cases, start
import torch

ROTARY = ("flux_dev", "flux2", "qwen_image", "lumina2", "z_image", "wan", "wan_i2v")


class Step:
    """A step of a model by stages, up to Position Embed; then x0 [B, N, C·p·p] as the rest of the stages give it."""

    def __init__(self, make, step=1, **how):
        from dit_blocks.nodes.denoise import AddNoise, Schedule
        from dit_blocks.nodes.model import FromModel
        from dit_blocks.nodes.patch import Patchify
        from dit_blocks.nodes.transformer import Condition, PatchEmbed
        self.model, positive, negative, samples = make(**how)
        (self.dit,) = out(FromModel, model=self.model)
        tokens, *_ = out(Patchify, latent={"samples": samples}, patch_size=0, dit=self.dit)
        (sigmas,) = out(Schedule, dit=self.dit, steps=4, scheduler="simple", denoise=1.0)
        tokens, _ = out(AddNoise, dit=self.dit, tokens=tokens, sigmas=sigmas, step=step, seed=5)
        self.grid, self.sigma = tokens["grid"], sigmas[step].item()
        (hidden,) = out(Condition, dit=self.dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=step)
        (self.hidden,) = out(PatchEmbed, dit=self.dit, x=hidden)

    def placed(self, mode, **how):
        from dit_blocks.nodes.transformer import PositionEmbed
        return out(PositionEmbed, dit=self.dit, hidden=self.hidden, mode=mode, **{"seed": 0, **how})[0]

    def x0(self, mode, **how):
        from dit_blocks.nodes.transformer import FinalLayer, Guidance, RunBlocks
        (hidden,) = out(RunBlocks, dit=self.dit, hidden=self.placed(mode, **how), blocks="all", strength=1.0)
        (prediction,) = out(FinalLayer, dit=self.dit, hidden=hidden)
        return out(Guidance, prediction=prediction, cfg=4.0)[0]["tokens"]


def scaling_by_one_changes_nothing(name, make):
    step = Step(make, batch=2)
    own = step.x0("model")
    for mode in ("scaled", "NTK", "YaRN", "DyPE"):
        for how in (dict(scale=1.0), dict()):  # these pictures are smaller than those that it was trained on
            assert torch.equal(own, step.x0(mode, **how)), (mode, how)
    assert torch.equal(own, step.x0("shifted", shift=0.0))
    embedder = step.model.model.diffusion_model.get_submodule(step.dit.stages.rotary)
    assert "forward" not in vars(embedder)


def each_mode_is_another_picture(name, make):
    step = Step(make)
    made = {mode: step.x0(mode, scale=2.0) for mode in ("model", "none", "shuffled", "1-D", "shifted", "scaled", "NTK", "YaRN", "DyPE")}
    for mode, x0 in made.items():
        assert x0.isfinite().all()
        same = [other for other in made if other != mode and torch.equal(made[other], x0)]
        assert not same, f"{mode} is {same}"
    assert not torch.equal(made["shuffled"], step.x0("shuffled", seed=1)) and torch.equal(made["shuffled"], step.x0("shuffled"))


def rows_of(step) -> slice:
    """The picture's rows in a rotary table."""
    stages, hidden = step.dit.stages, step.hidden["hidden"]
    first = hidden.context.shape[1] if stages.rotary == "pe_embedder" or stages.name.startswith("Lumina") else stages.first_token(hidden)
    return slice(first, first + math.prod(step.grid))


def angles(step, mode, **how):
    """The picture's rotary table: [N, D / 2, 2, 2]."""
    position = step.placed(mode, **how)["hidden"].position
    dims = [side for side, length in enumerate(position.shape) if length > 1 and side > 0]
    return position.float().flatten(0, dims[0] - 1)[0][rows_of(step)] if dims[0] > 1 else position.float()[0].squeeze(1)[rows_of(step)]


def places_are_what_they_say(name, make):
    """None: all tokens turn alike. Shuffled: the same turns in another order. Shifted: the turns between tokens stay. Scaled by 2: every
    second place of a grid of twice the side turns as the places of the trained one."""
    step = Step(make)
    own, none, mixed, shifted = angles(step, "model"), angles(step, "none"), angles(step, "shuffled"), angles(step, "shifted", shift=3.0)
    assert own.std(0).max() > 0.05 and none.std(0).max() < 1e-6
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed, own[order])
    between = lambda turned: turned[:-1].transpose(-1, -2) @ turned[1:]  # noqa: E731
    torch.testing.assert_close(between(shifted), between(own), atol=2e-3, rtol=0)
    assert not torch.allclose(shifted, own, atol=1e-2)
    *_, h, w = step.grid
    along = own.unflatten(0, step.grid)[..., 0, :, :, :, :] if len(step.grid) == 3 else own.unflatten(0, step.grid)[0]
    half = angles(step, "scaled", scale=2.0).unflatten(0, step.grid)
    half = half[..., 0, :, :, :, :] if len(step.grid) == 3 else half[0]
    along, half = (one[0] if len(step.grid) == 3 else one for one in (along, half))  # the first row
    steps = min(w, 4) // 2
    for k in range(1, steps + 1):  # from the first place on, twice as many places at half the turn
        if 2 * k < w:
            torch.testing.assert_close(half[0].transpose(-1, -2) @ half[2 * k], along[0].transpose(-1, -2) @ along[k], atol=2e-3, rtol=0)


def dype_goes_by_the_noise_level(name, make):
    late, early = Step(make, step=3), Step(make, step=1)
    change = [(step.x0("DyPE", scale=2.0) - step.x0("model")).abs().mean().item() for step in (early, late)]
    shift = [(angles(step, "DyPE", scale=2.0) - angles(step, "model")).abs().mean().item() for step in (early, late)]
    assert early.sigma > late.sigma and shift[0] > 1.1 * shift[1] > 0 and all(change)


def a_large_grid_is_scaled_by_itself(name, make):
    """scale 0: by how much the longer side is more than the trained one."""
    step = Step(make, size=(8, 160))
    assert step.grid[-1] / step.dit.stages.trained == 1.25
    assert torch.equal(step.x0("NTK"), step.x0("NTK", scale=1.25)) and not torch.equal(step.x0("NTK"), step.x0("model"))


def refusals(name, make):
    step = Step(make)
    for mode in ("shifted", "NTK", "YaRN", "DyPE"):
        try:
            step.placed(mode)
        except ValueError as error:
            assert str(error) == f'Position Embed: mode "{mode}" is for rotary positions, which SD3 (MODEL) has not', error
        else:
            raise AssertionError(f"not refused: {mode}")


CASES = {f"{name}: {title}": (check, name) for name in ROTARY for title, check in {
    "by one": scaling_by_one_changes_nothing, "modes": each_mode_is_another_picture}.items()}
CASES |= {f"{name}: places": (places_are_what_they_say, name) for name in ("flux_dev", "qwen_image", "lumina2", "z_image", "wan")}
CASES |= {f"{name}: DyPE": (dype_goes_by_the_noise_level, name) for name in ("flux_dev", "wan")}
CASES |= {"flux_dev: a large grid": (a_large_grid_is_scaled_by_itself, "flux_dev"), "sd3: refusals": (refusals, "sd3")}


if __name__ == "__main__":
    start(*sys.argv[1:3])
    run_cases(CASES, *sys.argv[3:])

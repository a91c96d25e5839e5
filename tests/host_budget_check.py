"""What costs are told of every architecture of the zoo: torch's own counter, on the model's real forward, counts the same within 1%.
Runs under ComfyUI's Python: host_budget_check.py COMFYUI PACKS [words].

Each is counted with its own prompt, by Patch Budget and as a node tells the editor after a run, and at another size by what was told. Where
a prompt is no more than text, it is made up too. Counting changes nothing.
"""

import importlib
import sys

from everywhere import EVERYWHERE, some
from host_models import run_cases, start
from host_zoo_check import FILES, NAMES, REFUSED, latents, out
import torch

PLAIN = {"pooled_output", "guidance"}  # what rides on a prompt that is no more than text
TEXT = 7
LARGER = (24, 40)  # of PixArt, which fails on small ones
OTHER = (8, 24)  # another grid of tokens, which is none that a polynomial goes through
COUNTED = some(NAMES)
SHOWN = some(COUNTED)  # whose costs the node shows too
MANY = {"made up": 35, "at another size": 80} if EVERYWHERE else {"made up": 10, "at another size": 25}  # how many architectures, at least
seen = {name: set() for name in MANY}


def asked(dit, positive, latent: dict):
    """What the model is asked in the first step: args, kwargs."""
    from dit_blocks.nodes.comfyui.model_calls import Listening
    from dit_blocks.nodes.denoise import AddNoise, Schedule
    (sigmas,) = out(Schedule, dit=dit, steps=4, scheduler="simple", denoise=1.0)
    tokens, _ = out(AddNoise, dit=dit, tokens=dit.fold(latent), sigmas=sigmas, step=0, seed=5)
    guider, listening = dit._guider(tokens, positive, None, 1.0), Listening(tokens, dit._start(tokens), sigmas[0], lambda *_: None)
    dit._sample(guider, tokens, listening, sigmas)
    (call,) = listening.asked
    return tokens, call.args, call.kwargs


def counted_by_torch(dit, positive, latent: dict) -> tuple[dict, int]:
    """→ DIT_TOKENS, FLOPs of a real forward, its attention computed as two products of matrices, which torch's counter sees."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from dit_blocks.nodes.comfyui.memory import memory_of, remembering
    model = dit.model.model.diffusion_model
    tokens, args, kwargs = asked(dit, positive, latent)
    with remembering(model, memory_of(model)), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return tokens, counter.get_total_flops()


def near(macs: int, flops: int, what: str) -> None:
    assert abs(2 * macs / flops - 1) < 0.01, f"{what}: {2 * macs:,} FLOPs, torch counts {flops:,}"


def state(model) -> list:
    """What counting must leave as it is."""
    attentions = [(name, vars(module).get("optimized_attention")) for name, module in sys.modules.items() if name.startswith("comfy.")]
    forwards = [vars(module).get("forward") for module in model.modules()]
    return [attentions, forwards, list(map(id, model.parameters())), model.state_dict().keys(), torch.get_rng_state().tolist(),
            {name: id(value) for name, value in vars(model).items() if not isinstance(value, (dict, list, set, tuple))}]


def costs_are_torch_s(name: str) -> None:
    from host_zoo import ZOO

    from dit_blocks.dit_impl.cost.answers import shape_of
    from dit_blocks.dit_impl.cost.arithmetic import architecture, budget
    from dit_blocks.nodes.comfyui import counted
    from dit_blocks.nodes.model import FromModel
    model, positive, _, shape = ZOO[name]()
    (dit,) = out(FromModel, model=model)
    if name in REFUSED:
        return
    latent = latents(shape, 1, empty=name == "hunyuan_image21_refiner")  # whose latents have other channels than its format says
    tokens, flops = counted_by_torch(dit, positive, latent)
    before = state(model.model.diffusion_model)
    if isinstance(shape, list):
        near(counted.count(model, shape, positive).flops // 2, flops, "all tensors")
    elif len(shape) == 2:
        near(counted.count(model, [shape], positive).flops // 2, flops, "a line")
    else:
        frames, (rows, columns) = (shape[1] if len(shape) == 4 else 1), shape[-2:]
        size = {"width": columns * dit.downscale, "height": rows * dit.downscale}
        step = budget(architecture(dit, frames, positive), **size, guided=False)
        near(step.macs, flops, "Patch Budget")
        assert step.blocks + step.head <= step.macs and (step.spent or name in ("wan_animate2",)) and sum(macs for _, macs in step.spent) == step.blocks
        if name in SHOWN:
            by_node(dit, positive, size, frames, budget(architecture(dit, frames, positive), **size))
    told = shape_of(dit, tokens, positive)
    assert state(model.model.diffusion_model) == before
    if not isinstance(shape, list):
        by_what_was_told(name, dit, positive, shape, tokens, told, flops)
    made_up(name, dit, positive, shape, tokens, flops)
    remembers_nothing(dit, positive, latent, shape if isinstance(shape, list) else [(dit.channels, *shape[1:])], flops)


def remembers_nothing(dit, positive, latent: dict, shapes: list[tuple], flops: int) -> None:
    """A prompt costs the same when the model has seen it before."""
    from dit_blocks.nodes.comfyui import counted
    _, args, kwargs = asked(dit, positive, latent)
    dit.model.model.diffusion_model(*args, **kwargs)
    near(counted.count(dit.model, shapes, positive).flops // 2, flops, "after a step")


def no_random_number_is_drawn(name: str) -> None:
    from host_zoo import ZOO

    from dit_blocks.nodes.comfyui import counted
    model, positive, _, shape = ZOO[name]()
    before, drawn = torch.get_rng_state(), []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(1)))
    counted.count(model, [shape], positive)
    hook.remove()
    assert drawn and torch.equal(torch.get_rng_state(), before)


def by_node(dit, positive, size: dict, frames: int, step) -> None:
    from dit_blocks.dit_impl.cost.pictures import _short
    from dit_blocks.nodes.budget import Budget
    words, chart, tokens = out(Budget, preset="SD3-medium", **size, patch_size=0, batch_size=1, unit="MACs", dit=dit, positive=positive,
                               frames=dit.pictures_of(frames))
    assert tokens == step.tokens and chart.isfinite().all() and _short(step.macs, "MAC") in words and "in the blocks" in words, words


def by_what_was_told(name: str, dit, positive, shape: tuple, tokens: dict, told: dict, flops: int) -> None:
    """What a node tells the editor holds for the size that ran, and where it says so for others."""
    from dit_blocks.dit_impl.cost.answers import cost_answer, read_shape
    size = list(tokens["size"][-2:])
    answer = cost_answer({"shape": told, "size": size, "cfg": 1.0, "walk": {"steps": 3}})
    near(answer["sizes"][dit.patch_size]["flops"] // 2, flops, "what was told")
    assert answer["walk"]["flops"] == 3 * answer["sizes"][dit.patch_size]["flops"] and answer["walk"]["stretches"][0]["tokens"] == (
        read_shape(told).frames * -(-size[0] // dit.patch_size) * -(-size[1] // dit.patch_size))
    if not getattr(read_shape(told), "multiple", 1):
        return
    other = [side * dit.patch_size for side in (LARGER if name.startswith("pixart") else OTHER)]
    there = (*shape[:-2], *other) if len(shape) > 2 else (shape[0], other[0] * other[1])
    _, flops = counted_by_torch(dit, positive, latents(there, 1, empty=name == "hunyuan_image21_refiner"))
    wide = other if len(shape) > 2 else [1, other[0] * other[1]]
    near(cost_answer({"shape": told, "size": wide, "cfg": 1.0})["sizes"][min(dit.patch_size, *wide)]["flops"] // 2, flops, "at another size")
    seen["at another size"].add(name)


def made_up(name: str, dit, positive, shape, tokens: dict, flops: int) -> None:
    """A prompt that is made up costs what such a prompt does, or it is said in one line that it can't be."""
    from dit_blocks.dit_impl.cost.arithmetic import architecture, budget
    if isinstance(shape, list) or len(shape) < 3:
        return
    try:
        found = architecture(dit, shape[1] if len(shape) == 4 else 1, None, TEXT)
        step = budget(found, shape[-1] * dit.downscale, shape[-2] * dit.downscale, text=TEXT, guided=False)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 400, error
        return
    if set(positive[0][1]) <= PLAIN:
        near(step.macs, flops, "a prompt that was made up")
        seen["made up"].add(name)


def own_models_too(*_) -> None:
    """The default model as a MODEL: its formulas, or its own forward with a prompt."""

    from dit_blocks.dit_impl.cost.arithmetic import architecture, budget
    from dit_blocks.dit_impl.sources.embedded import load_embedded
    from dit_blocks.nodes.model import FromModel, ToModel
    embedded, clip, _ = load_embedded()
    model, = out(ToModel, dit=embedded)
    (dit,), prompt = out(FromModel, model=model), clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    _, flops = counted_by_torch(dit, prompt, latents((16, 32, 24)))
    for positive in (None, prompt):
        near(budget(architecture(dit, positive=positive), 192, 256, guided=False).macs, flops, "the default model")


def enough(*_) -> None:
    """Seen by the cases before: so many were not refused."""
    assert all(len(seen[what]) >= many for what, many in MANY.items()), {what: len(names) for what, names in seen.items()}


CASES = {**{f"costs: {name}": (costs_are_torch_s, name) for name in COUNTED}, "costs: enough of them": (enough, None),
         "costs: the default model": (own_models_too, None),
         "costs: no random number is drawn": (no_random_number_is_drawn, "ltxv")}


def main(comfyui: str, packs: str, *only: str) -> None:
    start(comfyui, packs)
    for file in FILES:
        importlib.import_module(file)
    run_cases({case: (lambda _, make, check=check, what=name: check(what), None) for case, (check, name) in CASES.items()}, *only)


if __name__ == "__main__":
    main(*sys.argv[1:])

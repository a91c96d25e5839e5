"""Every node leaves what is wired into it as it was, by value and by version counter, and works on batches of one and of more.

ComfyUI hands the same value to every node that is wired to it, and keeps it for the next run.
"""

from functools import cache
from typing import Iterator

import pytest
from test_adapter import random_adapter
import torch
from torch import Tensor, nn

from dit_blocks.dit_impl.sources.adapters import apply_adapter, save_adapter
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.nodes import NODES
from dit_blocks.standalone import pack
from dit_blocks.standalone.folders import Folders, current, use

NOTHING_WIRED = {"PixelSpace", "LoadEmbedded", "LoadDiffusers", "LoadCheckpoint", "LoadSteeringVector"}
# take or give a MODEL: host_model_check.py, host_patch_check.py, host_blocks_check.py, host_cache_check.py,
# host_steering_check.py, host_wired_check.py
NEED_COMFYUI = {"FromModel", "ToModel", "PatchScheduleModel", "BlocksModel", "StepCacheModel", "SteerModel", "StagesModel"}
CLASSES = {cls.define_schema().node_id.removeprefix("DiTBlocks"): cls for cls in NODES}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def run(name: str, /, **inputs) -> tuple:
    """A node with its widgets' own values where none is given."""
    defaults = {one.id: one.default for one in CLASSES[name].define_schema().inputs if one.get_io_type() in WIDGETS}
    return CLASSES[name].execute(**defaults | inputs).result or ()


class Kit:
    """Something for every socket, over the default model; latents of 8 × 8 cells, `batch` of them."""

    def __init__(self, batch: int):
        self.batch, generator = batch, torch.Generator().manual_seed(0)
        self.dit, self.clip, self.vae = load_embedded()
        self.positive, self.negative, self.other = (
            self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in ("a small red ring at the left", "", "a blue square"))
        self.sigmas = self.dit.schedule(4)
        self.image = torch.rand(batch, 64, 64, 3, generator=generator)
        self.mask = (torch.rand(batch, 64, 64, generator=generator) > 0.4).float()
        self.latent = {"samples": torch.randn(batch, self.dit.channels, 8, 8, generator=generator),
                       "noise_mask": torch.rand(batch, 8, 8, generator=generator)}
        self.clean = self.dit.fold({"samples": self.latent["samples"]}, 2)
        self.masked = self.step(tokens=self.dit.fold(self.latent, 2))
        self.tokens = self.step(tokens=self.clean)
        self.common = dict(dit=self.dit, positive=self.positive, sigmas=self.sigmas)
        self.guided = self.common | {"negative": self.negative}
        self.walked, _ = run("DenoiseStep", tokens=self.tokens, solver="dpmpp_2m", **self.guided)  # with the solver's memory
        (self.patches,) = run("PatchEmbed", dit=self.dit, x=self.tokens)  # not conditioned
        self.embedded = run("PatchEmbed", dit=self.dit, x=run("Condition", x=self.tokens, **self.guided)[0])[0]
        self.hidden, self.alone = self.before_blocks(self.guided), self.before_blocks(self.common | {"positive": self.other})
        self.prediction, self.branch = (run("FinalLayer", dit=self.dit, hidden=self.after(one))[0] for one in (self.hidden, self.alone))

    def step(self, tokens: dict) -> dict:
        return run("AddNoise", dit=self.dit, tokens=tokens, sigmas=self.sigmas, seed=1)[0]

    def before_blocks(self, conditions: dict, tokens: dict | None = None, step: int = 0) -> dict:
        (wire,) = run("Condition", x=tokens or self.tokens, step=step, **conditions)
        (wire,) = run("PatchEmbed", dit=self.dit, x=wire)
        return run("PositionEmbed", dit=self.dit, hidden=wire)[0]

    def after(self, hidden: dict) -> dict:
        return run("RunBlocks", dit=self.dit, hidden=hidden)[0]

    @property
    def vector(self):
        return run("SteeringVector", towards=self.hidden, away=self.hidden)[0]

    @property
    def at_step_1(self) -> dict:
        """Guided."""
        hidden = self.before_blocks(self.guided, self.walked, 1)
        return run("Guidance", prediction=run("FinalLayer", dit=self.dit, hidden=self.after(hidden))[0])[0]

    def learning(self) -> tuple:
        """A model that learns, and its prediction from noise at a time."""
        (learner,) = run("Trainable", dit=self.dit)
        noisy, _, sigmas = run("NoiseAtTime", dit=learner, tokens=self.clean)
        hidden = self.before_blocks({"dit": learner, "positive": self.positive, "sigmas": sigmas}, noisy)
        (hidden,) = run("RunBlocks", dit=learner, hidden=hidden)
        return learner, run("FinalLayer", dit=learner, hidden=hidden)[0]

    def train_step(self) -> dict:
        learner, prediction = self.learning()
        return dict(dit=learner, loss=run("DiffusionLoss", dit=learner, prediction=prediction)[0])

    @property
    def training_set(self):
        return run("TrainingScenes", vae=self.vae, clip=self.clip, count=4, size=64)[0]

    @property
    def taught(self):
        """The model with an adapter, which Load Adapter finds in a file too."""
        adapter = random_adapter(self.dit)[0]
        save_adapter(adapter, current().models / "loras" / "a.safetensors")
        return apply_adapter(self.dit, adapter)


def class_model():
    return run("NewDiT", conditioning="class", width=32, depth=2, heads=2, latent_channels=4)[0]


@cache
def kit(batch: int) -> Kit:
    return Kit(batch)


def wires(*more: dict):
    """Cases of a node that takes tokens or hidden states: both kinds, then both with each of these besides."""
    return [lambda k, x=x, one=one: {"x": getattr(k, x), **{name: getattr(k, value) if value in vars(k) else value for name, value in one.items()}}
            for one in more for x in ("walked", "masked", "hidden", "prediction")]


CASES = {
    "SaveCheckpoint": [lambda k: dict(dit=k.dit)],
    "ClassLabel": [lambda k: dict(dit=class_model(), label="3")],
    "VAEEncode": [lambda k: dict(pixels=k.image, vae=k.vae)],
    "VAEDecode": [lambda k: dict(latent=k.latent, vae=k.vae)],
    "EmptyLatent": [lambda k: dict(dit=k.dit, batch_size=k.batch)],
    "Patchify": [lambda k: dict(latent=k.latent, dit=k.dit), lambda k: dict(latent=k.latent, patch_size=3, selection="0-2")],
    "PatchifyImage": [lambda k: dict(image=k.image)],
    "Unpatchify": [lambda k: dict(tokens=k.masked), lambda k: dict(tokens=k.walked)],
    "Schedule": [lambda k: dict(dit=k.dit)],
    "AddNoise": [lambda k: dict(dit=k.dit, tokens=k.clean, sigmas=k.sigmas), lambda k: dict(dit=k.dit, tokens=k.masked, sigmas=k.sigmas, step=1)],
    "DenoiseStep": [lambda k, tokens=tokens, solver=solver: dict(tokens=getattr(k, tokens), step=int(tokens == "walked"), solver=solver, **k.guided)
                    for tokens in ("tokens", "masked", "walked") for solver in ("euler", "heun", "dpmpp_2m")],
    "Denoise": [lambda k: dict(tokens=k.masked, quick_look=True, capture_blocks=True, **k.guided),
                lambda k: dict(tokens=k.walked, start_step=1, solver="dpmpp_2m", **k.guided)],
    "Budget": [lambda k: dict(dit=k.dit)],
    "Compare": [lambda k: dict(latent=k.latent, vae=k.vae, rows="2\n4 by resample", **k.guided)],
    "Condition": [lambda k, x=x: dict(x=getattr(k, x), **k.guided) for x in ("tokens", "masked", "patches")],
    "PatchEmbed": [lambda k: dict(dit=k.dit, x=k.tokens), lambda k: dict(dit=k.dit, x=run("Condition", x=k.tokens, **k.guided)[0])],
    "PositionEmbed": [lambda k, mode=mode: dict(dit=k.dit, hidden=k.embedded, mode=mode) for mode in ("model", "none", "shuffled", "1-D", "scaled")],
    "RunBlocks": [lambda k, more=more: dict(dit=k.dit, hidden=k.hidden, **more(k)) for more in (
        lambda k: {}, lambda k: dict(strength=0.5), lambda k: dict(blocks="2-0", graft=k.alone), lambda k: dict(attention="itself"),
        lambda k: dict(blocks="", graft=k.alone), lambda k: dict(blocks="0-2", graft=k.alone, graft_mask=k.mask, attention="itself"))],
    "FinalLayer": [lambda k: dict(dit=k.dit, hidden=k.after(k.hidden))],
    "Guidance": [lambda k: dict(prediction=k.prediction), lambda k: dict(prediction=k.branch, negative=k.branch),
                 lambda k: dict(prediction=k.at_step_1, negative=k.at_step_1)],
    "SamplerStep": [lambda k: dict(dit=k.dit, tokens=k.tokens, prediction=k.branch, sigmas=k.sigmas),
                    lambda k: dict(dit=k.dit, tokens=k.walked, prediction=k.at_step_1, sigmas=k.sigmas, step=1, solver="dpmpp_2m")],
    "TokenMask": wires(dict(width=2), dict(mask="mask")),
    "MixTokens": [lambda k: dict(a=k.tokens, b=k.walked, mask=k.mask), lambda k: dict(a=k.hidden, b=k.alone)],
    "SwapTokens": wires({}), "RollTokens": wires({}), "ShuffleTokens": wires({}, dict(mask="mask")),
    "ScaleTokens": wires(dict(factor=2.0), dict(factor=0.5, mask="mask")),
    "ReplaceTokens": [*wires(dict(fill="mean"), dict(fill="zeros", mask="mask"), dict(fill="one token")),
                      lambda k: dict(x=k.hidden, source=k.alone), lambda k: dict(x=k.walked, source=k.tokens, mask=k.mask)],
    "TokenMap": wires({}, dict(show="norm")),
    "PatchSchedule": [lambda k: dict(rows="4 with 2 on the mask", mask=k.mask), lambda k: dict(rows="4 of other until 50%, then 2", other=k.dit)],
    "PatchRegions": [lambda k: dict(where="mask", mask=k.mask)],
    "StepCache": [lambda k: dict(dit=k.dit)],
    "SteeringVector": [lambda k: dict(towards=k.hidden, away=k.hidden), lambda k: dict(towards=k.hidden, away=k.hidden, mask=k.mask, more=k.vector)],
    "Steer": [lambda k: dict(hidden=k.hidden, vector=k.vector), lambda k: dict(hidden=k.hidden, vector=k.vector, rows="positive", mask=k.mask)],
    "SteerSteps": [lambda k: dict(dit=k.dit, vector=k.vector), lambda k: dict(dit=k.dit, vector=k.vector, rows="positive", mask=k.mask)],
    "StagesSteps": [lambda k: dict(dit=k.dit, hidden=k.hidden)],
    "SaveSteeringVector": [lambda k: dict(vector=k.vector)],
    "Parity": [lambda k: dict(prediction=k.branch, cfg=1.0, **k.common), lambda k: dict(prediction=k.at_step_1, step=1, **k.guided)],
    "BlockAblation": [lambda k: dict(tokens=k.clean, cfg=2.0, levels=1, **k.guided), lambda k: dict(tokens=k.walked, levels=1, **k.common)],
    "AttentionMap": [lambda k: dict(dit=k.dit, hidden=k.hidden)],
    "AttentionSteps": [lambda k: dict(tokens=k.tokens, **k.guided)],
    "ConceptMap": [lambda k: dict(dit=k.dit, hidden=k.hidden, clip=k.clip)],
    "TokenJourney": [lambda k: dict(dit=k.dit, hidden=run("Condition", x=k.tokens, step=0, **k.guided)[0])],
    "PositionSimilarity": [lambda k: dict(dit=k.dit, x=k.tokens)],
    "PatchFilters": [lambda k: dict(dit=k.dit, before=k.dit)],
    "ResponseMaps": wires(dict(count=4)),
    "TokenPCA": wires({}),
    "TokenSimilarity": wires(dict(picture="image")),
    "Trajectory": [lambda k: dict(tokens=k.tokens, vae=k.vae, **k.guided)],
    "PipelineReport": [lambda k: dict(image=k.image, latent=k.latent, tokens=k.tokens, hidden=k.hidden, dit=k.dit)],
    "ContentAndPlace": [lambda k: dict(tokens=k.tokens, vae=k.vae, other=k.walked, **k.guided)],
    "NewDiT": [lambda k: dict(like=k.dit, clip=k.clip)],
    "TrainingSet": [lambda k: dict(images=[k.image], captions=["a red ring"] * k.batch, vae=[k.vae], clip=[k.clip], cache=[""])],
    "TrainingScenes": [lambda k: dict(vae=k.vae, clip=k.clip, count=2, size=64)],
    "Train": [lambda k: dict(dit=k.dit, training_set=k.training_set, name="a", steps=1, batch=1, positive=k.positive, vae=k.vae, sample_every=1)],
    "LoadAdapter": [lambda k: dict(dit=k.taught and k.dit, file="a.safetensors")],
    "SaveAdapter": [lambda k: dict(dit=k.taught)],
    "Trainable": [lambda k: dict(dit=k.dit)],
    "NoiseAtTime": [lambda k: dict(dit=k.dit, tokens=k.clean)],
    "DiffusionLoss": [lambda k: dict(zip(("dit", "prediction"), k.learning()))],
    "TrainStep": [lambda k: k.train_step()],
}


def tensors(value: object, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside a value, with where it is: through dicts, lists, modules and the library's own objects."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", one) for name, one in value.state_dict(keep_vars=True).items())
    else:
        inside = (value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else
                  vars(value).items() if type(value).__module__.startswith("dit_blocks.") and hasattr(value, "__dict__") else ())
        for name, one in inside:
            yield from tensors(one, f"{path}.{name}", seen)


def missing_case(name: str) -> list[str]:
    name = name.removeprefix("DiTBlocks")
    return [] if name in {*CASES, *NOTHING_WIRED, *NEED_COMFYUI} else ["has no case in CASES of tests/test_inputs_kept.py, nor a reason to have none"]


def test_cases_are_of_nodes_that_there_are_and_those_without_have_a_reason():
    without = NOTHING_WIRED | NEED_COMFYUI
    assert set(CASES) | without <= set(CLASSES) and not set(CASES) & without
    for name in NOTHING_WIRED:
        assert all(one.get_io_type() in WIDGETS for one in CLASSES[name].define_schema().inputs), name


@pytest.fixture(autouse=True)
def folders(tmp_path):
    pack.load()  # which tells the nodes where files go
    (tmp_path / "models" / "loras").mkdir(parents=True)
    with use(Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))):
        yield


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_inputs_are_left_as_they_were(name, batch):
    for case in CASES[name]:
        inputs = case(kit(batch))
        before = {path: (one, one._version, one.detach().clone()) for path, one in tensors(inputs)}
        assert before
        run(name, **inputs)
        after = dict(tensors(inputs))
        changed = [path for path, (one, version, value) in before.items()
                   if after.get(path) is not one or one._version != version or not torch.equal(one, value)]
        assert not changed and after.keys() == before.keys(), changed or after.keys() ^ before.keys()



"""A transformer of this library as a DIT handle."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from ..errors import BackboneError, StagesError
from ..model.blocks import COMPUTED
from ..model.conditioning import Arguments, Conditioning, batches, join, label_conditioning
from ..model.copies import compute_device
from ..model.dit import DiT
from ..model.mmdit import MMDiT
from ..model.stages import Call, Stages, TokenStages
from ..sampling.at import NoiseSpace, PredictX0
from ..sampling.flow import Flow, RectifiedFlow
from ..sampling.guidance import guided, is_guided
from ..sampling.regions import Part, Prompt, average, has_area, parts_at, place, prompt, slices, together, with_opposites
from ..sampling.schedules import schedule
from ..sampling.solvers import check_solver
from ..sampling.walk import Inpainting, Report, check_step, last_step, rises, walk, with_noise
from ..tokens.other_sizes import Reading
from ..tokens.patch import token_grid
from ..tokens.places import moved
from ..tokens.wire import LatentFormat, to_latent, to_tokens, unfold
from ..tokens.wire_types import AnyWire, DitHidden, DitTokens, ModelCall
from .block_plan import BlockPlan, runs
from .class_names import find_class
from .dit_handle import DitHandle
from .stage_plan import StagePlan, check_alone
from .steering_plan import Steering, Turn, check_areas, holding
from .step_cache import IN_STAGES, CacheRun, StepCache, cached_run, mark_of


def _towards(sides: list[Tensor], cfg: float) -> Tensor:
    """x0 of the positive side, and of the negative where there is one → guided x0."""
    cond, *uncond = sides
    return guided(cond, uncond[0], cfg) if uncond and is_guided(cfg) else cond


def _layout(parts: list[Part]) -> tuple[str, ...]:
    return tuple("uncond" if part.side else "cond" for part in parts)


@dataclass(eq=False)
class Backbone(DitHandle):
    """A transformer of this library.

    downscale: pixels to a latent cell. picture_size: the side, in pixels, that the model was trained for.
    latent_rgb: linear map from VAE latents to RGB 0..1, for previews: [C + 1, 3], the last row added.
    class_names: of a class-conditional model, by number; synonyms are parted by commas.
    device: where the model computes; None is where its weights are, which may differ where a host keeps some of them elsewhere.
    facts: of its training, for people to read. cache: of blocks, over the steps of a run; run: the run under way, on a copy of the handle.
    plan: which blocks run in `denoise`, None is all. turns: by steering vectors in `denoise`; steering: those of the model call under way, on a
    copy of the handle.

    The model is called as model(tokens, grid, patch_size, t, **arguments): `model.conditions` says which those are.
    """
    model: nn.Module
    latent_format: LatentFormat
    flow: Flow = field(default_factory=RectifiedFlow)
    name: str = "DiT"
    downscale: int = 8
    picture_size: int = 256
    latent_rgb: Tensor | None = None
    class_names: Mapping[int, str] = field(default_factory=dict)
    device: torch.device | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    cache: StepCache | None = None
    run: CacheRun | None = None
    plan: BlockPlan | None = None
    turns: tuple[Turn | StagePlan, ...] = ()
    steering: Steering | None = None

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        return self.model.config.patch_sizes

    @property
    def unconditional(self) -> Conditioning | None:
        return self.model.conditions.unconditional

    @property
    def answers(self) -> str:
        return self.flow.prediction

    @property
    def reads(self) -> str:
        return str(self.model.conditions)

    @property
    def caches(self) -> bool:
        return self.cache is not None

    def modules(self) -> list[nn.Module]:
        return [self.model]

    @property
    def stages(self) -> Stages:
        return self.own_stages

    @property
    def own_stages(self) -> TokenStages:
        """The stages at the model's own patch sizes. Raises StagesError."""
        if not isinstance(self.model, (MMDiT, DiT)):
            raise StagesError(f"{self.name} runs whole, by diffusers: for its stages load it as a MODEL and use DiT from MODEL")
        return TokenStages(self.model, self.name)

    def with_cache(self, cache: StepCache) -> "Backbone":
        if len(self.own_stages.kinds) < 2:
            raise StagesError(f"{self.name} has one block, and the first always runs: there is nothing to leave out")
        return replace(self, cache=cache if cache.threshold else None)

    def with_plan(self, plan: BlockPlan) -> "Backbone":
        plan.steps(len(self.own_stages.kinds))
        return replace(self, plan=plan)

    def with_turn(self, turn: Turn | StagePlan) -> "Backbone":
        turn.check(self.own_stages, self.name)
        return self if turn.does_nothing else replace(self, turns=(*self.turns, turn))

    def __post_init__(self):
        check_alone(self.turns, "Step Cache" if self.cache else "a plan of blocks" if self.plan else "")

    @property
    def remark(self) -> str:
        return IN_STAGES if self.cache else ""

    def schedule(self, steps: int, scheduler: str = "simple", denoise: float = 1.0, skip_penultimate: bool = False) -> Tensor:
        return schedule(self.flow, steps, scheduler, denoise, skip_penultimate)

    def add_noise(self, wire: DitTokens, sigmas: Tensor, step: int, seed: int) -> tuple[DitTokens, DitTokens]:
        check_step(step, sigmas)
        noisy, noise = with_noise(wire, seed, lambda clean, noise: self.flow.begin(clean, noise, sigmas[step].to(noise)))
        noisy["start"]["sigma"] = sigmas[step].float().cpu()
        return self.standing(noisy, sigmas[step], walked=False), noise

    def denoise(self, wire: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[DitTokens, DitTokens]:
        end_step = last_step(start_step, end_step, sigmas)
        check_solver(solver, isinstance(self.flow, RectifiedFlow))
        device, wire = self.compute_device, self.entered(wire, sigmas, start_step)
        handle, kept = self._in_a_run(wire, sigmas), Inpainting(wire, self.flow, device, anew=solver == "ddim")
        model = handle.denoiser(wire, positive, negative, cfg)

        def predict_x0(x: Tensor, sigma: Tensor) -> Tensor:
            return kept.leave(model(kept.enter(x, sigma), sigma))
        tokens, x0 = walk(predict_x0, wire, sigmas, solver, start_step, end_step, device, report, self.space)
        tokens = self.standing(tokens, sigmas[end_step])
        return handle.run.handed_on(tokens) if handle.run else tokens, x0

    def _in_a_run(self, wire: DitTokens, sigmas: Tensor) -> "Backbone":
        """Itself, or where it has a cache a copy with the cache of the run that the wire stands in."""
        if self.cache is None:
            return self
        return replace(self, run=cached_run(self.cache, self.flow.sigma_at, rises(sigmas), wire))

    def check_space(self, wire: dict) -> None:
        super().check_space(wire)
        if len(wire["size"]) != 2:
            raise BackboneError(f"{self.name} draws pictures, the tokens are of a latent with {wire['size'][0]} frames")

    @property
    def space(self) -> NoiseSpace:
        return NoiseSpace(isinstance(self.flow, RectifiedFlow), self.flow.sigma_at(1e-4))

    def share_of_data(self, sigma: Tensor) -> Tensor:
        return 1 - sigma.float() if isinstance(self.flow, RectifiedFlow) else torch.ones_like(sigma)

    def class_conditioning(self, label: str) -> Conditioning:
        if self.unconditional is None:
            return super().class_conditioning(label)
        if not label.strip():
            return self.unconditional
        return label_conditioning(find_class(label, self.model.conditions.classes, self.class_names, self.name))

    @property
    def compute_device(self) -> torch.device:
        return self.device or compute_device(self.model)

    def room(self, wire: AnyWire) -> tuple[float, float]:
        """As much as the widest layer of a block, an MLP of 4·D values a token in float32, and what stands beside it, for [uncond, cond]."""
        width = getattr(self.model.config, "width", 0)
        rows, count, _ = (wire["tokens"]["tokens"] if "hidden" in wire else wire["tokens"]).shape
        one = 16.0 * rows * count * width * 4
        return 2 * one, one

    def like(self) -> Tensor:
        """An empty tensor of the type and place that the model computes in: the type of most of its weights, where that can be."""
        sizes, place = Counter(), self.compute_device
        for weight in self.model.parameters():
            sizes[weight.dtype] += weight.numel()
        stored = max(sizes, key=sizes.get)
        computed = stored if stored in COMPUTED else torch.float32 if place.type == "cpu" else torch.bfloat16
        return torch.empty(0, dtype=computed, device=place)

    def settle(self) -> "Backbone":
        """Bring weights that no layer casts, such as tables, to the type that the model computes in."""
        dtype = self.like().dtype
        for module in self.model.modules():
            if isinstance(module, nn.Embedding) or not hasattr(module, "comfy_cast_weights"):
                for name, value in module.named_parameters(recurse=False):
                    if value.dtype != dtype:
                        setattr(module, name, nn.Parameter(value.to(dtype), requires_grad=False))
        return self

    def picture(self, wire: DitTokens, tokens: Tensor) -> Tensor:
        if self.latent_rgb is None:
            return super().picture(wire, tokens)
        latent = unfold({**wire, "tokens": tokens[:1].float().cpu()})[0].movedim(0, -1)
        return (latent @ self.latent_rgb[:-1] + self.latent_rgb[-1]).clamp(0, 1)

    def denoiser(self, wire: DitTokens, positive: Conditioning, negative: Conditioning | None = None, cfg: float = 1.0) -> PredictX0:
        """→ predict_x0(x tokens [B, N, C·p·p], sigma []) with classifier-free guidance u + (c − u)·cfg, for these tokens' grid.

        As KSampler computes it: [uncond, cond] in one call where their shapes allow (Ho & Salimans 2022, equation 6), areas and masks
        weighted, what pads the latent to whole patches wrapped anew. Raises BackboneError.
        """
        sides = self._sides(wire, positive, self.away_from(negative, cfg) if is_guided(cfg) else negative, is_guided(cfg))

        check_areas(self.turns, any(one.area is not None for side in sides for one in side))

        def predict_x0(x: Tensor, sigma: Tensor) -> Tensor:
            if self.run:
                self.run.at(sigma.item())
            turns = holding(self.turns, self.flow.sigma_at, sigma.item()) if self.turns else ()

            def ask(latents: Tensor, arguments: Arguments, call: list[Part]) -> Tensor:
                cut = {"size": latents.shape[-2:], "grid": token_grid(*latents.shape[-2:], wire["patch_size"]), "patch_size": wire["patch_size"]}
                handle = replace(self, steering=Steering(turns, _layout(call), cut, self.name, sigma.item())) if turns else self
                tokens = handle._x0(to_tokens(latents, wire), cut["grid"], cut["patch_size"], sigma, arguments)
                return to_latent(tokens, {**wire, "size": cut["size"]})
            return to_tokens(_towards(average(ask, to_latent(x, wire), sigma, sides), cfg), wire)
        return predict_x0

    def begin(self, wire: DitTokens, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None = None) -> DitHidden:
        check_step(step, sigmas)
        self.check_stages()
        wire = self.entered(wire, sigmas, step)
        stages, device, home = self.stages, self.compute_device, wire["tokens"].device
        sides = self._sides(wire, positive, negative, negative is not None)
        x, sigma = wire["tokens"].to(device), sigmas[step].float().to(device)
        kept = Inpainting(wire, self.flow, device)
        latent, size = to_latent(kept.enter(x, sigma), wire), tuple(wire["size"])
        calls = together(parts_at(sides, sigma, latent), size)
        if not calls:
            raise StagesError(f"every conditioning is outside its range of steps at step {step}, so that the model is not asked; use DiT Denoise Step")
        parts = [part for call in calls for part in call]

        def start(call: list[Part]) -> ModelCall:
            cuts = [place(latent, part.prompt.area) for part in call]
            grid = token_grid(*cuts[0].shape[-2:], wire["patch_size"])
            inputs, times = self._inputs(to_tokens(torch.cat(cuts), wire), sigma)
            hidden = stages.condition(inputs, grid, wire["patch_size"], times, **join([part.prompt.arguments for part in call]))
            cut: DitTokens = {**wire, "tokens": to_tokens(cuts[0], wire), "grid": grid, "size": cuts[0].shape[-2:]}
            return {"hidden": hidden, "tokens": wire if call[0].prompt.area is None else cut}

        kept_at_home = moved((latent, x, sigma, sides, calls), home)  # the wire, which holds this, lies there too

        def to_x0(prediction: Tensor, cfg: float) -> Tensor:
            latent, x, sigma, sides, calls = moved(kept_at_home, device)
            kept = Inpainting(wire, self.flow, device)
            given = iter(zip(calls, to_latent(prediction.to(latent), wire).split([len(call) * len(x) for call in calls])))

            def answer(latents: Tensor, *_) -> Tensor:
                call, answers = next(given)
                cuts = [place(one, part.prompt.area) for one, part in zip(answers.chunk(len(call)), call)]
                return self._to_x0(torch.cat(cuts), latents, sigma)
            return kept.leave(to_tokens(_towards(average(answer, latent, sigma, sides), cfg), wire))
        areas = tuple(None if part.prompt.area is None else slices(part.prompt.area, size) for part in parts)
        call = Call(_layout(parts), x, sigma, to_x0, wire, None, areas)
        first, *others = map(start, calls)
        return {"hidden": first["hidden"], "tokens": first["tokens"], "others": tuple(others), "done": frozenset(), "call": call,
                "model": self.name, "trace": ()}

    def approximate(self, reading: Reading) -> "Backbone":
        return Approximate(**{part.name: getattr(self, part.name) for part in fields(Backbone)}, reading=reading)

    @property
    def mixes(self) -> bool:
        return bool(self.facts.get("mixes"))

    def _sides(self, wire: DitTokens, positive: Conditioning, negative: Conditioning | None, both: bool) -> list[list[Prompt]]:
        """The prompts of positive, and of negative if `both` are asked for, for these tokens. Raises BackboneError."""
        self.check_tokens(wire)

        def read(what: str, conditioning: Conditioning) -> list[Prompt]:
            arguments = batches(self.model.conditions, conditioning, what, self.name, len(wire["tokens"]), self.like())
            return [prompt(values, extras, wire["size"], self.flow, what, self.name, wire["patch_size"])
                    for values, (_, extras) in zip(arguments, conditioning)]
        sides = [read("positive conditioning", positive)]
        if negative is not None and (both or any(has_area(extras) for _, extras in negative)):
            sides = list(with_opposites(sides[0], read("negative conditioning", negative)))
        return sides if both else sides[:1]

    def _inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C·p·p] at a noise level [] → what the model reads of them, and their times [B]."""
        sigmas = sigma.to(x).expand(len(x))
        return self.flow.model_input(x, sigmas).to(self.like()), self.flow.time(sigmas)

    def _to_x0(self, prediction: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return self.flow.to_x0(prediction, x, sigma.to(x).expand(len(x)))

    def _x0(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, sigma: Tensor, arguments: Arguments) -> Tensor:
        """The model's x0 of tokens [B, N, C·p·p] of any grid."""
        inputs, times = self._inputs(tokens, sigma)
        return self._to_x0(self._answer(inputs, grid, patch_size, times, arguments).to(tokens), tokens, sigma)

    def _answer(self, inputs: Tensor, grid: tuple[int, int], patch_size: int, times: Tensor, arguments: Arguments) -> Tensor:
        """The model's prediction, by the plan of its blocks, the turns of the call and the cache of the run where there are such."""
        cached = self.run is not None and self.run.takes_part()
        if self.plan is None and self.steering is None and not cached:
            return self.model(inputs, grid, patch_size, times, **arguments)
        stages = self.own_stages
        every = range(len(stages.kinds))
        parts = [(every, 1.0)] if self.plan is None else runs(self.plan.steps(len(every)))
        if self.steering is not None:
            stages = self.steering.over(stages)
        hidden = stages.position_embed(stages.patch_embed(stages.condition(inputs, grid, patch_size, times, **arguments)))
        if cached and parts:
            return stages.head(self.run.run_blocks(stages, hidden, (mark_of(arguments), grid, patch_size, self.steering and self.steering.key), parts))
        for blocks, strength in parts:
            hidden = stages.run_blocks(hidden, blocks, strength)
        return stages.head(hidden)


@dataclass(eq=False, kw_only=True)
class Approximate(Backbone):
    """A backbone that reads patches of a size it was not trained at, through those that it was. See `patch_methods`."""
    reading: Reading

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        return (*super().patch_sizes, self.reading.patch_size)

    @property
    def stages(self) -> Stages:
        raise StagesError(f"{self.name} reads patches of {self.reading.patch_size} by {self.reading.method}, which has no stages of its own")

    def _x0(self, tokens: Tensor, grid: tuple[int, int], patch_size: int, sigma: Tensor, arguments: Arguments) -> Tensor:
        coarse, level = self.flow.quieter(self.reading.down(tokens), sigma, self.reading.gain)
        return self.reading.up(super()._x0(coarse, grid, self.reading.own, level, arguments), grid)

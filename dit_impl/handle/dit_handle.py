"""A DIT handle: a model together with what its latents, times and patches mean. The nodes ask nothing else of it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..errors import BackboneError, StagesError
from ..model.conditioning import Conditioning
from ..model.stages import Stages
from ..sampling.at import NoiseSpace
from ..sampling.guidance import is_guided
from ..sampling.level import check_level, entered, standing
from ..sampling.solvers import ONE_CALL, check_solver
from ..sampling.walk import Report, check_step, walk
from ..tokens.other_sizes import Reading, choose_method
from ..tokens.wire import CARRIED, LatentFormat, fold, grey_picture, in_a_row, same_format
from ..tokens.wire_types import AnyWire, DitHidden, DitTokens
from .block_plan import BlockPlan
from .stage_plan import StagePlan
from .steering_plan import Turn
from .step_cache import StepCache


class DitHandle:
    """What flows on a DIT wire, whatever holds the weights.

    name: for messages. patch_sizes: those the model can read, its own first. frame_patch: frames to a patch, for videos.
    """
    name: str
    latent_format: LatentFormat
    patch_sizes: tuple[int, ...]
    frame_patch: int = 1
    frame_downscale: int = 1  # pictures to a frame of the latent, after the first
    mixes = False  # whether it was trained on patches of several sizes in one sequence
    remark = ""  # what a user of its stages should know
    answers = ""  # what the numbers that its head gives mean
    turns: tuple[Turn | StagePlan, ...] = ()  # by steering vectors or by wired stages, in every step of `denoise`
    learns = False  # whether what is computed with it is recorded, for Train Step
    unconditional: Conditioning | None = None  # what guidance goes away from where no negative is given
    caches = False  # whether it leaves out blocks over the steps of a run
    downscale = 8  # pixels to a latent cell

    @property
    def patch_size(self) -> int:
        return self.patch_sizes[0]

    @property
    def channels(self) -> int:
        return len(self.latent_format["scale"])

    def latent_frames(self, pictures: int) -> int:
        """How many frames a latent of so many pictures has. Raises BackboneError."""
        if pictures != 1:
            raise BackboneError(f"{self.name} draws single pictures, not films: frames is 1, not {pictures}")
        return 1

    def pictures_of(self, frames: int) -> int:
        """How many pictures a latent of so many frames holds."""
        return (frames - 1) * self.frame_downscale + 1

    def counted(self, frames: int = 1, positive: Conditioning | None = None, text: int | None = None):
        """What `cost.arithmetic.architecture` answers, where its layers are not known by formulas. Raises BackboneError."""
        try:
            return self.stages.architecture(self.name, self.channels, self.downscale).with_frames(frames)
        except StagesError as error:
            raise BackboneError(f"the shape of {self.name} is not known: {error}") from None

    def modules(self) -> list[nn.Module]:
        """What must be on the device that computes before `denoise`."""
        return []

    @property
    def compute_device(self) -> torch.device:
        """Where the model computes. Its weights may lie elsewhere, and come as they are needed."""
        raise NotImplementedError

    def room(self, wire: AnyWire) -> tuple[float, float]:
        """Bytes that a model call over these tokens wants beside the weights, and those that it can't do without."""
        return 0.0, 0.0

    def running(self) -> AbstractContextManager:
        """While it lasts, stages are computed."""
        return nullcontext()

    def fold(self, latent: dict, patch_size: int = 0) -> DitTokens:
        """LATENT → DIT_TOKENS in this model's space; patch_size 0 is the model's own. Raises TokensError."""
        carried = {name: latent[name] for name in CARRIED if name in latent}
        return fold(latent["samples"], patch_size or self.patch_size, self.latent_format, self.frame_patch, **carried)

    @property
    def space(self) -> NoiseSpace:
        """What solvers have to know of this model's noise."""
        raise NotImplementedError

    @property
    def reads(self) -> str:
        """Which prompts it reads, in words: equal for models that read the same."""
        raise NotImplementedError

    def share_of_data(self, sigma: Tensor) -> Tensor:
        """The factor on the data in what the model sees at a noise level: [] → []."""
        raise NotImplementedError

    def entered(self, wire: DitTokens, sigmas: Tensor, step: int) -> DitTokens:
        """Tokens of a latent as KSampler (Advanced) takes them at a step; tokens that stand on a schedule as they are. Raises ScheduleError."""
        check_level(wire, sigmas, step)
        return entered(wire, sigmas[step], self.share_of_data(sigmas[step]))

    def standing(self, wire: DitTokens, sigma: Tensor, walked: bool = True) -> DitTokens:
        """The wire with where its tokens stand."""
        return standing(wire, sigma, self.share_of_data(sigma), walked)

    def class_conditioning(self, label: str) -> Conditioning:
        """A class by its number or name, or no class for an empty label. Raises BackboneError."""
        raise BackboneError(f"{self.name} reads text, not a class label: use CLIP Text Encode")

    def away_from(self, negative: Conditioning | None, cfg: float) -> Conditioning | None:
        """What guidance goes away from: the negative, or the model's own no-class; None for cfg 1. Raises BackboneError where it lacks."""
        if not is_guided(cfg):
            return None
        if negative is None and self.unconditional is None:
            raise BackboneError(f"cfg {cfg:g} needs a negative: wire one, or set cfg to 1")
        return self.unconditional if negative is None else negative

    def check_space(self, wire: DitTokens) -> None:
        """Raise BackboneError unless these tokens, of whatever patch size, are cut from this model's latents."""
        if wire["channels"] != self.channels:
            raise BackboneError(f"{self.name} has latents of {self.channels} channels, the tokens come from {wire['channels']}")
        if not same_format(wire["latent_format"], self.latent_format):
            raise BackboneError(f"the tokens are not in the latent space of {self.name}: wire its dit into Patchify")

    def check_tokens(self, wire: DitTokens) -> None:
        """Raise BackboneError unless this model can read these tokens."""
        self.check_space(wire)
        if wire["patch_size"] not in self.patch_sizes and not in_a_row(wire):
            sizes = ", ".join(map(str, self.patch_sizes))
            raise BackboneError(f"{self.name} knows patch sizes {sizes}, the tokens have patch_size {wire['patch_size']}")
        if not torch.isfinite(wire["tokens"]).all():
            raise BackboneError("the tokens hold values that are NaN or infinite")

    def reading(self, patch_size: int, method: str = "auto") -> "DitHandle":
        """A handle on the same weights that reads patches of this size by this method, itself where they are native. Raises BackboneError."""
        chosen = choose_method(self.patch_sizes, patch_size, method, self.name)
        return self if chosen == "native" else self.approximate(Reading(chosen, self.patch_size, patch_size, self.frame_patch))

    def with_cache(self, cache: StepCache) -> "DitHandle":
        """A handle on the same weights that leaves out blocks whose answer hardly changes from step to step. Raises StagesError."""
        raise NotImplementedError

    def with_plan(self, plan: BlockPlan) -> "DitHandle":
        """A handle on the same weights that runs the blocks of a plan in every step. Raises StagesError."""
        raise NotImplementedError

    def with_turn(self, turn: Turn | StagePlan) -> "DitHandle":
        """A handle on the same weights that adds a steering vector, or runs wired stages, in every step. Raises StagesError, TokensError."""
        raise NotImplementedError

    def approximate(self, reading: Reading) -> "DitHandle":
        """A handle on the same weights that reads patches of a size that is not native to it."""
        raise NotImplementedError

    def schedule(self, steps: int, scheduler: str = "simple", denoise: float = 1.0, skip_penultimate: bool = False) -> Tensor:
        """Falling noise levels: → [steps + 1], see `sampling.schedules`. Raises ValueError."""
        raise NotImplementedError

    def add_noise(self, wire: DitTokens, sigmas: Tensor, step: int, seed: int) -> tuple[DitTokens, DitTokens]:
        """Bring clean tokens to the noise level of a step: → (noisy tokens, the noise) on the wire. Raises ScheduleError."""
        raise NotImplementedError

    def denoise(self, wire: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None = None,
                cfg: float = 1.0, solver: str = "euler", start_step: int = 0, end_step: int | None = None,
                report: Report = lambda *_: None) -> tuple[DitTokens, DitTokens]:
        """Steps start_step … end_step − 1: → (tokens at sigmas[end_step], the last x0) on the wire.

        A chain of shorter calls equals one long call bit for bit. Raises ScheduleError, BackboneError, ValueError.
        """
        raise NotImplementedError

    @property
    def stages(self) -> Stages:
        """The transformer in stages. Raises StagesError where it can only be run whole."""
        raise NotImplementedError

    def check_stages(self) -> None:
        """Raise StagesError where stages would leave out what `denoise` does."""
        if any(isinstance(turn, StagePlan) for turn in self.turns):
            raise StagesError(f"{self.name} runs the stages that were wired for one step in every step (Stages Every Step or Stages (MODEL)), which "
                              "other stages would leave out: wire the dit from before that node")
        if self.turns:
            raise StagesError(f"{self.name} is steered in every step, which stages would leave out: put Steer between them in the place of Steer "
                              "Every Step or Steer (MODEL), or use DiT Denoise")

    def begin(self, wire: DitTokens, sigmas: Tensor, step: int, positive: Conditioning, negative: Conditioning | None = None) -> DitHidden:
        """Begin a step by stages: tokens at the step's noise level → DIT_HIDDEN with no stage done. Raises ScheduleError, BackboneError."""
        raise NotImplementedError

    def advance(self, wire: DitTokens, x0: Tensor, sigmas: Tensor, step: int, solver: str) -> tuple[DitTokens, DitTokens]:
        """End a step: the solver's move from its tokens, given x0 [B, N, C·p·p]: → (tokens, x0) on the wire. Raises ValueError."""
        check_step(step, sigmas)
        if solver == "ddim" and wire.get("noise_mask") is not None:
            raise StagesError("ddim holds what lies outside a noise mask to other noise than the stages began with; use DiT Denoise Step")
        check_solver(solver)
        if solver not in ONE_CALL:
            raise ValueError(f"{solver} asks the model for more than the step's prediction; use DiT Denoise Step, or another solver")
        tokens, x0 = walk(lambda *_: x0, self.entered(wire, sigmas, step), sigmas, solver, step, step + 1, x0.device, space=self.space)
        return self.standing(tokens, sigmas[step + 1]), x0

    def picture(self, wire: DitTokens, tokens: Tensor) -> Tensor:
        """A rough picture of the first in a batch of clean tokens, a pixel for each latent cell: [B, N, C·p·p] → [H, W, 3] in 0..1."""
        return grey_picture(wire, tokens)

    def preview(self, wire: DitTokens, x0: Tensor) -> Tensor | None:
        """What is shown while steps go on: [B, N, C·p·p] → [H, W, 3] in 0..1, or None where the user wants none."""
        return self.picture(wire, x0)

"""One training step as wires: noise at a random time → the model's stages → loss → a step of AdamW.

A `Learner` is a handle whose parameters record gradients: the stage nodes keep the graph of operations on the wire, and Train Step goes
back through it. Nothing is changed in place: every Train Step returns a new Learner.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..drawing.charts import enlarged
from ..errors import TrainingError
from ..handle.backbone import Backbone, DitHandle
from ..sampling.flow import DDPM
from ..tokens.wire import noise_like, to_latent, with_tokens
from ..tokens.wire_types import DitTokens
from .losses import draw_sigmas, squared_error
from .objectives import in_scope, only, training_copy
from .optimizers import optimizers_of


@dataclass(eq=False, kw_only=True)
class Learner(Backbone):
    """A Backbone that learns. scope: which parameters learn. moments: AdamW's state between steps, by parameter."""
    scope: str = "everything"
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    learns = True

    def modules(self) -> list:
        """None: a host would put weights without gradients in the place of those that learn. They were made where the model computes."""
        return []

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        return in_scope(self.model, self.scope)


def learner(dit: DitHandle, scope: str = "everything") -> Learner:
    """A copy of a handle whose parameters in `scope` learn. Raises TrainingError."""
    copied = training_copy(dit)
    learning = Learner(**{name: getattr(copied, name) for name in Backbone.__dataclass_fields__}, scope=scope)
    only(learning.model, learning.trained)
    return learning


def noise_at(dit: Backbone, wire: DitTokens, seed: int, time: float = -1.0, times: str = "logit_normal") -> tuple[DitTokens, DitTokens, Tensor]:
    """Add noise to clean tokens at one time: → noisy tokens, the noise, sigmas [2] from that noise level to 0. Raises TrainingError.

    time: 0 to 1, or −1 to draw it with the seed. All pictures of the batch share it. A rectified flow's time is σ itself, x = (1 − σ)·x0 +
    σ·ε; a DDPM's is t over its number of times, z_t = √ᾱ_t·z0 + √(1−ᾱ_t)·ε.
    """
    if not isinstance(dit, Backbone):
        raise TrainingError(f"{dit.name} is a MODEL: training steps work only for the pack's own models")
    if not -1 <= time <= 1 or -1 < time < 0:
        raise TrainingError(f"time is 0 to 1, or -1 for a random one, not {time}")
    generator = torch.Generator().manual_seed(seed)
    if time == -1:
        sigma = draw_sigmas(dit.flow, 1, generator, times)
    elif isinstance(dit.flow, DDPM):
        sigma = dit.flow.sigmas[[min(round(time * dit.flow.steps), dit.flow.steps - 1)]].float()
    else:
        sigma = torch.tensor([time])
    sigma = sigma.clamp_min(1e-4)  # sigmas must fall, and the second one is 0
    clean, noise = wire["tokens"], noise_like(wire, seed).to(wire["tokens"])
    noisy = with_tokens(wire, dit.flow.add_noise(clean, noise, sigma[0]))
    noisy = dit.standing({**noisy, "start": {"clean": clean, "noise": noise, "seed": seed}}, sigma[0], walked=False)
    return noisy, with_tokens(wire, noise), torch.cat([sigma, torch.zeros(1)])


def diffusion_loss(dit: Backbone, prediction: DitTokens, target: str = "own", weighting: str = "none") -> tuple[dict, Tensor]:
    """The squared error of a prediction: DIT_TOKENS from Final Layer → DIT_LOSS {"loss": [], "dit"}, and a picture [B, H, W, 3] in 0..1.

    The picture shows the error of each token, white where it is largest. target, weighting: see `losses.squared_error`. Raises
    TrainingError.
    """
    if "call" not in prediction or prediction.get("guided"):
        raise TrainingError("prediction is not from Final Layer: guided predictions and plain tokens have no loss")
    call, start = prediction["call"], prediction.get("start")
    if start is None:
        raise TrainingError("the tokens do not hold their clean values: make them with Add Noise at Time or Add Noise")
    if len(call.layout) > 1:
        raise TrainingError(f"the loss takes one conditioning, but DiT Condition has {len(call.layout)}: leave its negative out")
    like = prediction["tokens"].float()
    sigma = call.sigma.to(like).expand(len(call.x))
    clean, noise = (start[name].to(like) for name in ("clean", "noise"))
    errors = squared_error(dit.flow, prediction["tokens"], clean, noise, sigma, target, weighting)
    of_token = errors.detach().mean(-1, keepdim=True)
    shares = (of_token / of_token.amax().clamp_min(1e-12)).expand(errors.shape)
    pictures = [flat_picture(prediction, share[None]) for share in shares]
    return {"loss": errors.mean(), "dit": dit}, torch.stack(pictures)


def flat_picture(wire: DitTokens, shares: Tensor) -> Tensor:
    """Values 0..1 of every token as grey, enlarged to at least 256 pixels: [1, N, C·p·p] → [H, W, 3]."""
    cells = to_latent(shares.cpu(), wire).flatten(1, -3)[0].mean(0)
    return enlarged(cells[..., None].expand(-1, -1, 3), 256)


def train_step(dit: Learner, loss: dict, learning_rate: float, weight_decay: float = 0.01, clip: float = 1.0) -> tuple[Learner, float]:
    """Compute gradients back through the wires and take one step of AdamW (Loshchilov & Hutter 2017): → the new model, the gradient's norm.

    clip: the largest norm; longer gradients are scaled down to it. Raises TrainingError.
    """
    if not dit.learns:
        raise TrainingError(f"{dit.name} can't learn yet: put Trainable DiT after its loader")
    if loss["dit"] is not dit:
        raise TrainingError("the loss comes from another dit: wire the same Trainable DiT into Diffusion Loss and Train Step")
    with torch.inference_mode(False), torch.enable_grad():
        gradients = gradients_of(dit, loss["loss"])
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients.values()])).item()
        if not torch.isfinite(torch.tensor(norm)):
            raise TrainingError(f"the gradient's norm is {norm}: the model was not changed")
        taught = replace(dit, model=training_copy(dit).model)
        only(taught.model, taught.trained)
        (optimizer,) = optimizers_of(taught.trained, learning_rate, weight_decay, "adamw")
        for name, parameter in taught.trained.items():
            parameter.grad = gradients[name] * min(1.0, clip / (norm + 1e-6))
            if name in dit.moments:
                optimizer.state[parameter] = {key: value.clone() for key, value in dit.moments[name].items()}
        optimizer.step()
        for parameter in taught.trained.values():
            parameter.grad = None
        taught.moments = {name: optimizer.state[parameter] for name, parameter in taught.trained.items()}
    return taught, norm


def gradients_of(dit: Learner, loss: Tensor) -> dict[str, Tensor]:
    """The loss's gradient for every parameter that learns. The graph is kept, because ComfyUI caches wires. Raises TrainingError."""
    trained = dit.trained
    try:
        gradients = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise TrainingError("no gradient leads from the loss back to the model's parameters: "
                            f"{' '.join(str(error).split())[:120]}") from None
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(trained.items(), gradients)}

"""How far two pictures are apart in the features of a VAE's own encoder. It is built as LPIPS is, over features that were not fitted to people's
judgements: it is not LPIPS, and its numbers compare only within one VAE. Zhang et al. 2018, 1801.03924, §3.
"""

import torch
from torch import Tensor, nn
import torch.nn.functional as F

SIDE = 256  # pixels of the longer side that pictures are brought to
HOLDERS = ("first_stage_model", "vae", "model")  # where the objects on a VAE wire hold their network
SMALL = 1e-10


def network_of(vae: object) -> nn.Module | None:
    """The network behind a VAE, where it shows one."""
    found = [vae, *(getattr(vae, name, None) for name in HOLDERS)]
    return next((one for one in found if isinstance(one, nn.Module)), None)


def features(vae, image: Tensor) -> list[Tensor]:
    """What the last convolution of each resolution of the encoder gives, and the latent: [1, H, W, 3] in 0..1 → tensors [C, …]."""
    scale = SIDE / max(image.shape[1:3])
    if scale < 1:
        size = [max(8, round(length * scale / 8) * 8) for length in image.shape[1:3]]
        image = F.interpolate(image.movedim(-1, 1), size=size, mode="area").movedim(1, -1)
    seen: dict[tuple[int, ...], Tensor] = {}

    def look(_, __, answer) -> None:
        if torch.is_tensor(answer) and answer.dim() > 3:
            seen[tuple(answer.shape[2:])] = answer[0].detach().float().cpu()
    network = network_of(vae)
    layers = [layer for path, layer in (network.named_modules() if network is not None else ())
              if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and "decoder" not in path]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        latent = vae.encode(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [*seen.values(), latent[0].detach().float().cpu()]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """The mean over features of the squared difference of their unit vectors, as LPIPS has it without weights; 0 for the same picture."""
    def unit(feature: Tensor) -> Tensor:
        return feature / (feature.square().sum(0, keepdim=True) + SMALL).sqrt()
    parts = [(unit(a) - unit(b)).square().sum(0).mean() for a, b in zip(one, other, strict=True)]
    return torch.stack(parts).mean().item()


def distances(vae, images: list[Tensor], reference: Tensor) -> list[float | None]:
    """How far each picture is from the reference, the first of each batch [B, H, W, 3]; None where the VAE can't encode."""
    def first(image: Tensor) -> Tensor:
        return image[:1, ..., :3].float()
    try:
        own = features(vae, first(reference))
        return [distance(features(vae, first(image)), own) for image in images]
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
        return [None] * len(images)

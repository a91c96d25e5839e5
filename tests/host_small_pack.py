"""A pack of loaders for host tests: the small random models of host_models.py in the places of files that nobody can download here."""

from pathlib import Path
import sys


sys.path.insert(0, str(Path(__file__).resolve().parent))
import host_models  # noqa: E402


class SmallCLIP:
    def __init__(self, conditioning):
        self.conditioning = conditioning

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        """Texts of different lengths have different states."""
        ((states, more),) = self.conditioning
        return [[states * (1 + len(tokens) / 50), more]]


class SmallVAE:
    def decode(self, latent):
        return latent[:, :3].movedim(1, -1).sigmoid().repeat_interleave(8, 1).repeat_interleave(8, 2)


def loader(*outputs):
    class Loader:
        INPUT_TYPES = classmethod(lambda cls: {"required": {"architecture": ("STRING", {})}})
        RETURN_TYPES, FUNCTION, CATEGORY = outputs, "load", "tests"

        def load(self, architecture):
            model, positive, *_ = getattr(host_models, architecture)()
            made = {"MODEL": model, "CLIP": SmallCLIP(positive), "VAE": SmallVAE()}
            return tuple(made[name] for name in outputs)
    return Loader


NODE_CLASS_MAPPINGS = {"SmallCheckpointLoaderSimple": loader("MODEL", "CLIP", "VAE"), "SmallUNETLoader": loader("MODEL"),
                       "SmallDualCLIPLoader": loader("CLIP"), "SmallVAELoader": loader("VAE")}

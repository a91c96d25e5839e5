"""The pack's ComfyUI nodes, in menu order."""

from .denoise import AddNoise, Denoise, DenoiseStep, Schedule
from .load import LoadEmbedded
from .model import FromModel
from .patch import Patchify, Unpatchify
from .vae import EmptyLatent, VAEDecode, VAEEncode

NODES = [LoadEmbedded, FromModel, VAEEncode, VAEDecode, EmptyLatent, Patchify, Unpatchify, Schedule, AddNoise, DenoiseStep, Denoise]

"""The text encoders of a diffusers folder behind the calls that ComfyUI makes of a CLIP. The transformers library runs them; what
becomes of a prompt is each pipeline's own `encode_prompt`."""

from collections.abc import Mapping
from dataclasses import dataclass
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import torch
from torch import nn

from ..errors import CheckpointError
from ..libraries import diffusers_part, library
from ..model.conditioning import Conditioning
from ..model.copies import compute_device
from .checkpoints import listed
from .diffusers_parts import Load, all_tensors, check_count, check_size, part_of, read_json, shards, variant_of
from .layouts import Shapes
from .stand_in import StandInCLIP, Tokens

log = logging.getLogger(__name__)

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


def _sd3(pipeline, texts: dict[str, str], device: torch.device) -> Conditioning:
    states, _, pooled, _ = pipeline.encode_prompt(texts["l"], texts["g"], texts["t5xxl"], device=device, do_classifier_free_guidance=False)
    return [[states, {"pooled_output": pooled}]]


def _flux(pipeline, texts: dict[str, str], device: torch.device) -> Conditioning:
    states, pooled, _ = pipeline.encode_prompt(texts["l"], texts["t5xxl"], device=device)
    return [[states, {"pooled_output": pooled}]]


def _pixart(pipeline, texts: dict[str, str], device: torch.device) -> Conditioning:
    states, mask, _, _ = pipeline.encode_prompt(texts["t5xxl"], do_classifier_free_guidance=False, device=device)
    return [[states, {"pooled_output": None, "attention_mask": mask}]]


@dataclass(frozen=True)
class Text:
    """Pipelines that know how a transformer's prompts are made, the first by default; its encoders, by the names that ComfyUI's nodes give
    their tokens, in order; how many it can't do without."""
    pipelines: tuple[str, ...]
    encode: Callable[..., Conditioning]
    encoders: tuple[str, ...]
    needed: int


TEXT_OF = {
    "SD3Transformer2DModel": Text(("StableDiffusion3Pipeline",), _sd3, ("l", "g", "t5xxl"), 2),
    "FluxTransformer2DModel": Text(("FluxPipeline",), _flux, ("l", "t5xxl"), 2),
    "PixArtTransformer2DModel": Text(("PixArtAlphaPipeline", "PixArtSigmaPipeline"), _pixart, ("t5xxl",), 1),
}


class DiffusersCLIP(StandInCLIP):
    """Text encoders that are read when the first prompt comes. Their files are looked for at once."""

    def __init__(self, folder: Path, index: Mapping, transformer: str, context_width: int | None, load: Load):
        self.folder, self.text, self.context_width, self._load = folder, TEXT_OF[transformer], context_width, load
        self.of = folder.name
        named = index.get("_class_name")
        self.pipeline_name = named if named in self.text.pipelines else self.text.pipelines[0]
        self.parts: dict[str, str | None] = {}
        for i in range(len(self.text.encoders)):
            number = f"_{i + 1}" if i else ""
            left_out = i >= self.text.needed and not (folder / f"text_encoder{number}").is_dir()  # as users do with T5, for its size
            if left_out and index.get(f"text_encoder{number}", [None])[0] is not None:
                log.warning("%s: there is no folder text_encoder%s: prompts are read without it", folder.name, number)
            for part, known in (("text_encoder" + number, ENCODERS), ("tokenizer" + number, TOKENIZERS)):
                kind = self.parts[part] = None if left_out else part_of(folder, index, part, "transformers")
                if kind is None and i < self.text.needed:
                    raise CheckpointError(f"{folder.name}/model_index.json names no {part}")
                if kind is not None and kind not in known:
                    raise CheckpointError(f"{folder.name}: its {part} is a {kind[:80]}, known are {', '.join(known)}")
                if kind in ENCODERS:
                    read_json(folder / part / "config.json")
                    shards(folder / part, "model")
                elif kind is not None and (folder / part / "tokenizer_config.json").is_file():
                    read_json(folder / part / "tokenizer_config.json")
        for i in range(self.text.needed, len(self.text.encoders)):
            pair = f"text_encoder_{i + 1}", f"tokenizer_{i + 1}"
            if None in map(self.parts.get, pair):  # one is of no use without the other
                self.parts |= dict.fromkeys(pair)
        self._pipeline = None
        self.encoders = nn.ModuleList()

    def tokenize(self, text: str, **_) -> Tokens:
        """The prompt itself for each encoder: the pipeline cuts it into tokens. Raises CheckpointError and LibraryError."""
        self._read()
        return Tokens({name: [text] for name in self.text.encoders}, self.of)

    @torch.no_grad()
    def conditioning(self, tokens: dict[str, list]) -> Conditioning:
        """→ CONDITIONING: states [1, T, E] with what else the transformer reads, on the CPU. An encoder without tokens reads an empty text."""
        pipeline = self._read()
        self._load([self.encoders])
        texts = {name: " ".join(tokens[name]) for name in self.text.encoders}
        ((states, extras),) = self.text.encode(pipeline, texts, compute_device(self.encoders))
        return [[states.float().cpu(), {name: value if value is None else value.float().cpu() for name, value in extras.items()}]]

    @property
    def cond_stage_model(self) -> nn.Module:
        self._read()
        return self.encoders

    def _read(self):
        if self._pipeline is None:
            user = f"the text of {self.folder.name}"
            transformers, pipeline_class = library("transformers", user), diffusers_part(self.pipeline_name, user)
            loaded = {part: kind and self._read_part(transformers, part, kind) for part, kind in self.parts.items()}
            self.encoders = nn.ModuleList(part for part in loaded.values() if isinstance(part, nn.Module))
            pipeline = pipeline_class(**loaded, vae=None, transformer=None, scheduler=None)
            # SD3 without its third encoder has zeros of this width in its place
            pipeline.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=self.context_width))
            self._pipeline = pipeline
        return self._pipeline

    def _read_part(self, transformers, part: str, kind: str):
        """An encoder or a tokenizer, by a class of the transformers library and local files alone."""
        folder, local = self.folder / part, {"local_files_only": True, "trust_remote_code": False}
        try:
            if kind in TOKENIZERS:
                return getattr(transformers, kind).from_pretrained(str(folder), **local)
            cls = getattr(transformers, kind)
            settings = cls.config_class.from_pretrained(str(folder), **local)
            tensors = all_tensors(folder, "model")
            check_count(f"{self.folder.name}/{part}", "num_hidden_layers", settings.num_hidden_layers,
                        max(map(Shapes(tensors).depth, ("text_model.encoder.layers", "encoder.layers", "encoder.block"))))
            check_size(f"{self.folder.name}/{part}", lambda: cls(settings), tensors)
            encoder, info = cls.from_pretrained(
                str(folder), use_safetensors=True, variant=variant_of(folder, "model") or None, dtype="auto",
                output_loading_info=True, **local)
        except Exception as error:  # whatever the library makes of files that do not fit
            raise CheckpointError(f"{self.folder.name}/{part}: not a {kind} that can be read "
                                  f"({' '.join(str(error).split())[:200]})") from None
        for fault in ("missing keys", "mismatched keys"):
            if found := info[fault.replace(" ", "_")]:
                raise CheckpointError(f"{self.folder.name}/{part}: {fault} {listed(map(str, found))}")
        return encoder.eval().requires_grad_(False)

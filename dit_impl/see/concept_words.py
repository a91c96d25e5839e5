"""Words as text tokens of a model's own: which of a CLIP's tokens are a word's, apart from those that begin, end and fill up a prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StagesError
from ..model.conditioning import Conditioning

MOST = 24  # concepts


@dataclass(frozen=True)
class Concepts:
    """names: of those that are shown. spans: where the tokens of each concept are, with those to set them against after them. conditioning:
    one CONDITIONING that holds the tokens of all."""
    names: tuple[str, ...]
    spans: tuple[range, ...]
    conditioning: Conditioning

    def vectors(self, tokens: Tensor) -> Tensor:
        """The mean of each concept's tokens: [T, D] → [concepts, D]."""
        return torch.stack([tokens[span.start:span.stop].mean(0) for span in self.spans])

    def apart(self, first: int) -> Callable[[Tensor, Tensor], Tensor]:
        """→ the mask [Nq, Nk] for queries and keys [B, heads, N, d] by which only a concept's own tokens read it. first: where they begin."""
        def mask(q: Tensor, k: Tensor) -> Tensor:
            added = q.new_zeros(q.shape[-2], k.shape[-2])
            begin, end = first, first + self.spans[-1].stop
            added[:, begin:end] = float("-inf")
            for span in self.spans:
                added[begin + span.start:begin + span.stop, begin + span.start:begin + span.stop] = 0
            return added
        return mask


def lines_of(text: str) -> list[str]:
    """The lines that hold something, each once."""
    return list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))


def read_concepts(clip, concepts: str, against: str) -> Concepts:
    """Encode each line by itself and keep the tokens of its words. clip: ComfyUI's CLIP, or what stands in for one. Raises StagesError."""
    names = lines_of(concepts)
    others = [line for line in lines_of(against) if line not in names]
    if not names:
        raise StagesError("concepts has no word in it: write one thing on each line")
    if len(names) + len(others) < 2:
        raise StagesError(f"{names[0]!r} alone has nothing to be told from: write a second concept, or into against what else is in the picture, "
                          "such as background")
    if len(names) + len(others) > MOST:
        raise StagesError(f"at most {MOST} concepts, with those in against; these are {len(names) + len(others)}")
    nothing = clip.tokenize("")
    beside = clip.encode_from_tokens_scheduled(nothing)[0][1]
    states = [_states(clip, line, nothing) for line in (*names, *others)]
    ends = torch.tensor([0, *(state.shape[1] for state in states)]).cumsum(0).tolist()
    extras = {name: beside[name] for name in ("pooled_output",) if beside.get(name) is not None}
    if beside.get("attention_mask") is not None:
        extras["attention_mask"] = torch.ones(1, ends[-1], dtype=beside["attention_mask"].dtype)
    return Concepts(tuple(names), tuple(map(range, ends[:-1], ends[1:])), [[torch.cat(states, dim=1), extras]])


def _states(clip, line: str, nothing: dict) -> Tensor:
    """The encoded tokens of the words in a line: → [1, T, E]. Raises StagesError."""
    tokens = clip.tokenize(line)
    ignored = tokens.get("ignored")
    if ignored:
        raise StagesError(f"the clip does not know {', '.join(map(repr, ignored))} of the concept {line!r}")
    encoder = _encoder(clip, tokens)
    ids, without = (_ids(of[encoder]) for of in (tokens, nothing))
    states = clip.encode_from_tokens_scheduled(tokens)[0][0]
    beyond = states.shape[1] - len(ids)  # other encoders' tokens come before these, and a template's may have been cut off
    places = [place + beyond for place in word_places(ids, without)]
    if not places or places[0] < 0:
        raise StagesError(f"it is not known which tokens of this clip are those of the concept {line!r}")
    return states[:, places]


def word_places(ids: Sequence[int], without: Sequence[int]) -> list[int]:
    """Which tokens of a prompt are its words: those that the empty prompt `without` lacks between its beginning and its end."""
    start = next((i for i, (one, other) in enumerate(zip(ids, without)) if one != other), min(len(ids), len(without)))
    rest = list(without[start:])
    for count in range(1, len(ids) - start + 1):
        after = list(ids[start + count:])
        if len(after) <= len(rest) and after == rest[:len(after)]:  # what fills a prompt up may have become less
            return list(range(start, start + count))
    return []


def _encoder(clip, tokens: dict) -> str:
    """The encoder whose tokens come last in a prompt: the last that the CLIP has. Raises StagesError."""
    parts = getattr(clip, "cond_stage_model", None)
    absent = object()
    for name in reversed([name for name, value in tokens.items() if name != "ignored" and value]):
        part = getattr(parts, name, absent)
        if (getattr(parts, f"clip_{name}", absent) if part is absent else part) is not None:
            if not all(isinstance(chunk, (list, tuple)) for chunk in tokens[name]):
                break
            return name
    raise StagesError("this clip does not say which of its tokens is which word, so that a word can't be told from the rest of a prompt")


def _ids(chunks: Sequence[Sequence[tuple]]) -> list:
    """The tokens of all chunks in a row, without their weights. An embedding of its own is known by its identity."""
    return [one[0] if isinstance(one[0], (int, str)) else id(one[0]) for chunk in chunks for one in chunk]

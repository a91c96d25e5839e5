"""Attention maps: which tokens a token attends to, which tokens attend to a word, and how this changes over the steps."""

from dataclasses import dataclass, replace
import re
from typing import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ScheduleError, StagesError
from ..handle import patch_schedule
from ..handle.backbone import Conditioning, DitHandle
from ..handle.patch_schedule import PatchSchedule, Row
from ..model.text import ARTICLES, SYNONYMS
from ..sampling.walk import last_step
from ..step import stages as step_stages
from ..tokens.model_calls import model_calls
from ..tokens.numbers import parse_ranges
from ..tokens.wire import check_finite
from ..tokens.wire_types import DitHidden, DitTokens
from .attention_rows import Plan, Rows, capture, find, onlooker_of, picture_tokens, plan, sample_of, shown, unseen

DIRECTIONS = {"image to image": ("image", "image"), "image to text": ("image", "text"), "text to image": ("text", "image")}


@dataclass(frozen=True)
class Question:
    """Which attention is asked for.

    direction: one of DIRECTIONS. query: the number of the token that attends. word: names text tokens instead of a query; from image to
    text, it asks how much every image token attends to that word. every: keep the attention of all queries, N² numbers.
    """
    block: int
    head: int
    direction: str
    query: int = 0
    word: str = ""
    every: bool = False

    def of_picture(self) -> int | None:
        """The query, if it is an image token."""
        queries, keys = DIRECTIONS[self.direction]
        return self.query if queries == "image" and not (keys == "text" and self.word.strip()) else None


@dataclass(frozen=True)
class Seen:
    """The answer to a question.

    shares: of the query's attention, over the grid [t·h, w], or over text tokens [T] if one image token attends to the text. maps [M, h,
    w]: all maps that were kept, one for each query (from image to text, one for each text token). words: the numbers of the text tokens
    that were asked for. names: the words of the text tokens.
    """
    question: Question
    plan: Plan
    rows: Rows
    shares: Tensor
    maps: Tensor
    words: list[int] | None
    names: Sequence[str] | None
    grid: tuple[int, ...]


def places_of(word: str, dit: DitHandle, wire: DitHidden, count: int) -> list[int]:
    """Words of the prompt, or numbers such as "3" or "3-5" → numbers of text tokens, of which there are `count`. Raises StagesError."""
    if re.fullmatch(r"[\d\s,-]+", word):
        try:
            numbers = sorted(set(parse_ranges(word, count, "text token", "the prompt")))
        except ValueError as error:
            raise StagesError(str(error)) from None
        if not numbers:
            raise StagesError(f"word has no word and no number in it: {word!r}")
        return numbers
    known = wire.get("words")
    if known is None:
        raise StagesError(f"{dit.name} does not say which token is which word: write text token numbers, 0 to {count - 1}, into word")
    places = []
    for one in re.findall(r"\w+", word.lower()):
        if one in ARTICLES and one not in known:
            continue
        matches = [i for i, name in enumerate(known[:count]) if name == SYNONYMS.get(one, one)]
        if not matches:
            words = ", ".join(name for name in known if not name.startswith("<"))
            raise StagesError(f"the prompt has no word {one!r}; its words are {words or 'none'}")
        places += [i for i in matches if i not in places]
    if not places:
        raise StagesError(f"word has no word in it: {word!r}")
    return places


def plan_capture(dit: DitHandle, wire: DitHidden, question: Question) -> tuple[Plan, list[int] | None]:
    """A question → what to capture, and the numbers of the text tokens that it names. Raises StagesError."""
    if question.direction not in DIRECTIONS:
        raise StagesError(f"direction is one of {', '.join(DIRECTIONS)}, not {question.direction!r}")
    queries, keys = DIRECTIONS[question.direction]
    _, attention = find(dit, wire, question.block, queries, keys)
    words = None
    if question.word.strip() and "text" in (queries, keys):
        words = places_of(question.word, dit, wire, len((attention.queries if queries == "text" else attention.keys)["text"]))
    to_word = keys == "text" and words is not None
    rows = words if queries == "text" and words is not None else None if to_word else [question.query]
    capture_plan = plan(dit, wire, question.block, question.head, queries, keys, rows, words if to_word else None)
    if question.every:
        capture_plan = replace(plan(dit, wire, question.block, question.head, queries, keys), every=True)
    return capture_plan, words


def read_maps(question: Question, plan: Plan, rows: Rows, words: list[int] | None, wire: DitHidden) -> Seen:
    """Captured rows → the answer to the question."""
    weights, grid = rows.weights, tuple(wire["tokens"]["grid"])
    *_, h, w = grid
    if question.direction != "image to text":
        of = weights if not question.every else weights[[question.query] if words is None else words]
        shares, maps = of.mean(0), weights
    elif words is not None:
        shares, maps = (weights[:, words] if question.every else weights).sum(1), weights.T
    else:
        shares, maps = weights[question.query if question.every else 0], weights.T
        if not question.every:  # there is no map over the picture: mark the query instead
            maps = torch.zeros(picture_tokens(wire))
            maps[question.query] = 1
    on_grid = question.direction != "image to text" or words is not None
    if on_grid and not question.every:
        maps = shares
    return Seen(question, plan, rows, shares.view(-1, w) if on_grid else shares, maps.reshape(-1, h, w), words, wire.get("words"), grid)


def attention_map(dit: DitHandle, wire: DitHidden, question: Question, free: float) -> tuple[DitHidden, Seen]:
    """Run one block and capture its attention: DIT_HIDDEN → (DIT_HIDDEN after the block, the answer). Raises StagesError.

    free: bytes of memory that may be used.
    """
    step_stages.check(dit, wire, "condition", "patches")
    alone = shown(wire)[1]
    check_finite(alone["hidden"].x, "hidden state")
    capture_plan, words = plan_capture(dit, alone, question)
    capture_plan.check(free)
    after, (rows,) = capture(dit, wire, [capture_plan])
    return after, read_maps(question, capture_plan, rows, words, alone)


def chosen_steps(text: str, start: int, end: int, most: int = 8) -> list[int]:
    """Steps out of start … end − 1 from a text: "0,4,9", "all", or "" for at most `most`, evenly spread. Raises ScheduleError."""
    if not text.strip():
        return sorted({round(i) for i in torch.linspace(start, end - 1, most).tolist()})
    try:
        steps = sorted(set(range(start, end) if text.strip() == "all" else parse_ranges(text, end, "step", "this run")))
    except ValueError as error:
        raise ScheduleError(str(error)) from None
    if not steps or steps[0] < start:
        raise ScheduleError(f"at_steps takes steps from {start} to {end - 1}, not {text!r}")
    return steps


def over_steps(dit: DitHandle, tokens: DitTokens, sigmas: Tensor, positive: Conditioning, negative: Conditioning | None, cfg: float, solver: str,
               start_step: int, end_step: int, question: Question, at_steps: str, free: float,
               report: Callable[[int, DitTokens, Tensor], None] = lambda *_: None) -> tuple[DitTokens, DitTokens, dict[int, Seen]]:
    """Denoise and capture attention at some steps: → (tokens, x0, an answer for each step). Raises as `DitHandle.denoise` does."""
    end_step = last_step(start_step, end_step, sigmas)
    wanted, captured, now = set(chosen_steps(at_steps, start_step, end_step)), {}, [start_step]
    against = dit.away_from(negative, cfg)
    begun = step_stages.patch_embed(dit, step_stages.condition(dit, tokens, positive, against, sigmas, start_step))
    wire = shown(begun)[1]
    capture_plan, words = plan_capture(dit, wire, question)
    capture_plan.check(free, len(wanted))

    def keep(rows: Rows) -> None:
        captured.setdefault(now[0], rows)  # if a step calls the model twice, keep the first call

    look = onlooker_of(capture_plan, sample_of(wire), len(wire["hidden"].x), keep, dit.name, others=len(model_calls(begun)) > 1)

    def tell(done: int, shown: DitTokens, x0: Tensor) -> None:
        now[0] = start_step + done
        report(done, shown, x0)
    with dit.stages.over(wire["hidden"]).observe(capture_plan.block, lambda *seen: look(*seen) if now[0] in wanted else None):
        one_size = PatchSchedule((Row(tokens["patch_size"]),))
        tokens, x0, _ = patch_schedule.denoise_by_schedule(dit, tokens, one_size, sigmas, positive, negative, cfg, solver, start_step, end_step, tell)
    if len(captured) < len(wanted):
        unseen(dit, capture_plan)
    return tokens, x0, {step: read_maps(question, capture_plan, rows, words, wire) for step, rows in sorted(captured.items())}

"""A token's journey through one step in numbers: its values, one row of the patch embedding times them, its place, its length after each
block, the words that it read, and what the head answers for it."""

import base64
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..drawing.charts import in_language
from ..errors import BackboneError, StagesError
from ..handle.backbone import DitHandle
from ..step import stages as step_stages
from ..tokens.model_calls import image_tokens
from ..tokens.wire_types import AnyWire, DitHidden
from .attention_rows import MEAN, capture, picture_tokens, plan, sample_of, shown
from .filters import filters_of
from .similarity import finite

MOST = 1024  # tokens whose journeys are all told; of more, only the one that is asked for
PARTS = ("all", "patch embedding", "position embedding", "text", "blocks")  # of a journey that can be shown alone
VALUES, VECTOR, READ = 64, 192, 6  # of a token's values and of its embedded vector, shown; words that it reads most
WORDS = {
    "token": {"en": "Token {token}: row {row}, column {column}.", "zh": "token {token}：第 {row} 行，第 {column} 列。"},
    "values": {"en": "1. Its patch holds {count} values: {some}", "zh": "1. 它的图块有 {count} 个值：{some}"},
    "row": {"en": "2. Patch embedding, number {number} of {width}: {some}; sum {sum:.3f}, with bias {bias:.3f}: {embedded:.3f}",
            "zh": "2. 图块嵌入，{width} 个数中的第 {number} 个：{some}；和为 {sum:.3f}，加偏置 {bias:.3f}：{embedded:.3f}"},
    "unknown": {"en": "2. Patch embedding, number {number} of {width}: {embedded:.3f} (this model's is not one matrix times these values)",
                "zh": "2. 图块嵌入，{width} 个数中的第 {number} 个：{embedded:.3f}（此模型的嵌入不是一个矩阵乘这些值）"},
    "together": {"en": "2.–3. Embedding and place, which this model's stages do not show apart: number {number} of {width} is {placed:.3f}",
                 "zh": "2.–3. 嵌入与位置（此模型的阶段不分开显示）：{width} 个数中的第 {number} 个是 {placed:.3f}"},
    "place": {"en": "3. Its place: {added:+.3f} to this number, so {placed:.3f}; the vector added has length {length:.2f}",
              "zh": "3. 它的位置：给这个数加 {added:+.3f}，得 {placed:.3f}；所加向量的长度为 {length:.2f}"},
    "unplaced": {"en": "3. Its place: nothing is added here", "zh": "3. 它的位置：这里不加任何东西"},
    "rotary": {"en": "3. Its place: nothing is added; rotary positions turn queries and keys inside attention",
               "zh": "3. 它的位置：不加任何东西；旋转位置在注意力里转动 query 和 key"},
    "refined": {"en": "3. Its place: rotary, nothing is added; layers before the blocks make this number {placed:.3f}",
                "zh": "3. 它的位置：旋转位置，不加任何东西；各块之前的层使这个数变为 {placed:.3f}"},
    "norms": {"en": "4. Length of the token before the blocks and after each: {norms}", "zh": "4. 进入各块之前与每块之后的长度：{norms}"},
    "read": {"en": "5. Words it read most, mean of heads and blocks: {read}", "zh": "5. 它读得最多的词（各头各块的平均）：{read}"},
    "unread": {"en": "5. No block showed this token reading text", "zh": "5. 没有块显示这个 token 在读文本"},
    "answer": {"en": "6. The head answers {count} values: {some}", "zh": "6. 输出层给出 {count} 个值：{some}"},
}


@dataclass(frozen=True)
class Journeys:
    """What is told of K tokens.

    tokens [K]: their numbers in reading order. For each: values [K, V], embedded and placed [K, D], norms [K, depth + 1], read [K, T] or None
    where no text was read, answers [K, A]. matrix [D, V]: the patch embedding, None where it is not one matrix times these values. apart:
    whether embedding and place are stages of their own. rotary: whether places turn queries and keys rather than being added; then placed is
    what layers before the blocks made of embedded. names: of the text tokens, if the CONDITIONING tells. grid: (h, w) or (t, h, w).
    """
    tokens: Tensor
    values: Tensor
    embedded: Tensor
    placed: Tensor
    norms: Tensor
    read: Tensor | None
    answers: Tensor
    matrix: Tensor | None
    apart: bool
    rotary: bool
    names: list[str] | None
    grid: tuple[int, ...]

    def bias(self, number: int) -> float:
        """What the patch embedding adds to the products of this number's row."""
        return (self.embedded[0, number] - self.matrix[number] @ self.values[0]).item()

    def facts(self, token: int, number: int) -> dict:
        """All of it as plain JSON, for the panel on the node, with one row of the matrix: that of `number`."""
        def rounded(values: Tensor) -> list:
            return [float(f"{value:.4g}") for value in values.tolist()] if values.dim() == 1 else [rounded(row) for row in values]
        names = self.names or ([] if self.read is None else [str(i) for i in range(self.read.shape[1])])
        most = None if self.read is None else self.read.topk(min(READ, self.read.shape[1]), dim=1)
        return {
            "grid": [int(torch.tensor(self.grid[:-1]).prod()), self.grid[-1]], "query": token, "number": number, "width": self.embedded.shape[1],
            "tokens": self.tokens.tolist(), "count": self.values.shape[1], "values": rounded(self.values[:, :VALUES]),
            "row": None if self.matrix is None else rounded(self.matrix[number, :VALUES]),
            "rest": None if self.matrix is None else rounded(self.values[:, VALUES:] @ self.matrix[number, VALUES:]),
            "bias": None if self.matrix is None else self.bias(number),
            "vectors": [_in_bytes(vector) for vector in self.embedded[:, :VECTOR]], "embedded": rounded(self.embedded[:, number]), "placed": rounded(self.placed[:, number]),
            "apart": self.apart, "rotary": self.rotary, "place": rounded((self.placed - self.embedded).norm(dim=1)), "norms": rounded(self.norms),
            "read": None if most is None else [[[names[i], float(f"{share:.4g}")] for share, i in zip(*row)]
                                               for row in zip(most.values.tolist(), most.indices.tolist())],
            "answers": rounded(self.answers[:, :VALUES]), "answer_count": self.answers.shape[1],
        }


def _in_bytes(vector: Tensor) -> str:
    """A vector's numbers as signed bytes, its largest as 127: → base64."""
    steps = vector * (127 / vector.abs().max().clamp(min=1e-12))
    return base64.b64encode(steps.round().to(torch.int8).numpy().tobytes()).decode()


def check_asked(dit: DitHandle, wire: DitHidden, token: int) -> None:
    """Raise StagesError unless a step stands where a journey begins, and has this token."""
    step_stages.check(dit, wire, "condition")
    if "patches" in wire["done"]:
        raise StagesError("a token's journey begins with its raw values, and these patches are embedded already: wire hidden from DiT Condition")
    image_tokens(wire)  # one grid for all model calls
    if not 0 <= token < picture_tokens(wire):
        raise StagesError(f"the grid has tokens 0 to {picture_tokens(wire) - 1}, there is no token {token}")


def journeys(dit: DitHandle, wire: DitHidden, token: int, number: int = 0) -> tuple[DitHidden, Journeys]:
    """Take a step from raw patches to the head: DIT_HIDDEN after DiT Condition → (DIT_HIDDEN after all blocks, as these would answer).

    Of a batch, the first picture of the first positive prompt. token: the one that is asked for; the others are told too where there are at
    most MOST. number: one of the D numbers of an embedded token. Raises StagesError.
    """
    check_asked(dit, wire, token)
    sample, count = sample_of(shown(wire)[1]), picture_tokens(wire)
    chosen = torch.arange(count) if count <= MOST else torch.tensor([token])

    def now(wire: AnyWire) -> Tensor:
        return finite(wire)[sample]
    values = now({**wire["tokens"], "tokens": wire["call"].x[:1].expand(sample + 1, -1, -1)})
    wire = step_stages.patch_embed(dit, wire)
    embedded = now(shown(wire)[1])
    if not 0 <= number < embedded.shape[1]:
        raise StagesError(f"an embedded token of {dit.name} has numbers 0 to {embedded.shape[1] - 1}, there is no number {number}")
    wire = step_stages.position_embed(dit, wire)
    placed = now(shown(wire)[1])
    rotary = dit.stages.positions == "rotary" or wire["hidden"].position is not None
    norms, read = [placed.norm(dim=1)], []
    for block in range(len(dit.stages.over(wire["hidden"]).kinds)):
        wire, rows = _through(dit, wire, block, None if count <= MOST else [token])
        norms.append(now(shown(wire)[1]).norm(dim=1))
        read += [] if rows is None else [rows]
    answers = now({**wire["tokens"], "tokens": step_stages.final_layer(dit, shown(wire)[1])["tokens"]})
    text = torch.stack(read).mean(0) if read and len({rows.shape for rows in read}) == 1 else None
    names = wire.get("words") if text is not None and len(wire.get("words") or ()) == text.shape[1] else None
    return wire, Journeys(chosen, values[chosen], embedded[chosen], placed[chosen], torch.stack(norms, 1)[chosen], text, answers[chosen],
                          _matrix(dit, wire, values, embedded), _apart(dit), rotary, names, tuple(wire["tokens"]["grid"]))


def _through(dit: DitHandle, wire: DitHidden, block: int, rows: list[int] | None) -> tuple[DitHidden, Tensor | None]:
    """Run a block: → (the wire after it, what image tokens read of each text token [K, T], or None where it does not show)."""
    try:
        asked = plan(dit, shown(wire)[1], block, MEAN, "image", "text", rows)
    except StagesError:
        return step_stages.run_blocks(dit, wire, str(block)), None
    after, (captured,) = capture(dit, wire, [asked])
    return after, captured.weights


def _apart(dit: DitHandle) -> bool:
    """Whether patch embedding and positions are stages of their own."""
    try:
        dit.stages.check_apart("patch embedding")
    except StagesError:
        return False
    return True


def _matrix(dit: DitHandle, wire: DitHidden, values: Tensor, embedded: Tensor) -> Tensor | None:
    """The patch embedding [D, V], if embedding these values of all tokens is indeed this matrix and a bias. It is not where a model scales
    them first."""
    try:
        filters = filters_of(dit, wire["tokens"]["patch_size"], dit.compute_device).flatten(1)
    except (BackboneError, StagesError):
        return None
    if filters.shape != (embedded.shape[1], values.shape[1]):
        return None
    left = embedded - values @ filters.T
    return filters if (left - left[:1]).abs().max() <= 0.02 * embedded.abs().max() else None


def described(told: Journeys, token: int, number: int, language: str = "English", show: str = "all") -> str:
    """One token's journey in words and numbers, a line each. show: one of PARTS."""
    facts = told.facts(token, number)
    at, across = facts["tokens"].index(token), facts["grid"][1]

    def some(numbers: list[float], count: int) -> str:
        return ", ".join(f"{value:.3g}" for value in numbers[:4]) + (", …" if count > 4 else "")

    def line(word: str, **known) -> str:
        return in_language(WORDS[word], language).format(**known)
    shared = {"number": number, "width": facts["width"], "embedded": facts["embedded"][at]}
    if facts["apart"]:
        embedding, place = _embedded_in_words(facts, at, line, **shared), _placed_in_words(facts, at, line)
    else:
        embedding = place = line("together", placed=facts["placed"][at], **shared)
    lines = {
        "patch embedding": [line("values", count=facts["count"], some=some(facts["values"][at], facts["count"])), embedding],
        "position embedding": [place],
        "blocks": [line("norms", norms=", ".join(f"{norm:.1f}" for norm in facts["norms"][at]))],
        "text": [line("unread") if facts["read"] is None else
                 line("read", read=", ".join(f"{name} {share:.1%}" for name, share in facts["read"][at]))],
        "head": [line("answer", count=facts["answer_count"], some=some(facts["answers"][at], facts["answer_count"]))],
    }
    shown = {"all": list(lines), "blocks": ["blocks", "head"]}.get(show, [show])
    told_lines = [line("token", token=token, row=token // across, column=token % across), *(one for part in shown for one in lines[part])]
    return "\n".join(dict.fromkeys(told_lines))


def _embedded_in_words(facts: dict, at: int, line: Callable[..., str], **shared) -> str:
    if facts["row"] is None:
        return line("unknown", **shared)
    products = [f"{value:.3g}×{weight:.3g}" for value, weight in zip(facts["values"][at], facts["row"])][:3]
    return line("row", some=" + ".join(products) + " + …", sum=facts["embedded"][at] - facts["bias"], bias=facts["bias"], **shared)


def _placed_in_words(facts: dict, at: int, line: Callable[..., str]) -> str:
    moved, placed = facts["place"][at], facts["placed"][at]
    if facts["rotary"]:
        return line("refined" if moved else "rotary", placed=placed)
    return line("place" if moved else "unplaced", added=placed - facts["embedded"][at], placed=placed, length=moved)

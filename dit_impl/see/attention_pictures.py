"""Attention as pictures and text: heat maps on the token grid, bars over text tokens, contact sheets over steps."""

from collections.abc import Mapping
import math

import torch
from torch import Tensor

from ..drawing import charts
from ..drawing.map_sheet import MapSheet
from .attention_maps import Seen
from .attention_rows import MEAN, in_bytes

SIDE = 384
BETWEEN = 4  # pixels between the frames of a video
STEP_SIDE = 128  # of a map in a contact sheet
BARS = 24  # text tokens drawn at most: those with most attention
KINDS = {"image": {"en": "image tokens", "zh": "图像 token"}, "text": {"en": "text tokens", "zh": "文本 token"}}


def token_name(seen: Seen, i: int) -> str:
    """A text token's number, and its word if known."""
    return f"{i} {seen.names[i]}" if seen.names and i < len(seen.names) else str(i)


def asked(seen: Seen, language: str) -> str:
    """The question in words: which tokens look at which."""
    q, w = seen.question, seen.grid[-1]
    texts = ", ".join(token_name(seen, i) for i in (seen.words if seen.words is not None else [q.query]))
    row, column = q.query // w % seen.grid[-2], q.query % w
    one = {"en": f"image token {q.query} (row {row}, column {column})", "zh": f"图像 token {q.query}（第 {row} 行第 {column} 列）"}
    text = {"en": f"text token {texts}", "zh": f"文本 token {texts} "}
    every = {"en": "every image token", "zh": "每个图像 token "}
    from_, to = {"image to image": (one, KINDS["image"]), "text to image": (text, KINDS["image"]),
                 "image to text": (one, KINDS["text"]) if seen.words is None else (every, text)}[q.direction]
    return charts.in_language({"en": f"{from_['en']} looking at {to['en']}", "zh": f"{from_['zh']}看{to['zh']}"}, language)


def where(seen: Seen, language: str) -> str:
    """Block and head in words."""
    block, head, of = seen.question.block, seen.question.head, seen.plan.heads
    whole = {"en": f"mean of {of} heads", "zh": f"{of} 个头的平均"} if head == MEAN else {"en": f"head {head}", "zh": f"第 {head} 头"}
    return charts.in_language({"en": f"Block {block}, {whole['en']}", "zh": f"第 {block} 块，{whole['zh']}"}, language)


def is_map(seen: Seen) -> bool:
    """Whether the answer is a map over the picture, not bars over the text."""
    return seen.shares.dim() == 2


def top(seen: Seen) -> float:
    """The upper end of the colour scale, in percent. It is below the largest share if a few tokens are far above the others."""
    percent = seen.shares.flatten() * 100
    largest, most = percent.max().item(), percent.quantile(0.99).item()
    return largest if largest < 3 * most else most


def map_pictures(seen: Seen, high: float, side: int) -> list[Tensor]:
    """A heat map for each frame of a video, with a mark on the query's token: → [H, W, 3] each."""
    *_, h, w = seen.grid
    frames = []
    for i, frame in enumerate(seen.shares.view(-1, h, w)):
        picture, place = charts.heat(frame * 100, side, 0.0, high), seen.question.query - i * h * w
        marked = seen.question.direction == "image to image" and 0 <= place < h * w
        frames.append(charts.marked(picture, (h, w), place) if marked else picture)
    return frames


def word_bars(seen: Seen, high: float, language: str, width: int = 480) -> Tensor:
    """A bar for each text token, in percent of the query's attention: → [H, width, 3]. high: the percentage of the longest bar."""
    percent = (seen.shares * 100).tolist()
    shown = range(len(percent)) if len(percent) <= BARS else sorted(sorted(range(len(percent)), key=lambda i: -percent[i])[:BARS])
    line, face = charts.TEXT + 8, charts.font(charts.TEXT, language == "中文")
    left = 12 + max(math.ceil(face.getlength(token_name(seen, i))) for i in shown)
    picture, draw = charts.canvas(width, line * len(shown) + 8)
    for row, i in enumerate(shown):
        y = row * line + 4 + line / 2
        draw.text((left - 8, y), token_name(seen, i), fill=charts.INK, font=face, anchor="rm")
        end = left + percent[i] / max(high, 1e-9) * (width - left - 76)
        draw.rectangle([left, y - line / 2 + 3, end, y + line / 2 - 3], fill=charts.CURVES[0])
        draw.text((end + 6, y), f"{percent[i]:.2g}%", fill=charts.INK, font=face, anchor="lm")
    return charts.as_tensor(picture)


def scaled(picture: Tensor, high: float, cut: bool, language: str) -> Tensor:
    """A picture with a colour scale below, in percent of a query's attention. cut: whether larger values share the last colour."""
    more = {"en": ", or more", "zh": "（或更多）"} if cut else {"en": "", "zh": ""}
    unit = charts.in_language({"en": f"% of attention{more['en']}", "zh": f"注意力的 %{more['zh']}"}, language)
    return torch.cat([picture, charts.scale_bar(0.0, high, unit, picture.shape[1], language=language)])


@charts.drawn
def drawing(seen: Seen, language: str) -> MapSheet:
    """One answer as a picture with title and scale."""
    title, (*_, h, w) = f"{where(seen, language)}\n{asked(seen, language)}", seen.grid
    if not is_map(seen):
        bars = word_bars(seen, 100 * seen.shares.max().item(), language)
        return MapSheet(charts.sheet([bars], [""], 1, title, note(seen, language), language)[None], (h, w))
    pictures = map_pictures(seen, top(seen), SIDE if len(seen.grid) == 2 else SIDE // 2)
    high = top(seen)
    scaled_ones = [scaled(picture, high, high < seen.shares.max() * 100, language) for picture in pictures]
    names = [charts.in_language({"en": f"frame {i}", "zh": f"第 {i} 帧"}, language) for i in range(len(pictures))]
    labels = names if len(pictures) > 1 else [""]
    sheet, corners = charts.sheet_and_corners(scaled_ones, labels, None, title, note(seen, language), language, 1)
    size = pictures[0].shape[1], len(pictures[0])
    return MapSheet(sheet[None], (h, w), size, [(x, y, i * h * w) for i, (x, y) in enumerate(corners)])


@charts.drawn
def over_steps(answers: Mapping[int, Seen], sigmas: Tensor, language: str) -> MapSheet:
    """A contact sheet with an answer for each step, on one colour scale, with step and sigma below each."""
    first = next(iter(answers.values()))
    *_, h, w = first.grid
    title = f"{where(first, language)}\n{asked(first, language)}"
    labels = [charts.in_language({"en": f"step {step}\nσ = {sigmas[step]:.3g}", "zh": f"第 {step} 步\nσ = {sigmas[step]:.3g}"}, language)
              for step in answers]
    largest = 100 * max(seen.shares.max().item() for seen in answers.values())
    if not is_map(first):
        bars = [word_bars(seen, largest, language, 340) for seen in answers.values()]
        return MapSheet(charts.sheet(bars, labels, 2, title, "", language, 1)[None], (h, w))
    high = max(map(top, answers.values()))
    frames = [map_pictures(seen, high, STEP_SIDE) for seen in answers.values()]
    rows = [charts.side_by_side(one, BETWEEN) for one in frames]
    sheet, corners = charts.sheet_and_corners(rows, labels, min(4, charts.columns_within(rows[0].shape[1])), title, "", language, 1)
    tall, wide = frames[0][0].shape[:2]
    return MapSheet(scaled(sheet, high, high < largest, language)[None], (h, w), (wide, tall),
                    [(x + i * (wide + BETWEEN), y, i * h * w) for x, y in corners for i in range(len(frames[0]))])


def note(seen: Seen, language: str) -> str:
    """What share each key would have if all were alike, and how much of the attention the picture shows."""
    even = 100 / seen.plan.keys * (len(seen.words) if seen.question.direction == "image to text" and seen.words else 1)
    if seen.question.direction == "image to text" and seen.words is not None:
        return charts.in_language({"en": f"if all tokens got the same share: {even:.2g}%", "zh": f"若所有键都一样：{even:.2g}%"}, language)
    part = 100 * seen.shares.sum().item()
    on = KINDS[seen.question.direction.split(" to ")[1]]
    if not is_map(seen) and len(seen.shares) > BARS:
        most = {"en": f"; shown: the {BARS} of {len(seen.shares)} text tokens with most attention",
                "zh": f"；只画 {len(seen.shares)} 个文本 token 中看得最多的 {BARS} 个"}
    else:
        most = {"en": "", "zh": ""}
    return charts.in_language({"en": f"{part:.1f}% of the attention is on {on['en']}; if all tokens got the same share, {even:.2g}% each{most['en']}",
                               "zh": f"{part:.1f}% 的注意力在{on['zh']} 上；若所有键都一样，每个 {even:.2g}%{most['zh']}"}, language)


def described(seen: Seen, language: str) -> str:
    """The answer in words: sums of rows, largest shares, and the memory that was used."""
    plan, sums, of_all = seen.plan, seen.rows.sums, 4 * seen.plan.heads * seen.plan.keys ** 2
    shares = seen.shares.flatten()
    best = shares.topk(min(3, len(shares))).indices.tolist()
    names = [f"{i if is_map(seen) else token_name(seen, i)}: {100 * shares[i]:.3g}%" for i in best]
    kept = in_bytes(len(plan.rows) * plan.row_bytes)
    return charts.in_language({
        "en": f"{where(seen, language)}: {asked(seen, language)}\nrows sum to {sums.min():.6f}, at most {sums.max():.6f}; {note(seen, language)}\n"
              f"most: {', '.join(names)}\n{len(plan.rows)} × {len(plan.columns)} shares kept, {kept}; {in_bytes(plan.work_bytes)} of scratch "
              f"memory; a block's whole attention would take {in_bytes(of_all)}",
        "zh": f"{where(seen, language)}：{asked(seen, language)}\n每行之和 {sums.min():.6f}，至多 {sums.max():.6f}；{note(seen, language)}\n"
              f"最多的：{', '.join(names)}\n保留 {len(plan.rows)} × {len(plan.columns)} 个值，{kept}；计算时另用 {in_bytes(plan.work_bytes)}；"
              f"一个块的全部注意力要 {in_bytes(of_all)}"}, language)


def masks(*answers: Seen) -> Tensor:
    """The maps as a MASK, each scaled so that its largest value is 1: → [maps, h, w]."""
    maps = answers[0].maps if len(answers) == 1 else torch.cat([seen.maps for seen in answers])  # one set may be N² numbers: do not copy it
    return maps / maps.flatten(1).amax(1).clamp_min(1e-12)[:, None, None]

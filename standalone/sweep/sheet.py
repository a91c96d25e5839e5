"""What a sweep shows at its end: a labelled contact sheet, and a table by any two widgets that were varied."""

from collections import defaultdict
from collections.abc import Iterable
import csv
from dataclasses import dataclass, field
from pathlib import Path
import textwrap

from PIL import Image

from ...dit_impl.drawing.charts import canvas, font, wrapped
from ...dit_impl.sources.atomic import replace_atomically
from .plan import Plan, Value
from .record import Record, Row, flat

GAP, LETTERS, LABEL = 6, 13, 180  # pixels: between pictures, of a line of text, the widest label of a row
MOST_ROWS = 60  # of one sheet; more go to a second one
INK, FAULT = "#1b1b1f", "#b3261e"


@dataclass
class Layout:
    """The results by two widgets. others: those that are varied beside them; a place of the table may hold several cells."""
    rows: str
    columns: str
    others: list[str] = field(default_factory=list)


def layout(plan: Plan) -> Layout:
    """The widgets of the sheet: those that are asked for, else the last two that were varied."""
    asked, left = plan.sheet, [name for name in plan.varied if name not in (plan.sheet.rows, plan.sheet.columns)]
    columns = asked.columns or left.pop()
    rows = asked.rows or (left.pop() if left else "")
    return Layout(rows, columns, left)


def write_table(plan: Plan, record: Record) -> tuple[Path, str]:
    """The mean of a column at each row and column of the sheet, as CSV: → its path, and the same as text."""
    shown, found = layout(plan), defaultdict(list)
    heads, sides = {}, {}
    for row in map(flat, record.rows()):
        side, head = row.get(shown.rows, ""), row.get(shown.columns, "")
        sides[side], heads[head] = None, None
        value = _number(row.get(plan.sheet.value)) if not row["error"] else None
        if value is not None:
            found[side, head].append(value)
    sides, heads = _ordered(plan, shown.rows, sides), _ordered(plan, shown.columns, heads)
    corner = f"mean of {plan.sheet.value}" + (f" by {shown.rows}" if shown.rows else "")
    lines = [[corner, *(f"{shown.columns} = {head}" for head in heads)]]
    for side in sides:
        lines.append([str(side) or "all", *(f"{sum(values) / len(values):.4g}" if (values := found.get((side, head))) else "" for head in heads)])

    def write(aside: Path) -> None:
        with aside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
    path = record.folder / "table.csv"
    replace_atomically(path, write)
    widths = [max(len(textwrap.shorten(line[at], 40, placeholder="…")) for line in lines) for at in range(len(lines[0]))]
    text = "\n".join("  ".join(textwrap.shorten(cell, 40, placeholder="…").ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in lines)
    return path, text


def write_sheets(plan: Plan, record: Record) -> list[Path]:
    """The first picture of each cell, laid out by two widgets and labelled: → PNG files, none where no cell has a picture."""
    shown = layout(plan)
    places: dict[tuple, dict[Value, Row]] = defaultdict(dict)
    for row in record.rows():
        values = row["cell"]
        side = tuple(values.get(name, "") for name in (*shown.others, shown.rows) if name)
        places[side][values.get(shown.columns, "")] = row
    if not any(row["pictures"] for line in places.values() for row in line.values()):
        return []
    heads = _ordered(plan, shown.columns, {head: None for line in places.values() for head in line})
    names = [name for name in (*shown.others, shown.rows) if name]
    order = {name: {value: at for at, value in enumerate(plan.grid.get(name, ()))} for name in names}
    sides = sorted(places, key=lambda side: [order[name].get(value, len(order[name])) for name, value in zip(names, side)])
    paths = []
    for at in range(0, len(sides), MOST_ROWS):
        path = record.folder / (f"sheet_{at // MOST_ROWS + 1}.png" if len(sides) > MOST_ROWS else "sheet.png")
        image = _drawn(plan, record.folder, shown.columns, heads, names, [(side, places[side]) for side in sides[at:at + MOST_ROWS]])
        replace_atomically(path, lambda aside, image=image: image.save(aside, "PNG"))
        paths.append(path)
    return paths


def _drawn(plan: Plan, folder: Path, columns: str, heads: list, names: list[str], lines: list) -> Image.Image:
    size, label, top = plan.sheet.size, LABEL if names else 0, 2 * LETTERS + 2 * GAP
    image, draw = canvas(label + (size + GAP) * len(heads) + GAP, top + (size + GAP) * len(lines))

    def write(x: int, y: int, text: str, width: int, most: int, colour: str = INK) -> None:
        face = font(LETTERS - 2, chinese=any(ord(letter) > 0x2e80 for letter in text))
        for at, line in enumerate(wrapped(text, width, face).split("\n")[:most]):
            draw.text((x, y + LETTERS * at), line, fill=colour, font=face)
    write(GAP, GAP, columns, image.width, 1)
    for at, head in enumerate(heads):
        write(label + GAP + (size + GAP) * at, GAP + LETTERS, str(head), size, 1)
    for down, (side, cells) in enumerate(lines):
        y = top + (size + GAP) * down
        write(GAP, y, "\n".join(f"{name.rpartition('.')[2]}: {value}" for name, value in zip(names, side)), label - 2 * GAP, size // LETTERS)
        for across, head in enumerate(heads):
            x, row = label + GAP + (size + GAP) * across, cells.get(head)
            if row and row["pictures"]:
                with Image.open(folder / row["pictures"][0]) as picture:
                    picture.thumbnail((size, size))
                    image.paste(picture.convert("RGB"), (x, y))
            elif row:
                write(x, y, row["error"] or "no picture", size, size // LETTERS, FAULT)
    return image


def _ordered(plan: Plan, name: str, values: Iterable[Value]) -> list[Value]:
    """Values in the order of the sweep's file; values of earlier sweeps come last."""
    places = {value: at for at, value in enumerate(plan.grid.get(name, ()))}
    return sorted(values, key=lambda value: places.get(value, len(places)))


def _number(value) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None

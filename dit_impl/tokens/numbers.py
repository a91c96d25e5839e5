"""Lists of numbers as users write them: "0-3,8" is 0, 1, 2, 3 and 8."""

import re
from typing import Iterable, Iterator

MOST = 10_000  # numbers at most from one text: a short text such as "all,all,…" can name very many


def parse_ranges(text: str, count: int, what: str, whole: str) -> list[int]:
    """"all", "0-11", "0,2,4-7", "11-0" or "all but 7,9" → the numbers in that order. Raises ValueError for a number that is not below `count`.

    For the error line, `what` is the word for one numbered thing ("block") and `whole` for what holds them ("this model").
    """
    if but := re.fullmatch(r"\s*all\s+but\b(.*)", text, re.DOTALL):
        left_out = set(parse_ranges(but[1], count, what, whole))
        return [number for number in range(count) if number not in left_out]
    numbers: list[int] = []
    for first, last in _parts(text, what):
        if last is None:
            numbers += range(count)
        elif max(first, last) >= count:
            raise ValueError(f"{whole} has {what}s 0 to {count - 1}, there is no {what} {max(count, min(first, last))}")
        else:
            numbers += range(first, last + 1) if first <= last else range(first, last - 1, -1)
        if len(numbers) > MOST:
            raise ValueError(f"these are more than {MOST} {what}s")
    return numbers


def check_ranges(text: str, what: str) -> None:
    """Raise ValueError for a text that `parse_ranges` reads for no count."""
    but = re.fullmatch(r"\s*all\s+but\b(.*)", text, re.DOTALL)
    for _ in _parts(but[1] if but else text, what):
        pass


def _parts(text: str, what: str) -> Iterator[tuple[int, int | None]]:
    """First and last of each part between commas; the last is None for all."""
    for part in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if match:
            yield int(match[1]), int(match[2] or match[1])
        elif part == "all":
            yield 0, None
        else:
            raise ValueError(f'{what}s are numbers and ranges such as "0-11", "0,2,4-7", "11-0", "all" or "all but 7", not {part[:40]!r}')


def in_words(numbers: Iterable[int]) -> str:
    """Rising numbers as a short text: [0, 1, 2, 4] → "0-2,4"."""
    parts: list[list[int]] = []
    for i in numbers:
        if parts and parts[-1][-1] == i - 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)

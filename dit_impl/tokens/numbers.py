"""Lists of numbers as users write them: "0-3,8" is 0, 1, 2, 3 and 8."""

import re
from typing import Iterable

MOST = 10_000  # numbers at most from one text: a short text such as "all,all,…" can name very many


def parse_ranges(text: str, count: int, what: str, whole: str) -> list[int]:
    """"all", "0-11", "0,2,4-7", "11-0" or "all but 7,9" → the numbers in that order. Raises ValueError for a number that is not below `count`.

    For the error line, `what` is the word for one numbered thing ("block") and `whole` for what holds them ("this model").
    """
    if but := re.fullmatch(r"\s*all\s+but\b(.*)", text, re.DOTALL):
        left_out = set(parse_ranges(but[1], count, what, whole))
        return [number for number in range(count) if number not in left_out]
    numbers: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        named: Iterable[int] = ()
        if part == "all":
            named = range(count)
        elif match := re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part):
            first, last = int(match[1]), int(match[2] or match[1])
            if max(first, last) >= count:
                raise ValueError(f"{whole} has {what}s 0 to {count - 1}, there is no {what} {max(count, min(first, last))}")
            named = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        elif part:
            raise ValueError(f'{what}s are numbers and ranges such as "0-11", "0,2,4-7", "11-0", "all" or "all but 7", not {part[:40]!r}')
        numbers += named
        if len(numbers) > MOST:
            raise ValueError(f"these are more than {MOST} {what}s")
    return numbers


def in_words(numbers: Iterable[int]) -> str:
    """Rising numbers as a short text: [0, 1, 2, 4] → "0-2,4"."""
    parts: list[list[int]] = []
    for i in numbers:
        if parts and parts[-1][-1] == i - 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)

"""What the front end makes of the texts in widgets before it sends them."""

from datetime import datetime
import math
import random
import re
from typing import Any


def choose_wording(text: str, rng: random.Random) -> str:
    """Drop /* … */ and // comments and choose one of each {a|b}; a backslash keeps a brace or a bar."""
    return re.sub(r"\\([{}|])", r"\1", _choose(_without_comments(text), rng))


def _without_comments(text: str) -> str:
    kept, at, closed = [], 0, True  # closed: whether a */ may still follow
    for comment in re.finditer(r"/[/*]", text):
        start = comment.start()
        if start < at:
            continue
        if comment[0] == "//":
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
        else:
            end = text.find("*/", start + 2) if closed else -1
            if end < 0:
                closed = False
                continue
            end += 2
        kept.append(text[at:start])
        at = end
    return "".join(kept) + text[at:]


def _choose(text: str, rng: random.Random) -> str:
    """One wording of each pair of braces, the inner ones first; one that is never closed ends with the text."""
    around = [[""]]  # the options of each pair of braces that is open
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            around[-1][-1] += letter + next(letters, "")
        elif letter == "{":
            around.append([""])
        elif letter == "}" and len(around) > 1:
            inner = rng.choice(around.pop())
            around[-1][-1] += inner
        elif letter == "|" and len(around) > 1:
            around[-1].append("")
        else:
            around[-1][-1] += letter
    while len(around) > 1:
        inner = rng.choice(around.pop())
        around[-1][-1] += inner
    return rng.choice(around[0])


def as_javascript(value: Any) -> str:
    """A value as a page's `(value ?? "") + ""` writes it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(as_javascript, value))
    if isinstance(value, dict):
        return "[object Object]"
    if not isinstance(value, (int, float)):
        return str(value)
    value = float(value)
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    mantissa, _, exponent = repr(value).removeprefix("-").partition("e")
    whole, _, part = mantissa.partition(".")
    digits, place = (whole + part).lstrip("0"), len(whole) + int(exponent or 0)
    place -= len(whole + part) - len((whole + part).lstrip("0"))
    digits = digits.rstrip("0") or "0"
    sign = "-" if value < 0 else ""
    if digits == "0":
        return "0"
    if 0 < place <= 21:
        return sign + (digits.ljust(place, "0") if len(digits) <= place else f"{digits[:place]}.{digits[place:]}")
    if -6 < place <= 0:
        return f"{sign}0.{'0' * -place}{digits}"
    return f"{sign}{digits[0]}{'.' + digits[1:] if digits[1:] else ''}e{place - 1:+d}"


def format_date(pattern: str, now: datetime) -> str:
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match) -> str:
        word = match[0]
        if word[0] in parts:
            return str(parts[word[0]]).zfill(len(word))
        return {"yy": f"{now.year % 100:02}", "yyyy": str(now.year)}.get(word, word)

    return re.sub("dd?|MM?|hh?|mm?|ss?|yyy?y?", part, pattern)

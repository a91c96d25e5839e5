"""The note about a workflow that a newer version of the pack has saved. The editor has its own in web/version_note.js."""

import re
from typing import Any, Mapping


def note(saved: Mapping[str, Any] | None, own: str) -> str:
    """One line, or "" if there is nothing to say. `saved`: the graph as the front end saved it, with its version in `extra.dit_blocks`."""
    version: Any = saved
    for name in ("extra", "dit_blocks", "version"):
        version = version.get(name) if isinstance(version, dict) else None
    if not isinstance(version, str) or _numbers(version) <= _numbers(own):
        return ""
    return f"saved with DiT Blocks {version}; this is {own}. It may draw otherwise until the pack is updated"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]

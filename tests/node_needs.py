"""What a node comes with beside its code, and where. One test (test_node_needs.py) says what is missing; all others leave such nodes out."""

from functools import cache
import json
from pathlib import Path

import dit_blocks
from dit_blocks.standalone import comfy_api_standin, pack
from dit_blocks.standalone.node_types import NodeType

comfy_api_standin.install()

ROOT = Path(dit_blocks.__file__).parent
DOCS, LOCALE, WIDGETS = ROOT / "web" / "docs", ROOT / "locales" / "zh", ROOT / "tests" / "widget_order.json"
LANGUAGES = {"en": ("Inputs", "Outputs"), "zh": ("输入", "输出")}
INFO = {name: NodeType(name, cls).info() for name, cls in pack.load().items() if name.startswith("DiTBlocks")}


def page(name: str, language: str) -> Path:
    """Where the front end looks a custom node's help up."""
    return DOCS / f"{name}.md" if language == "en" else DOCS / name / f"{language}.md"


@cache
def read(path: Path):
    """A text file's words, a JSON file's values."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else text


def missing_pages(name: str) -> list[str]:
    return [f"has no help page {page(name, language).relative_to(ROOT)}" for language in LANGUAGES if not page(name, language).is_file()]


def missing_words(name: str) -> list[str]:
    said = [] if name in read(LOCALE / "nodeDefs.json") else ["has no Chinese words in locales/zh/nodeDefs.json"]
    categories = read(LOCALE / "main.json")["nodeCategories"]
    return said + [f"is in the category {part!r}, which has no Chinese name in locales/zh/main.json"
                   for part in INFO[name]["category"].split("/") if part not in categories]


def missing_order(name: str) -> list[str]:
    return [] if name in read(WIDGETS) else ["has no line in tests/widget_order.json: run `python tests/test_sharing.py widgets`"]


WITH_PAGES = [name for name in INFO if not missing_pages(name)]
WITH_WORDS = [name for name in INFO if not missing_words(name)]
WITH_ORDER = [name for name in INFO if not missing_order(name)]

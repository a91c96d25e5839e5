"""Every error that a user of the editor can meet has its Chinese in web/zh, and nothing there is left of an error that is gone."""

import ast
from collections.abc import Iterator
from pathlib import Path
import re

import pytest

from dit_blocks.dit_impl import reading
from dit_blocks.dit_impl.sampling import regions

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "web" / "zh"
NOT_IN_THE_EDITOR = {  # file or folder → why no user of the editor meets its errors
    "dit_impl/training/default_model": "recipes of the command line",
    "dit_impl/training/config.py": "recipes of the command line",
    "dit_impl/training/toml.py": "recipes of the command line",
    "dit_impl/training/launch.py": "accelerate launch",
    "dit_impl/sources/fingerprints.py": "an answer within the file, which catches it",
}
NOT_A_MESSAGE = {"Interrupted": "how ComfyUI stops a run"}
ENTRY = re.compile(r"""^  ("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\w+):\s*["']""", re.MULTILINE)
VALUE = "{}"


class Source:
    """A module's tree, where a message is looked for that a raise does not spell out."""

    def __init__(self, path: Path):
        self.name = path.relative_to(ROOT).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.scopes = [self.tree, *(node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef))]
        self.functions = {scope.name: scope for scope in self.scopes if isinstance(scope, ast.FunctionDef)}

    def raised(self) -> Iterator[tuple[int, str]]:
        """Each message that is raised: its line, and its text with {} for each value."""
        for function in self.scopes:
            for node in own_nodes(function):
                call = node.exc if isinstance(node, ast.Raise) else node
                if isinstance(call, ast.Call) and call.args:
                    name = ast.unparse(call.func).split(".")[-1]
                    if name.endswith("Error") or isinstance(node, ast.Raise) and name not in NOT_A_MESSAGE | self.functions.keys():
                        yield from ((node.lineno, text) for text in self.texts(call.args[0], function))

    def said(self) -> Iterator[str]:
        """Each text in the module, with {} for each value."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Constant, ast.JoinedStr)):
                yield re.sub(r"\{[^{}]*\}", VALUE, self.texts(node, self.tree)[0])

    def texts(self, said: ast.expr, function: ast.AST) -> list[str]:
        """What an expression can be in words. A value that is not known is {}: a parameter, an error that is handed on."""
        if isinstance(said, ast.Constant):
            return [str(said.value)]
        if isinstance(said, ast.JoinedStr):
            return ["".join(part.value if isinstance(part, ast.Constant) else VALUE for part in said.values)]
        if isinstance(said, ast.IfExp):
            return self.texts(said.body, function) + self.texts(said.orelse, function)
        if isinstance(said, ast.BinOp) and isinstance(said.op, ast.Add):
            return [first + then for first in self.texts(said.left, function) for then in self.texts(said.right, function)]
        if isinstance(said, ast.Call) and isinstance(said.func, ast.Name) and said.func.id in self.functions:
            asked = self.functions[said.func.id]
            returned = [node.value for node in own_nodes(asked) if isinstance(node, ast.Return) and node.value]
            return [text for value in returned for text in self.texts(value, asked)]
        if isinstance(said, ast.Name):
            places = [*own_nodes(function), *own_nodes(self.tree)]
            given = [node.value for node in places if isinstance(node, (ast.Assign, ast.NamedExpr)) and said.id in names(node)]
            given = [value for value in given if said.id not in names(value)]  # what goes on from itself
            return [text for value in given for text in self.texts(value, function)] or [VALUE]
        return [VALUE]


def names(node: ast.Assign | ast.NamedExpr | ast.expr) -> list[str]:
    """The names that an assignment gives a value to, or those in an expression."""
    named = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.NamedExpr) else ast.walk(node)
    return [part.id for part in named if isinstance(part, ast.Name)]


def is_words(text: str) -> bool:
    """Whether a message says something itself, beside the values and messages in it."""
    return bool(re.search("[a-z]", text.replace(VALUE, "")))


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, or of a module's top level, without the functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from own_nodes(child)


def entries(name: str) -> list[tuple[str, str]]:
    """The English of each entry in these files of web/zh, as it is written there and with {} for each value."""
    written = [entry for path in sorted(WORDS.glob(name)) for entry in ENTRY.findall(path.read_text(encoding="utf-8"))]
    found = [entry if entry.isidentifier() else ast.literal_eval(entry) for entry in written]
    return [(english, re.sub(r"\{\w+\}", VALUE, english)) for english in found]


SOURCES = [source for folder in ("dit_impl", "nodes") for path in sorted((ROOT / folder).rglob("*.py"))
           if not (source := Source(path)).name.startswith(tuple(NOT_IN_THE_EDITOR))]
RAISED = list(dict.fromkeys((f"{source.name}:{line}", text) for source in SOURCES for line, text in source.raised() if is_words(text)))


def test_every_error_has_its_chinese():
    known = {text for _, text in entries("errors_of_*.js")}
    lacking = [f"{place}: no Chinese in web/zh for {text!r}" for place, text in RAISED if text not in known]
    assert not lacking, "\n".join(lacking)


def test_an_error_has_one_place_in_chinese():
    texts = [text for _, text in entries("errors_of_*.js")]
    assert [text for text in set(texts) if texts.count(text) > 1] == []


@pytest.mark.parametrize("table", [reading.WORDS, regions.NOT_TAKEN], ids=["what a value is", "what a conditioning carries"])
def test_words_that_a_table_puts_into_errors_have_their_chinese(table):
    known = {text for _, text in entries("phrases.js")}
    assert {re.sub(r"\{\w+\}", VALUE, text) for text in table.values()} - {"a list"} <= known  # which says of what


def test_no_chinese_is_left_of_an_error_that_is_gone():
    raised = {text for _, text in RAISED}
    stale = [f"web/zh: no error says {english!r}" for english, text in entries("errors_of_*.js") if text not in raised]
    assert not stale, "\n".join(stale)


def test_no_chinese_is_left_of_words_that_are_gone():
    said = "\n".join(text for source in SOURCES for text in source.said())
    stale = [f"web/zh/phrases.js: nothing says {english!r}" for english, text in entries("phrases.js")
             if not all(part.strip() in said for part in text.split(VALUE))]
    assert not stale, "\n".join(stale)

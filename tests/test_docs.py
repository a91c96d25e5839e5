"""Help pages and the Chinese locale say what the nodes' schemas say: every node, every socket, nothing that is not there."""

import re

from measures import benchmark
from node_needs import DOCS, INFO, LANGUAGES, LOCALE, ROOT, WITH_PAGES, WITH_WORDS, page, read
import pytest

PAGES = [(name, language) for name in WITH_PAGES for language in LANGUAGES]
SPECIAL = set("{}@|")  # of vue-i18n's message format, which takes them for placeholders, links and plurals


def inputs(info: dict) -> dict[str, dict]:
    """Input → its options, without what ComfyUI fills in itself."""
    return {name: spec[1] for kind in ("required", "optional") for name, spec in info["input"].get(kind, {}).items()}


def section(text: str, title: str) -> str:
    """What stands below a heading, as far as the next."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def translated(name: str) -> dict:
    return read(LOCALE / "nodeDefs.json")[name]


@pytest.mark.parametrize("name, language", PAGES)
def test_every_node_has_a_page_of_its_name_and_a_fit_length(name, language):
    text = read(page(name, language))
    if language == "en" or name in WITH_WORDS:
        title = INFO[name]["display_name"] if language == "en" else translated(name)["display_name"]
        assert text.startswith(f"# {title}\n")
    assert 20 <= len(text.splitlines()) <= 90


@pytest.mark.parametrize("name, language", PAGES)
def test_a_page_names_every_input_and_output_and_no_other(name, language):
    text = read(page(name, language))
    for title, sockets in zip(LANGUAGES[language], (inputs(INFO[name]), INFO[name]["output_name"])):
        # "- `width`, `height` (optional): …": the names are what stands in code before the colon
        heads = re.findall(r"^- (`.*?)[:：]", section(text, title), re.MULTILINE)
        assert sorted(named for head in heads for named in re.findall(r"`([^`]+)`", head)) == sorted(sockets)


@pytest.mark.parametrize("name", [name for name in WITH_PAGES if name in WITH_WORDS])
def test_a_chinese_page_gives_sockets_the_names_they_have_on_the_node(name):
    text, known = read(page(name, "zh")), translated(name)
    named = [(socket, known["inputs"][socket]["name"]) for socket in inputs(INFO[name])]
    named += [(socket, known["outputs"][str(i)]["name"]) for i, socket in enumerate(INFO[name]["output_name"])]
    for socket, chinese in named:
        assert socket == chinese or f"`{socket}`（{chinese}" in text


@pytest.mark.parametrize("name, language", PAGES)
def test_pages_show_pictures_that_exist_and_link_nowhere_else_inside(name, language):
    text = read(page(name, language))
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:  # the front end puts the address of web/docs before them, whatever the language
        path = DOCS / picture
        assert picture.startswith("pictures/") and path.is_file() and path.stat().st_size <= 40 * 1024
    for link in re.findall(r"(?<!\!)\[[^\]]+\]\(([^)]+)\)", text):  # others it leaves as they are
        assert link.startswith("https://")


def test_every_picture_is_shown():
    shown = {picture for name, language in PAGES for picture in re.findall(r"\(pictures/([^)]+)\)", read(page(name, language)))}
    assert shown == {path.name for path in (DOCS / "pictures").iterdir()}


@pytest.mark.parametrize("name, language", PAGES)
def test_every_example_and_file_that_a_page_names_exists(name, language):
    text = read(page(name, language))
    sockets = {socket for info in INFO.values() for socket in (*inputs(info), *info["output_name"])}
    options = {str(option) for info in INFO.values() for spec in inputs(info).values() for option in spec.get("options", ())}
    for word in set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", section(text, "Example" if language == "en" else "示例"))):
        assert word in sockets | options or (ROOT / "example_workflows" / f"{word}.json").is_file(), word
    for path in re.findall(r"`((?:dit_impl|nodes)/[\w./]+|models/embedded/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_there_is_no_page_of_a_node_that_is_gone():
    pages = {path for path in DOCS.rglob("*.md")}
    assert not pages - {page(name, language) for name in INFO for language in LANGUAGES}


def test_figures_are_those_of_the_results():
    patch_size = benchmark("patch_size")
    results = patch_size.FIGURES.search(read(ROOT / "benchmarks" / "RESULTS.md"))[0]
    cells = [re.split(r" *\| *", row)[1:6] for row in re.findall(r"^\| \d.*$", results, re.M)]
    rows = [{"name": name, "accuracy": float(right[:-1]) / 100, "flops": float(flops[:-1]) / 100, "seconds": float(seconds[:-1]) / 100,
             "decibels": None if decibels == "—" else decibels} for name, right, flops, seconds, decibels in cells]
    assert [row["name"] for row in rows] == patch_size.ROWS.split("\n")
    texts = [read(ROOT / name) for name in patch_size.PAGES]
    assert [patch_size.rewritten(text, rows, 300) for text in texts] == texts
    others = [{**row, "accuracy": 0.01, "decibels": 1.5} for row in rows]
    for text in texts:  # every figure that is shown would be written anew
        block = patch_size.FIGURES.search(patch_size.rewritten(text, others, 7))[0]
        shown = re.findall(r"^\| \d.*$", block, re.M)
        assert len(shown) >= 7 and all(" | 1% | " in row and row.endswith(" | 1.5 |") for row in shown)
        assert "300" not in block and "--prompts 7`" in block


def test_each_way_stands_beside_fewer_steps_at_its_seconds():
    patch_size = benchmark("patch_size")

    def row(name, accuracy, seconds):
        return {"name": name, "prompts": 100, "accuracy": accuracy, "interval": patch_size.interval(accuracy, 100), "flops": seconds, "seconds": seconds,
                "decibels": 30.0}
    rows = [row("2", 0.98, 1.0), row("4", 0.99, 0.27), row("cache 0.2", 0.7, 0.62), row("skip 3", 0.97, 0.84), row("10 steps", 0.96, 0.6),
            row("5 steps", 0.8, 0.25)]
    assert [(one and one["name"]) for one in (patch_size.control_of(each, rows) for each in rows)] == [None, "5 steps", "10 steps", "2", None, None]
    text = read(ROOT / "benchmarks" / "RESULTS.md")
    written = patch_size.rewritten(text, rows + [row(name, 0.5, 0.5) for name in patch_size.ROWS.split("\n")[2:]], 100)
    block = patch_size.WAYS_FIGURES.search(written)[0]
    assert "| 4 | 99.0% (95%–100%) | 27% | 27% | 30.0 | 5 steps | 25% | 80.0% (71%–87%) | 30.0 |" in block and "| skip 3 |" in block
    assert "**More right than fewer steps at the same seconds:** `4`." in block and "fewer steps win:** `cache 0.2`" in block
    assert "at no more than 30% of its FLOPs and 35% of its time:** `4`." in block
    slower, less_right = ([{**one, **({name: value} if one["name"] == "4" else {})} for one in rows] for name, value in (("seconds", 0.36), ("accuracy", 0.969)))
    assert all("35% of its time:** none." in patch_size.beside_controls(others) for others in (slower, less_right))
    assert written.count("<!-- end of figures -->") == text.count("<!-- end of figures -->") == 3
    assert patch_size.rewritten(text, rows[:1] + [row(name, 0.5, 0.5) for name in patch_size.ROWS.split("\n")[1:]], 100).count("ways figures") == 1
    low, high = patch_size.interval(0.5, 100)
    assert round(low, 3) == 0.404 and round(high, 3) == 0.596 and patch_size.interval(1.0, 20)[1] > 0.999
    labels = [way.label for way in patch_size.parse_ways(f"{patch_size.ROWS}\n{patch_size.WAYS}\n{patch_size.CONTROLS}")]
    assert len(labels) == len(set(labels)) and labels[0] == "2"


GUIDES = [ROOT / name for name in ("README.md", "README.zh.md", *(f"docs/{zh}{name}.md" for zh in ("", "zh/")
                                                                  for name in ("nodes", "workflows", "training", "command")))]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_the_guides_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)]+)\)", read(path)):
        if not link.startswith("https://"):
            there, _, heading = link.partition("#")
            target = (path.parent / there).resolve() if there else path
            assert target.exists(), link
            # GitHub's anchors: lower case, blanks as hyphens, no punctuation
            titles = re.findall(r"^#+ (.*)$", read(target), re.M) if heading else []
            assert not heading or heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("language", ["", "zh/"])
def test_the_guides_name_every_node_and_every_workflow(language):
    nodes, workflows = (read(ROOT / f"docs/{language}{name}.md") for name in ("nodes", "workflows"))
    assert [info["display_name"] for info in INFO.values() if f"**{info['display_name']}**" not in " ".join(nodes.split())] == []
    assert {path.stem for path in (ROOT / "example_workflows").glob("*.json")} == {
        name for row in re.findall(r"^\| (`.*?) \|", workflows, re.M) for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("name", INFO)
def test_every_input_and_output_has_a_tooltip(name):
    info = INFO[name]
    assert info["description"]
    assert [socket for socket, options in inputs(info).items() if not options.get("tooltip")] == []
    assert all(info["output_tooltips"] or []) and len(info["output_tooltips"] or []) == len(info["output"])


def test_the_locale_names_the_nodes_that_there_are():
    assert list(read(LOCALE / "nodeDefs.json")) == [name for name in INFO if name in read(LOCALE / "nodeDefs.json")]  # in the order of the menu


@pytest.mark.parametrize("name", WITH_WORDS)
def test_the_locale_names_every_input_and_output_and_no_other(name):
    info, known = INFO[name], translated(name)
    assert known["display_name"].startswith(info["display_name"]) and known["description"]
    # ComfyUI's key for a name has _ for every dot
    assert list(known.get("inputs", {})) == [socket.replace(".", "_") for socket in inputs(info)]
    assert list(known.get("outputs", {})) == [str(i) for i in range(len(info["output"]))]
    for entry in (*known.get("inputs", {}).values(), *known.get("outputs", {}).values()):
        assert set(entry) == {"name", "tooltip"} and all(entry.values())


def test_the_locale_names_no_category_that_is_gone():
    main = read(LOCALE / "main.json")
    assert set(main) == {"nodeCategories"}
    assert set(main["nodeCategories"]) <= {part for info in INFO.values() for part in info["category"].split("/")}
    assert not any("/" in label for label in main["nodeCategories"].values())


@pytest.mark.parametrize("path", sorted(LOCALE.glob("*.json")), ids=lambda path: path.name)
def test_the_locale_is_plain_text(path):
    def texts(value) -> list[str]:
        return [value] if isinstance(value, str) else [text for inner in value.values() for text in texts(inner)]
    assert [text for text in texts(read(path)) if SPECIAL & set(text)] == []


def notes(path) -> list[dict]:
    """The notes of an example, by language: web/notes.js shows the editor's."""
    found = [node for node in read(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert all(node["widgets_values"] == [node["properties"]["texts"]["en"]] for node in found)
    return [node["properties"]["texts"] for node in found]


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_notes_lead_to_examples_that_there_are(path):
    led = {name for note in notes(path) for said in note.values() for name in re.findall(r"\(/\?template=(\w+)&source=dit-blocks\)", said)}
    assert not led - {one.stem for one in path.parent.glob("*.json")}
    assert led or not path.stem.startswith("learn_")


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_notes_have_no_code_spans(path):
    """The front end writes them dark on dark."""
    assert [said for note in notes(path) for said in note.values() if "`" in said] == []


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("learn_*.json")), ids=lambda path: path.stem)
def test_a_lesson_names_nodes_in_chinese_as_the_menu_does(path):
    """A node that the English note names is in the Chinese note, by its Chinese name or the English one."""
    (note,) = notes(path)
    english, chinese = note["en"], note["zh"]
    shown = {name: (info["display_name"].removesuffix(" (DiT)"), translated(name)["display_name"]) for name, info in INFO.items() if name in WITH_WORDS}
    named = [pair for pair in shown.values() if f"**{pair[0]}**" in english]
    for own, theirs in named:
        words = re.fullmatch(r".*?(?:（(.*)）)?", theirs)[1] or own
        assert words in chinese or own in chinese, (own, words)

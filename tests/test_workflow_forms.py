"""The forms in which people share and keep workflows, and those that are meant to do harm."""

import copy
import io
import json
from pathlib import Path
import random

from PIL import Image, PngImagePlugin
import pytest

import dit_blocks
from dit_blocks.standalone import pack
from dit_blocks.standalone.errors import WorkflowError
from dit_blocks.standalone.graph_to_prompt import MOST_NODES
from dit_blocks.standalone.node_types import NodeType
from dit_blocks.standalone.texts import as_javascript, choose_wording
from dit_blocks.standalone.validate import check
from dit_blocks.standalone.workflow import override, parse_workflow, read_workflow

ROOT = Path(dit_blocks.__file__).parent
TYPES = {name: NodeType(name, cls) for name, cls in pack.load().items()}
EXAMPLE = json.loads((ROOT / "example_workflows" / "text_to_image.json").read_text(encoding="utf-8"))
PROMPT = parse_workflow(EXAMPLE, TYPES).prompt


def read(path: Path, data: bytes) -> dict:
    path.write_bytes(data)
    return read_workflow(path, TYPES).prompt


def picture(format: str = "PNG", **texts: str) -> bytes:
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    exif = Image.Exif()
    if format == "WEBP":  # as core's nodes that save WebP
        for tag, (name, text) in zip((0x010F, 0x0110), texts.items()):
            exif[tag] = f"{name}:{text}"
    Image.new("RGB", (8, 8)).save(file, format, **({"pnginfo": info} if format == "PNG" else {"exif": exif}))
    return file.getvalue()


# --- encodings, wrappers, pictures ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_unicode_with_or_without_a_byte_order_mark(tmp_path, encoding):
    for form in (EXAMPLE, PROMPT):
        assert read(tmp_path / "x.json", json.dumps(form, ensure_ascii=False).encode(encoding)) == PROMPT


def test_what_is_posted_to_a_server(tmp_path):
    posted = {"client_id": "x", "prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": EXAMPLE}}}
    assert read(tmp_path / "x.json", json.dumps(posted).encode()) == PROMPT


def test_a_node_may_have_the_id_prompt():
    assert parse_workflow({"prompt": {"class_type": "T", "inputs": {}}}, {}).prompt == {"prompt": {"class_type": "T", "inputs": {}}}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_picture_that_carries_a_workflow(tmp_path, format):
    assert read(tmp_path / "x.png", picture(format, prompt=json.dumps(PROMPT))) == PROMPT
    assert read(tmp_path / "x.png", picture(format, prompt='{"1": {"class_type": "no"}}', workflow=json.dumps(EXAMPLE))) == PROMPT


@pytest.mark.parametrize("data, why", [
    (picture(), "this picture carries no workflow"), (picture()[:45], "not a picture that can be read"),
    (picture(prompt="[" * 10), "not a workflow"), (b"\xff\xfe{", "not a workflow"), (b"\xef\xbb\xbf", "not a workflow"),
    (b"[" * 100_000, "nested too deeply"), (b'{"1": {"class_type": "T", "inputs": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}}", "nested too deeply"),
    (json.dumps({"1": {"class_type": "T"}}).encode()[:-1] + b', "1": {"class_type": "U"}}', "two nodes have the id '1'")])
def test_what_is_none_is_one_line(tmp_path, data, why):
    with pytest.raises(WorkflowError, match=why) as error:
        read(tmp_path / "x.json", data)
    assert str(tmp_path / "x.json") in str(error.value)


# --- graphs that the front end saves ------------------------------------------------------------------------------------------------------

def graph(*nodes: dict, links=(), **more) -> dict:
    return {"nodes": list(nodes), "links": [list(link) for link in links], **more}


def node(id, type: str, inputs=(), outputs=(), **more) -> dict:
    return {"id": id, "type": type, "inputs": [{"name": name, "type": kind, "link": link} for name, kind, link in inputs],
            "outputs": [{"name": kind, "type": kind} for kind in outputs], **more}


def test_two_nodes_of_one_id_are_refused():
    twice = graph(node(1, "LoadImage"), node("1", "LoadImage"))
    for saved in (twice, graph(definitions={"subgraphs": [{"id": "u", "name": "S", **twice}]})):
        with pytest.raises(WorkflowError, match=r"nodes\[1\] has an id of its own, this is \"1\""):
            parse_workflow(saved, TYPES)


def reroutes(count: int) -> dict:
    chain = [node(at, "Reroute", [("", "*", at - 1)], ["*"]) for at in range(2, count + 2)]
    return graph(node(1, "LoadImage", outputs=["IMAGE", "MASK"], widgets_values=["example.png", "image"]), *chain,
                 node(count + 2, "PreviewImage", [("images", "IMAGE", count + 1)]),
                 links=[(at, at, 0, at + 1, 0, "IMAGE") for at in range(1, count + 2)])


def test_many_reroutes_in_a_row_are_no_circle():
    assert parse_workflow(reroutes(3000), TYPES).prompt["3002"]["inputs"] == {"images": ["1", 0]}


def test_reroutes_in_a_circle_are_one():
    saved = reroutes(5)
    saved["links"][0] = [1, 6, 0, 2, 0, "IMAGE"]
    with pytest.raises(WorkflowError, match="circle at node"):
        parse_workflow(saved, TYPES)


def subgraph(id: str, inner: str, times: int) -> dict:
    return {"id": id, "name": id, "inputs": [], "outputs": [], **graph(*(node(at, inner) for at in range(1, times + 1)))}


def test_subgraphs_that_hold_the_next_twice_are_counted_before_they_are_made():
    levels = [subgraph(f"s{at}", f"s{at + 1}" if at < 40 else "LoadImage", 2) for at in range(41)]
    with pytest.raises(WorkflowError, match=f"it has [0-9]+ nodes, counting each subgraph as often as it is used; the most is {MOST_NODES}"):
        parse_workflow(graph(node(1, "s0"), definitions={"subgraphs": levels}), TYPES)
    few = [subgraph(f"s{at}", f"s{at + 1}" if at < 9 else "LoadImage", 2) for at in range(10)]
    assert len(parse_workflow(graph(node(1, "s0"), definitions={"subgraphs": few}), TYPES).prompt) == 2 ** 10


@pytest.mark.parametrize("inner", ["s0", "s1"])
def test_a_subgraph_that_holds_itself(inner):
    with pytest.raises(WorkflowError, match="subgraph 's[01]' contains itself"):
        parse_workflow(graph(node(1, "s0"), definitions={"subgraphs": [subgraph("s0", "s1", 1), subgraph("s1", inner, 1)]}), TYPES)


def test_subgraphs_nested_deep_may_be_used(tmp_path):
    levels = [subgraph(f"s{at}", f"s{at + 1}" if at < 59 else "LoadImage", 1) for at in range(60)]
    assert len(parse_workflow(graph(node(1, "s0"), definitions={"subgraphs": levels}), TYPES).prompt) == 1


@pytest.mark.parametrize("links, why", [
    ([], "input 'images' is wired to link 7, which does not exist"),
    ([(7, 99, 0, 2, 0, "IMAGE")], "input 'images' is wired to link 7, which does not exist")])
def test_a_broken_link_is_said_to_be_one(links, why):
    saved = graph(node(2, "PreviewImage", [("images", "IMAGE", 7)]), links=links)
    with pytest.raises(WorkflowError, match=why):
        check(parse_workflow(saved, TYPES).prompt, TYPES)


def test_a_broken_link_into_an_optional_input_is_none():
    saved = copy.deepcopy(EXAMPLE)
    denoise = next(node for node in saved["nodes"] if node["type"] == "DiTBlocksDenoise")
    link = next(socket["link"] for socket in denoise["inputs"] if socket["name"] == "negative")
    saved["links"] = [one for one in saved["links"] if one[0] != link]
    assert "negative" not in parse_workflow(saved, TYPES).prompt[str(denoise["id"])]["inputs"]


# --- values -----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value", ["a", 7, {"x": 1}, True, 0.5])
def test_a_value_in_place_of_a_wire(value):
    prompt = copy.deepcopy(PROMPT)
    id, decode = next((id, node) for id, node in prompt.items() if node["class_type"] == "DiTBlocksVAEDecode")
    decode["inputs"]["vae"] = value
    with pytest.raises(WorkflowError, match=rf"node {id} \(DiTBlocksVAEDecode.*: vae takes a wire of VAE, not the value "):
        check(prompt, TYPES)


def test_nothing_in_place_of_a_wire_is_a_missing_wire():
    prompt = copy.deepcopy(PROMPT)
    decode = next(node for node in prompt.values() if node["class_type"] == "DiTBlocksVAEDecode")
    decode["inputs"]["vae"] = None
    with pytest.raises(WorkflowError, match="input 'vae' is required, but missing"):
        check(prompt, TYPES)


def test_titles_that_are_no_texts():
    prompt = copy.deepcopy(PROMPT)
    for node in prompt.values():
        node["_meta"] = {"title": 5}
    with pytest.raises(WorkflowError, match="no node 'x'; there are "):
        override(parse_workflow(prompt, TYPES), "x.y=1", TYPES)


# --- texts ------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, plain", [
    ("a /* b */ c", "a  c"), ("a // b\nc", "a \nc"), ("/*/ a */ b", " b"), ("/* a // b */ c", " c"), ("// a /* b\nc */ d", "\nc */ d"),
    ("a /* b // c", "a /* b "), ("http://x\ny", "http:\ny"), ("/**/x/*/", "x/*/"), ("a /", "a /"), ("//", "")])
def test_comments(text, plain):
    assert choose_wording(text, random.Random(0)) == plain


@pytest.mark.parametrize("text", ["/*a" * 20_000, "{" * 20_000, "{a|" * 20_000 + "}" * 20_000, "//" * 20_000, "/*" * 20_000 + "//" * 10_000])
def test_texts_of_many_open_brackets(text):
    assert isinstance(choose_wording(text, random.Random(0)), str)


def test_wordings():
    seen = {choose_wording(r"a {b|c {d|e}} \{f\|g\} h|i }", random.Random(seed)) for seed in range(50)}
    assert seen == {r"a b {f|g} h|i }", r"a c d {f|g} h|i }", r"a c e {f|g} h|i }"}


@pytest.mark.parametrize("value, written", [
    (1, "1"), (1.0, "1"), (-0.0, "0"), (0.1, "0.1"), (1e-6, "0.000001"), (1.5e-7, "1.5e-7"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
    (1.25e25, "1.25e+25"), (-123.456, "-123.456"), (0.00012, "0.00012"), (True, "true"), (None, ""), ("a", "a"), ([1, "b", None], "1,b,"),
    (2 ** 53, "9007199254740992"), (123456789.125, "123456789.125")])
def test_values_as_a_page_writes_them(value, written):
    assert as_javascript(value) == written


def test_file_names_are_filled_in_as_the_front_end_does():
    saved = copy.deepcopy(EXAMPLE)
    save = next(node for node in saved["nodes"] if node["type"] == "SaveImage")
    save["widgets_values"] = ["%DiTBlocksDenoise.cfg%_%DiTBlocksAddNoise.seed%_%no.node%_%DiTBlocksDenoise.no%_%a%"]
    assert parse_workflow(saved, TYPES).prompt[str(save["id"])]["inputs"]["filename_prefix"] == "2_7_%no.node%_%DiTBlocksDenoise.no%_%a%"


# --- group nodes --------------------------------------------------------------------------------------------------------------------------

def grouped(*inner: dict, instance: dict, links=(), external=(), config=None) -> dict:
    """The example with its two prompts inside one group node, or other nodes there."""
    saved = copy.deepcopy(EXAMPLE)
    prompts = [node["id"] for node in saved["nodes"] if node["type"] == "CLIPTextEncode"]
    saved["nodes"] = [node for node in saved["nodes"] if node["id"] not in prompts] + [{"id": 90, "type": "workflow>Prompts", **instance}]
    incoming = iter(range(len(prompts)))
    for link in saved["links"]:
        if link[3] in prompts:
            link[3:5] = [90, next(incoming)]
        if link[1] in prompts:
            link[1:3] = [90, prompts.index(link[1])]
    for socket, link in zip(instance["inputs"], [link for link in saved["links"] if link[3] == 90]):
        socket["link"] = link[0]
    group = {"nodes": [*inner], "links": [list(link) for link in links], "external": [list(one) for one in external], "config": config or {}}
    saved["extra"] = {"groupNodes": {"Prompts": group}}
    return saved


def encode(text: str, title: str) -> dict:
    return {"type": "CLIPTextEncode", "title": title, "inputs": [{"name": "clip", "type": "CLIP", "link": None}],
            "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}], "widgets_values": [text]}


TWO_CLIPS = {"inputs": [{"name": "clip", "type": "CLIP"}, {"name": "CLIPTextEncode clip", "type": "CLIP"}]}
OUT = [[0, 0, "CONDITIONING"], [1, 0, "CONDITIONING"]]


def texts(prompt: dict) -> dict[str, str]:
    return {id: node["inputs"]["text"] for id, node in prompt.items() if node["class_type"] == "CLIPTextEncode"}


def test_a_group_node_is_its_nodes_with_the_instances_values():
    saved = grouped(encode("old", "Prompt"), encode("old", "Negative"), instance={**TWO_CLIPS, "widgets_values": ["a red circle", "a cross"]},
                    external=OUT)
    workflow = parse_workflow(saved, TYPES)
    assert texts(workflow.prompt) == {"90:0": "a red circle", "90:1": "a cross"}
    denoise = next(node for node in workflow.prompt.values() if node["class_type"] == "DiTBlocksDenoise")
    assert (denoise["inputs"]["positive"], denoise["inputs"]["negative"]) == (["90:0", 0], ["90:1", 0])
    assert all(workflow.prompt[id]["inputs"]["clip"] == next(n for n in PROMPT.values() if n["class_type"] == "CLIPTextEncode")["inputs"]["clip"]
               for id in ("90:0", "90:1"))
    check(workflow.prompt, TYPES)


def test_the_workflow_that_a_picture_carries_keeps_its_group_node():
    saved = grouped(encode("old", "Prompt"), encode("old", "Negative"), instance={**TWO_CLIPS, "widgets_values": ["a", "b"]}, external=OUT)
    workflow = parse_workflow(saved, TYPES)
    override(workflow, "Negative.text=a ring", TYPES)
    assert texts(workflow.prompt) == {"90:0": "a", "90:1": "a ring"}
    kept = next(node for node in workflow.saved["nodes"] if node["id"] == 90)
    assert kept["type"] == "workflow>Prompts" and kept["widgets_values"] == ["a", "a ring"]
    assert workflow.saved["extra"]["groupNodes"]["Prompts"]["nodes"][1]["widgets_values"] == ["old"]


def test_links_inside_a_group_node():
    """A primitive node inside gives the text of both; what is wired inside is no input of the group."""
    primitive = {"type": "PrimitiveNode", "title": "Both", "outputs": [{"name": "STRING", "type": "STRING"}], "widgets_values": ["old"]}
    both = [encode("x", "Prompt"), encode("y", "Negative")]
    for one in both:
        one["inputs"].append({"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}})
    saved = grouped(*both, primitive, instance={**TWO_CLIPS, "widgets_values": ["a triangle"]},
                    links=[(2, 0, 0, 1, 5, "STRING"), (2, 0, 1, 1, 5, "STRING")], external=OUT)
    assert texts(parse_workflow(saved, TYPES).prompt) == {"90:0": "a triangle", "90:1": "a triangle"}


def test_a_widget_of_a_group_node_that_is_wired_outside():
    instance = {"inputs": [*copy.deepcopy(TWO_CLIPS["inputs"]), {"name": "Negative text", "type": "STRING", "widget": {"name": "Negative text"}}],
                "widgets_values": ["a", "b"]}
    saved = grouped(encode("x", "Prompt"), encode("y", "Negative"), instance=instance, external=OUT)
    saved["nodes"].append({"id": 91, "type": "PrimitiveNode", "outputs": [{"name": "STRING", "type": "STRING"}], "widgets_values": ["a square"]})
    saved["links"].append([900, 91, 0, 90, 2, "STRING"])
    next(node for node in saved["nodes"] if node["id"] == 90)["inputs"][2]["link"] = 900
    assert texts(parse_workflow(saved, TYPES).prompt) == {"90:0": "a", "90:1": "a square"}

"""The stand-in for comfy_api and the core nodes say of themselves what real ComfyUI says (0.33)."""

import json
from pathlib import Path
import runpy

import pytest

from dit_blocks.standalone import comfy_api_standin, core_nodes
from dit_blocks.standalone.folders import Folders, use
from dit_blocks.standalone.node_types import NodeType

comfy_api_standin.install()
DUMMIES = {cls.GET_SCHEMA().node_id: cls
           for cls in runpy.run_path(str(Path(__file__).with_name("standalone_nodes.py")))["NODES"]}
io = comfy_api_standin.io

KITCHEN = json.loads("""{
 "input": {"required": {
   "seed": ["INT", {"tooltip": "the seed", "default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": true}],
   "n": ["INT", {"display_name": "N", "advanced": true, "default": 1, "min": 0, "max": 10, "step": 2, "display": "slider"}],
   "scale": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.01, "round": 0.001}],
   "mode": ["COMBO", {"default": "a", "multiselect": false, "options": ["a", "b"]}],
   "seedmode": ["COMBO", {"multiselect": false, "options": ["x", "y"], "control_after_generate": "increment"}],
   "text": ["STRING", {"multiline": true, "placeholder": "type", "dynamicPrompts": true}],
   "line": ["STRING", {"default": "", "multiline": false}],
   "flag": ["BOOLEAN", {"default": false, "label_on": "yes", "label_off": "no"}]},
  "optional": {
   "model": ["MODEL", {"tooltip": "a model"}], "dit": ["DIT", {}],
   "forced": ["FLOAT", {"default": 1.0, "forceInput": true}], "sockless": ["INT", {"default": 3, "socketless": true}],
   "lazy": ["INT", {"lazy": true, "my_key": 1, "default": 3}], "multi": ["INT,FLOAT", {}], "any": ["*", {}]},
  "hidden": {"unique_id": ["UNIQUE_ID"], "prompt": ["PROMPT"], "extra_pnginfo": ["EXTRA_PNGINFO"], "dynprompt": ["DYNPROMPT"]}},
 "input_order": {"required": ["seed", "n", "scale", "mode", "seedmode", "text", "line", "flag"],
  "optional": ["model", "dit", "forced", "sockless", "lazy", "multi", "any"],
  "hidden": ["unique_id", "prompt", "extra_pnginfo", "dynprompt"]},
 "is_input_list": false, "output": ["IMAGE", "DIT", "INT"], "output_is_list": [false, false, true],
 "output_name": ["IMAGE", "DiT", "ints"], "output_tooltips": [null, "tt", null], "output_matchtypes": null,
 "name": "T_Kitchen", "display_name": "Kitchen sink", "description": "desc", "python_module": "custom_nodes.dummy-pack",
 "category": "dummy/a", "output_node": false, "deprecated": false, "experimental": true, "dev_only": false,
 "api_node": false, "price_badge": null, "search_aliases": ["ks"], "essentials_category": "Basic",
 "has_intermediate_output": false}""")

CORE = json.loads("""{
 "LoadImage": {"input": {"required": {"image": [["example.png"], {"image_upload": true}]}},
  "input_order": {"required": ["image"]}, "output": ["IMAGE", "MASK"], "output_is_list": [false, false],
  "output_name": ["IMAGE", "MASK"], "display_name": "Load Image", "category": "image", "output_node": false,
  "essentials_category": "Basics"},
 "SaveImage": {"input_order": {"required": ["images", "filename_prefix"], "hidden": ["prompt", "extra_pnginfo"]},
  "output": ["IMAGE"], "output_is_list": [false], "output_name": ["images"], "display_name": "Save Image",
  "category": "image", "output_node": true, "essentials_category": "Basics"},
 "PreviewImage": {"input": {"required": {"images": ["IMAGE"]},
  "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}, "output": ["IMAGE"], "output_name": ["images"],
  "display_name": "Preview Image", "category": "image", "output_node": true, "essentials_category": "Basics"},
 "CLIPTextEncode": {"input": {"required": {
  "text": ["STRING", {"multiline": true, "dynamicPrompts": true, "tooltip": "The text to be encoded."}],
  "clip": ["CLIP", {"tooltip": "The CLIP model used for encoding the text."}]}}, "output": ["CONDITIONING"],
  "display_name": "CLIP Text Encode (Prompt)", "category": "model/conditioning", "output_node": false},
 "VAEEncode": {"input": {"required": {"pixels": ["IMAGE"], "vae": ["VAE"]}}, "output": ["LATENT"],
  "display_name": "VAE Encode", "description": "", "category": "model/latent"},
 "VAEDecode": {"input_order": {"required": ["samples", "vae"]}, "output": ["IMAGE"], "display_name": "VAE Decode",
  "output_tooltips": ["The decoded image."], "category": "model/latent"},
 "EmptyLatentImage": {"input": {"required": {
  "width": ["INT", {"default": 512, "min": 16, "max": 16384, "step": 8, "tooltip": "The width of the latent images in pixels."}],
  "height": ["INT", {"default": 512, "min": 16, "max": 16384, "step": 8, "tooltip": "The height of the latent images in pixels."}],
  "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "The number of latent images in the batch."}]}},
  "output": ["LATENT"], "display_name": "Empty Latent Image", "category": "model/latent"}}""")


def test_every_kind_of_input_is_described_as_comfyui_does():
    info = NodeType("T_Kitchen", DUMMIES["T_Kitchen"]).info()
    assert info | {"python_module": ""} == KITCHEN | {"python_module": ""}
    assert [list(names) for names in info["input"].values()] == [list(names) for names in KITCHEN["input"].values()]


@pytest.mark.parametrize("name", CORE)
def test_core_nodes_are_described_as_comfyui_does(name, tmp_path):
    with use(Folders(tmp_path, tmp_path)):
        info = NodeType(name, core_nodes.NODES[name]).info()
    assert {key: info[key] for key in CORE[name]} == CORE[name]
    assert info["name"] == name and info["is_input_list"] is False and info["search_aliases"]


def test_an_unknown_parameter_is_refused_as_comfyui_does():
    with pytest.raises(TypeError, match="maximum"):
        io.Int.Input("a", maximum=3)


def test_two_inputs_of_one_name_are_refused():
    with pytest.raises(ValueError, match="unique"):
        io.Schema("X", inputs=[io.Int.Input("a"), io.Float.Input("a")]).finalize()


def test_a_widget_may_take_several_types():
    both = io.MultiType.Input(io.Float.Input("x", default=0.5, tooltip="t"), [io.Int, io.Float])
    assert both.get_io_type() == "FLOAT,INT"
    assert both.as_dict() == {"default": 0.5, "tooltip": "t", "widgetType": "FLOAT"}


def test_choices_of_an_enum_and_uploads():
    class Colour(io.Enum):
        red = "r"
        blue = "b"

    choice = io.Combo.Input("c", Colour, default=Colour.blue, upload=io.UploadType.image, image_folder=io.FolderType.input)
    assert choice.as_dict() == {"multiselect": False, "options": ["r", "b"], "default": "b", "image_upload": True,
                                "image_folder": "input"}


def test_every_node_says_the_same_twice():
    for name, cls in DUMMIES.items():
        assert NodeType(name, cls).info() == NodeType(name, cls).info()

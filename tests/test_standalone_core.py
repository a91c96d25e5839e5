"""Core's picture nodes: files in and out, names, what a PNG carries, and files that are no picture."""

import json

import numpy as np
from PIL import Image
import pytest
import torch

from dit_blocks.standalone import comfy_api_standin
from dit_blocks.standalone.core_nodes import NODES as CORE
from dit_blocks.standalone.errors import NodeError, WorkflowError
from dit_blocks.standalone.executor import Executor
from dit_blocks.standalone.folders import Folders, use
from dit_blocks.standalone.images import load_picture, save_pngs

comfy_api_standin.install()
from comfy_api.v0_0_2 import io, ui  # noqa: E402  (importable once the stand-in is installed)


@pytest.fixture
def folders(tmp_path):
    made = Folders(*(tmp_path / name for name in ("in", "out", "temp")))
    made.input.mkdir()
    return made


def load_and_save(name, **save):
    return {"1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"} | save}}


def picture(width=5, height=3, mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8), mode)


def test_a_picture_comes_back_as_it_was(folders):
    picture().save(folders.input / "x.png")
    report = Executor(CORE, folders).run(load_and_save("x.png"), {"workflow": {"nodes": []}})
    assert report.ui["2"]["images"] == [{"filename": "p_00001_.png", "subfolder": "", "type": "output"}]
    with Image.open(folders.output / "p_00001_.png") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(picture()))
        assert json.loads(saved.text["prompt"]) == load_and_save("x.png")
        assert json.loads(saved.text["workflow"]) == {"nodes": []}


def test_the_mask_is_what_alpha_hides(tmp_path):
    picture(mode="RGBA").save(tmp_path / "a.png")
    pixels, mask = load_picture(tmp_path / "a.png")
    expected = torch.from_numpy(np.asarray(picture(mode="RGBA"), dtype=np.float32) / 255)
    assert torch.equal(pixels[0], expected[..., :3]) and torch.equal(mask[0], 1 - expected[..., 3])
    picture().save(tmp_path / "b.png")
    assert torch.equal(load_picture(tmp_path / "b.png")[1], torch.zeros(1, 64, 64))


@pytest.mark.parametrize("mode, value, expected", [("L", 51, 0.2), ("1", 1, 1.0), ("I;16", 13107, 0.2)])
def test_grey_pictures_become_colour(mode, value, expected, tmp_path):
    Image.new(mode, (4, 2), value).save(tmp_path / "x.png")
    pixels, _ = load_picture(tmp_path / "x.png")
    assert pixels.shape == (1, 2, 4, 3) and pixels.dtype == torch.float32
    assert torch.allclose(pixels, torch.full_like(pixels, expected), atol=1e-3)


def test_the_cameras_orientation_is_applied(tmp_path):
    image = picture(width=5, height=3)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.png", exif=exif)
    assert load_picture(tmp_path / "x.png")[0].shape == (1, 5, 3, 3)


def test_names_count_on(tmp_path):
    pictures = torch.rand(2, 3, 3, 3)
    names = [saved["filename"] for _ in range(2) for saved in save_pngs(pictures, "a/b", "output", tmp_path, {})]
    assert names == ["b_00001_.png", "b_00002_.png", "b_00003_.png", "b_00004_.png"]
    (tmp_path / "a" / "bc_00077_.png").touch()
    (tmp_path / "a" / "b_00010_.png").touch()
    saved = save_pngs(pictures[:1], "a/b", "output", tmp_path, {})
    assert saved == [{"filename": "b_00011_.png", "subfolder": "a", "type": "output"}]
    assert save_pngs(pictures[:1], "%width%x%height%", "output", tmp_path, {})[0]["filename"] == "3x3_00001_.png"


def test_values_are_cut_off_as_comfyui_does(tmp_path):
    save_pngs(torch.tensor([-1.0, 0.999, 2.0]).view(1, 1, 3, 1).expand(1, 1, 3, 3), "x", "output", tmp_path, {})
    assert np.asarray(Image.open(tmp_path / "x_00001_.png"))[0, :, 0].tolist() == [0, 254, 255]


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/tmp/x"])
def test_a_name_that_leaves_the_folder_is_refused(prefix, folders):
    picture().save(folders.input / "x.png")
    with pytest.raises(NodeError, match=r"node 2 \(SaveImage\): filename_prefix .* leaves the output folder"):
        Executor(CORE, folders).run(load_and_save("x.png", filename_prefix=prefix))


def test_the_example_picture_is_there_without_a_file(folders):
    executor = Executor(CORE, folders)
    report = executor.run(load_and_save("example.png"))
    saved = Image.open(folders.output / "p_00001_.png")
    assert saved.size == (768, 768) and len(saved.getcolors(768 * 768)) > 10000
    assert list(folders.input.iterdir()) == []
    assert all(node.cached for node in executor.run(load_and_save("example.png")).nodes) and report.nodes


def test_a_file_named_like_the_example_goes_first(folders):
    executor = Executor(CORE, folders)
    executor.run(load_and_save("example.png"))
    picture().save(folders.input / "example.png")
    executor.run(load_and_save("example.png"))
    assert Image.open(folders.output / "p_00002_.png").size == (5, 3)


def test_a_changed_file_is_read_again(folders):
    executor = Executor(CORE, folders)
    for width in (5, 6):
        picture(width).save(folders.input / "x.png")
        executor.run(load_and_save("x.png"))
    assert Image.open(folders.output / "p_00002_.png").width == 6


def test_the_choices_are_the_input_folders_pictures(folders):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (folders.input / name).touch()
    with use(folders):
        assert CORE["LoadImage"].INPUT_TYPES()["required"]["image"][0] == ["a.JPG", "b.png", "example.png"]


@pytest.mark.parametrize("name, why", [
    ("none.png", "there is no picture 'none.png' in the input folder"),
    ("../secret.png", "outside the input folder"),
    ("/etc/passwd", "outside the input folder"),
    ("example.png [output]", "in the output folder"),
])
def test_a_picture_that_is_not_there(name, why, folders):
    with pytest.raises(WorkflowError, match=rf"node 1 \(LoadImage\): .*{why}"):
        Executor(CORE, folders).run(load_and_save(name))


def _truncated():
    import io as bytes_io
    buffer = bytes_io.BytesIO()
    picture(200, 200).save(buffer, "PNG")
    return buffer.getvalue()[:5000]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", _truncated(), b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_picture(content, folders):
    (folders.input / "x.png").write_bytes(content)
    with pytest.raises(NodeError, match=r"^node 1 \(LoadImage\): x.png: ") as caught:
        Executor(CORE, folders).run(load_and_save("x.png"))
    assert "\n" not in str(caught.value) and not folders.output.exists()


def test_previews_go_to_the_temporary_folder(folders):
    graph = load_and_save("example.png")
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    saved = Executor(CORE, folders).run(graph).ui["2"]["images"][0]
    assert saved["type"] == "temp" and saved["filename"].startswith("ComfyUI_temp_")
    assert (folders.temp / saved["filename"]).is_file()


def test_a_nodes_own_preview(folders):
    class Shows(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("Shows", is_output_node=True)

        @classmethod
        def execute(cls):
            return io.NodeOutput(ui=ui.PreviewImage(torch.zeros(2, 4, 4, 3), cls=cls))

    report = Executor({"Shows": Shows}, folders).run({"1": {"class_type": "Shows", "inputs": {}}})
    assert len(report.ui["1"]["images"]) == 2 and report.ui["1"]["animated"] == [False]
    assert (folders.temp / report.ui["1"]["images"][1]["filename"]).is_file()


def test_text_and_vae_nodes_call_what_core_calls(folders):
    class Clip:
        def tokenize(self, text):
            return {"tokens": text}

        def encode_from_tokens_scheduled(self, tokens):
            return [[tokens["tokens"], {}]]

    class Vae:
        def encode(self, pixels):
            return pixels.movedim(-1, 1)

        def decode(self, latent):
            return latent.movedim(1, -1)

    assert CORE["CLIPTextEncode"]().encode(Clip(), "hi") == ([["hi", {}]],)
    pixels = torch.rand(1, 2, 3, 3)
    (latent,) = CORE["VAEEncode"]().encode(Vae(), pixels)
    assert list(latent) == ["samples"] and torch.equal(CORE["VAEDecode"]().decode(Vae(), latent)[0], pixels)


# --- animated pictures, and those that tell of more pixels than they have ------------------------------------------------------------------

def animation(path, frames=3, size=(8, 6), mode="RGB", **how):
    from PIL import Image
    made = [Image.new(mode, size, tuple([at * 60] * len(mode))) for at in range(frames)]
    made[0].save(path, save_all=True, append_images=made[1:], **how)
    return path


@pytest.mark.parametrize("name, how", [("x.png", {}), ("x.webp", {"lossless": True}), ("x.tiff", {}), ("x.gif", {})])
def test_all_frames_of_an_animation_are_loaded(tmp_path, name, how):
    pixels, mask = load_picture(animation(tmp_path / name, **how))
    assert pixels.shape == (3, 6, 8, 3) and mask.shape[0] == 3
    torch.testing.assert_close(pixels.amax(dim=(1, 2, 3)), torch.tensor([0, 60, 120]) / 255)


def test_the_masks_of_an_animation(tmp_path):
    pixels, mask = load_picture(animation(tmp_path / "x.webp", mode="RGBA", lossless=True))
    assert mask.shape == (3, 6, 8)
    torch.testing.assert_close(1 - mask[:, 0, 0], torch.tensor([0, 60, 120]) / 255)


def test_frames_of_other_sizes_are_left_out(tmp_path):
    from PIL import Image
    made = [Image.new("RGB", size) for size in ((8, 6), (4, 4), (8, 6))]
    made[0].save(tmp_path / "x.tiff", save_all=True, append_images=made[1:])
    assert load_picture(tmp_path / "x.tiff")[0].shape == (2, 6, 8, 3)


def test_a_few_bytes_that_tell_of_many_pixels_are_refused(tmp_path):
    data = bytearray(animation(tmp_path / "x.gif").read_bytes())
    data[6:10] = (8000).to_bytes(2, "little") * 2
    (tmp_path / "x.gif").write_bytes(data)
    with pytest.raises(ValueError, match=r"x.gif: 3 frames of 8000×8000 pixels in [0-9]+ bytes are not loaded"):
        load_picture(tmp_path / "x.gif")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_as_editors_on_windows_save_them(tmp_path, encoding):
    from dit_blocks.standalone.dataset_nodes import read_folder
    animation(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("a 猫\n".encode(encoding))
    pictures, captions = read_folder(tmp_path)
    assert captions == ["a 猫"] and [picture.shape for picture in pictures] == [(1, 6, 8, 3)]

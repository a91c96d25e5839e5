"""Our own format comes back equal; a file that does not fit is one clear line, and nothing is half loaded."""

import json
import os

import pytest
from safetensors.torch import load_file, save_file
import torch

from dit_blocks.dit_impl.errors import CheckpointError
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.model.position import sincos_2d
from dit_blocks.dit_impl.sources.checkpoints import load_model, load_strictly, read_safetensors, save_model

FLEXIBLE = MMDiTConfig(patch_sizes=(2, 4, 8), head_hidden=48, in_channels=4, width=32, depth=2, heads=4, context_width=12, pooled_width=8,
                       qk_norm=True, position="picture", position_table=16, position_base=16, prediction="x0")
MODELS = {
    "flexible": FLEXIBLE,
    "order of patch sizes": MMDiTConfig((4, 2), 4, 32, 2, 4, 12, 8, position_base=12.5),
    "sd35": MMDiTConfig((2,), 16, 64, 2, 2, 12, 8, qk_norm=True, dual_blocks=(0,)),
    "dit": DiTConfig(in_channels=4, width=32, depth=2, heads=4, classes=5, position_base=4),
    "flexible dit": DiTConfig((2, 4), 4, 32, 1, 2, 5, learn_sigma=False, prediction="v", time_last=1),
}


def build(config):
    torch.manual_seed(0)
    model = (MMDiT if isinstance(config, MMDiTConfig) else DiT)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def same_weights(a, b):
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def sd3(width=64, depth=2):
    """A random checkpoint in SD3's own layout, made from our model."""
    state = build(MMDiTConfig((2,), 4, width, depth, width // 64, 12, 8)).state_dict()
    state["x_embedder.proj.weight"] = state.pop("x_embedder.2.weight").view(width, 4, 2, 2)
    state["x_embedder.proj.bias"] = state.pop("x_embedder.2.bias")
    for end in ("weight", "bias"):
        state[f"final_layer.linear.{end}"] = state.pop(f"final_layer.linear.2.{end}")
    axis = (torch.arange(6) - 2) / 4
    return state | {"pos_embed": sincos_2d(width, axis, axis)[None]}


def table(width):
    return sincos_2d(width, torch.arange(6), torch.arange(6))[None]


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    for part in parts:
        assert part in message, message


def fails(source, *parts, **options):
    with pytest.raises(CheckpointError) as error:
        load_model(source, **options)
    one_line(error, *parts)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(build(FLEXIBLE), path)
    return path


def rewrite(path, change):
    """Save the file again with its tensors and metadata changed in place."""
    tensors, metadata = read_safetensors(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_saved_comes_back(kind, tmp_path):
    model = build(MODELS[kind])
    save_model(model, tmp_path / "deep" / "model.safetensors")
    loaded = load_model(tmp_path / "deep" / "model.safetensors")
    assert type(loaded) is type(model) and loaded.config == model.config and same_weights(loaded, model)
    assert os.listdir(tmp_path / "deep") == ["model.safetensors"]
    assert all(parameter.device.type == "cpu" and parameter.requires_grad for parameter in loaded.parameters())


def test_a_state_dict_with_its_architecture_loads_too():
    model = build(FLEXIBLE)
    loaded = load_model(model.state_dict(), FLEXIBLE)
    assert same_weights(loaded, model)
    assert loaded.context_embedder.weight.data_ptr() != model.context_embedder.weight.data_ptr()
    fails(model.state_dict(), "checkpoint", "'config'", "metadata")
    fails({"weight": torch.zeros(2)}, "0 blocks", config=FLEXIBLE)


def test_half_precision_is_stored_and_float32_loaded(tmp_path):
    model, path = build(FLEXIBLE), tmp_path / "model.safetensors"
    save_model(model, path, dtype=torch.float16)
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    loaded = load_model(path)
    assert all(torch.equal(value, model.state_dict()[key].half().float()) for key, value in loaded.state_dict().items())
    assert load_model(path, dtype=torch.bfloat16).context_embedder.weight.dtype == torch.bfloat16
    assert load_model(path, dtype=None).context_embedder.weight.dtype == torch.float16
    assert model.context_embedder.weight.dtype == torch.float32


def test_extra_tensors_travel_along(tmp_path):
    path, scale = tmp_path / "model.safetensors", torch.rand(2, 4)
    save_model(build(FLEXIBLE), path, dtype=torch.float16, extra_tensors={"scale": scale[0], "shift": scale[1]},
               extra_metadata={"title": "a model"})
    tensors, metadata = read_safetensors(path)
    assert torch.equal(tensors["extra.scale"], scale[0]) and metadata["title"] == "a model"
    assert load_model(path).config == FLEXIBLE


def test_a_model_can_be_saved_over_the_file_it_came_from(saved):
    model = load_model(saved)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_model(model, saved)
    saved.write_bytes(b"")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_failed_save_leaves_the_old_file(saved, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(Exception):
        save_model(load_model(saved), saved, extra_metadata={"number": 3})
    assert saved.read_bytes() == before and os.listdir(tmp_path) == [saved.name]


@pytest.mark.parametrize("change, parts", [
    (lambda t, m: t.pop("context_embedder.weight"), ["missing context_embedder.weight"]),
    (lambda t, m: t.pop("x_embedder.4.bias"), ["missing x_embedder.4.bias"]),
    (lambda t, m: t.update(stray=torch.zeros(2)), ["unexpected stray"]),
    (lambda t, m: t.update({"odd\nkey": torch.zeros(2)}), ["unexpected 'odd\\nkey'"]),
    (lambda t, m: t.update({f"stray{i}": torch.zeros(2) for i in range(9)}), ["unexpected stray0, stray1, stray2 and 6 more"]),
    (lambda t, m: t.update({"context_embedder.bias": torch.zeros(31)}), ["wrong shape of context_embedder.bias", "[31]", "[32]"]),
    (lambda t, m: t.update({"context_embedder.bias": torch.zeros(32).long()}), ["not floating point: context_embedder.bias"]),
    (lambda t, m: [t.pop(key) for key in list(t) if key.startswith("joint_blocks.1.")], ["1 blocks", "2"]),
    (lambda t, m: m.pop("config"), ["'config'"]),
    (lambda t, m: m.update(config="{"), ["'config'", "JSON"]),
    (lambda t, m: m.update(config="[1]"), ["metadata 'config' is a table of named values, not [1]"]),
    (lambda t, m: m.update(config=json.dumps({"colour": 1})), ["no setting 'colour'"]),
] + [
    (lambda t, m, bad=bad: m.update(config=json.dumps({**json.loads(m["config"]), **bad})), [next(iter(bad))])
    for bad in ({"width": "32"}, {"width": 0}, {"width": -4}, {"width": 2 ** 62}, {"heads": 5}, {"heads": 0},
                {"depth": 10 ** 9}, {"patch_sizes": []}, {"patch_sizes": [2, "4"]}, {"position": "spiral"}, {"prediction": None},
                {"position_base": 0}, {"position_base": True}, {"qk_norm": 1})
])
def test_our_own_file_that_does_not_fit(change, parts, saved):
    rewrite(saved, change)
    parts = ["blocks" if part == "depth" else part for part in parts]  # told apart from the keys first
    fails(saved, str(saved), *parts)


@pytest.mark.parametrize("spoil, part", [
    (lambda data: b"", "header"), (lambda data: data[:5], "header"), (lambda data: data[:60], "header"),
    (lambda data: data[:-1], "incomplete"), (lambda data: data[:len(data) // 2], "incomplete"),
    (lambda data: data + b"more", "incomplete"), (lambda data: bytes(len(data)), "JSON"), (lambda data: b"\x89PNG\r\n" * 40, "header"),
    (lambda data: b'{"not": "safetensors"}\n' * 9, "header"), (lambda data: data[:8] + b"{" * (len(data) - 8), "JSON"),
    (lambda data: data.replace(b'"F32"', b'"F99"'), "F99")])
def test_a_spoiled_file_is_one_line(spoil, part, saved):
    saved.write_bytes(spoil(saved.read_bytes()))
    fails(saved, str(saved), "not a whole safetensors file", part)


def test_no_file_and_a_folder(tmp_path):
    fails(tmp_path / "nothing.safetensors", "nothing.safetensors: no such file")
    fails(tmp_path, str(tmp_path))


def test_a_pickle_is_not_loaded(tmp_path):
    torch.save(build(FLEXIBLE).state_dict(), tmp_path / "model.pt")
    fails(tmp_path / "model.pt", "not a whole safetensors file")


@pytest.mark.parametrize("tensors", [{}, {"weight": torch.zeros(2)}, {"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 1)}])
def test_an_unknown_architecture(tensors, tmp_path):
    save_file(tensors, tmp_path / "other.safetensors")
    fails(tmp_path / "other.safetensors", "other.safetensors: not a transformer that is known here", *list(tensors)[:1])


def test_sd3s_layout_and_the_papers_position_table():
    model = load_model(sd3())
    expected = MMDiTConfig((2,), 4, 64, 2, 1, 12, 8, position_table=6, position_base=pytest.approx(1.5),
                           position_start=pytest.approx(-0.5))
    assert model.config == expected
    assert torch.allclose(model.position_embedding((6, 6), 2), sd3()["pos_embed"], atol=1e-6)


@pytest.mark.parametrize("change, parts", [
    (lambda t: t.pop("joint_blocks.0.x_block.mlp.fc1.bias"), ["missing joint_blocks.0.x_block.mlp.fc1.bias", "SD3"]),
    (lambda t: t.pop("x_embedder.proj.weight"), ["missing key x_embedder.proj.weight"]),
    (lambda t: t.pop("pos_embed"), ["missing key pos_embed"]),
    (lambda t: t.update({"joint_blocks.7.x_block.attn.qkv.weight": torch.zeros(2)}), ["unexpected joint_blocks.7"]),
    (lambda t: t.update({"joint_blocks.0.x_block.attn.ln_q.weight": torch.ones(64)}), ["missing joint_blocks.0"]),
    (lambda t: t.update(stray=torch.zeros(1)), ["unexpected stray"]),
    (lambda t: t.update({"x_embedder.proj.weight": torch.zeros(64, 16)}), ["x_embedder.proj.weight", "[64, 16]"]),
    (lambda t: t.update({"x_embedder.proj.weight": torch.zeros(64, 4, 2, 3)}), ["x_embedder.proj.weight", "[64, 4, 2, 3]"]),
    (lambda t: t.update({"x_embedder.proj.weight": torch.zeros(32, 4, 2, 2)}), ["pos_embed has shape [1, 36, 64]"]),
    (lambda t: t.update({"x_embedder.proj.weight": torch.zeros(96, 4, 2, 2), "pos_embed": table(96)}), ["width 96", "64"]),
    (lambda t: t.update({"final_layer.linear.weight": torch.zeros(32, 64)}), ["final_layer.linear.weight", "[32, 64]"]),
    (lambda t: t.update(pos_embed=torch.randn(1, 36, 64)), ["pos_embed: no evenly spaced grid gives this position table"]),
    (lambda t: t.update(pos_embed=torch.randn(1, 35, 64)), ["pos_embed: 35 positions"]),
    (lambda t: t.update(pos_embed=torch.zeros(1, 36, 60)), ["pos_embed has shape [1, 36, 60]"]),
    (lambda t: t.update(pos_embed=torch.zeros(1, 36, 64).long()), ["pos_embed", "floating point"]),
])
def test_sd3s_layout_that_does_not_fit(change, parts):
    tensors = sd3()
    change(tensors)
    fails(tensors, *parts)


def test_every_missing_key_is_named():
    whole = sd3()
    for key in whole:
        fails({k: v for k, v in whole.items() if k != key}, key)


@pytest.mark.parametrize("settings", [{"num_attention_heads": 3}, {"num_attention_heads": "2"}, {"num_attention_heads": 0}])
def test_heads_that_do_not_fit(settings):
    fails(sd3(), "num_attention_heads", config=settings)


def test_dit_xl_has_the_papers_heads():
    """DiT-XL's width is a multiple of 64, but its heads are 72 wide."""
    config = DiTConfig(width=1152, depth=1, classes=2)
    tensors = {key: torch.zeros(1).expand(value.shape) for key, value in build_empty(config).items()}
    tensors["x_embedder.proj.weight"] = tensors.pop("x_embedder.2.weight").reshape(1152, 4, 2, 2)
    for end in ("weight", "bias"):
        tensors[f"final_layer.linear.{end}"] = tensors.pop(f"final_layer.linear.2.{end}")
    tensors["x_embedder.proj.bias"] = tensors.pop("x_embedder.2.bias")
    tensors["y_embedder.embedding_table.weight"] = tensors.pop("y_embedder.weight")
    tensors["pos_embed"] = sincos_2d(1152, torch.arange(16), torch.arange(16))[None]
    assert load_model(tensors).config == config
    tensors["pos_embed"] = sincos_2d(1152, torch.arange(16) / 2, torch.arange(16) / 2)[None]
    fails(tensors, "pos_embed", "steps of 0.5")


def build_empty(config):
    with torch.device("meta"):
        return DiT(config).state_dict()


def test_load_strictly_changes_nothing_unless_all_fits():
    module = torch.nn.Linear(3, 2)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError) as error:
        load_strictly(module, {"weight": torch.zeros(2, 3)}, "text.safetensors")
    one_line(error, "text.safetensors: missing bias")
    assert torch.equal(module.weight, before)
    load_strictly(module, {"weight": torch.zeros(2, 3).half(), "bias": torch.ones(2)}, "text.safetensors")
    assert module(torch.ones(1, 3)).tolist() == [[1, 1]] and module.weight.dtype == torch.float32

"""Patch-size adapters: where they begin, what they teach and what they leave alone, as wires, as stages, as files."""

from dataclasses import asdict, replace
import json

from conftest import conditioning
import pytest
from safetensors.torch import save_file
import torch

from dit_blocks.dit_impl.errors import BackboneError, CheckpointError, TrainingError
from dit_blocks.dit_impl.handle import patch_schedule
from dit_blocks.dit_impl.handle.backbone import Backbone, DitHandle
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.sources.adapter_layers import LowRank, extended, new_parameters
from dit_blocks.dit_impl.sources.adapters import KEY, AdaptedMMDiT, adapter_of, apply_adapter, fingerprint, load_adapter, save_adapter
from dit_blocks.dit_impl.sources.checkpoints import read_safetensors
from dit_blocks.dit_impl.sources.dit_file import save_dit
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.step.guidance import guide
from dit_blocks.dit_impl.tokens.other_sizes import Reading
from dit_blocks.dit_impl.tokens.wire import identity_format, unfold
from dit_blocks.dit_impl.training.adapter import Distilling, finer, ranks, teach_patch_size
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings
from dit_blocks.dit_impl.training.objectives import training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet
from dit_blocks.nodes.adapter import LoadAdapter, SaveAdapter
from dit_blocks.nodes.comfyui import host
from dit_blocks.standalone import pack
from dit_blocks.standalone.folders import Folders, use

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SHORT = Settings(steps=6, batch=4, learning_rate=1e-2, warmup=1)


def data(dit: Backbone) -> TrainingSet:
    latents = torch.randn(8, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    if isinstance(dit.model, DiT):
        return TrainingSet(latents, [dit.class_conditioning(str(i % 5)) for i in range(8)])
    return TrainingSet(latents, [conditioning(i) for i in range(8)], (), conditioning(99))


def class_conditional() -> Backbone:
    torch.manual_seed(1)
    model = DiT(DiTConfig(in_channels=4, width=32, depth=2, heads=4, classes=5, position_base=6))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), DDPM("v", beta_schedule="scaled_linear"), "a small DiT")


def flexible(**heads: int) -> Backbone:
    """As the default model: x0, and heads of wide patches with a hidden layer, or a decoder of cells beside them."""
    torch.manual_seed(2)
    model = MMDiT(MMDiTConfig(patch_sizes=(2, 4), in_channels=4, width=32, depth=2, heads=2, context_width=32, pooled_width=16, qk_norm=True,
                              position="picture", position_base=6.0, prediction="x0", **heads))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), RectifiedFlow("x0"), "a flexible DiT")


@pytest.fixture(params=["velocity", "x0, hidden head", "x0, cells", "class-conditional"])
def dit(request, backbone) -> Backbone:
    return {"velocity": lambda: backbone, "x0, hidden head": lambda: flexible(head_hidden=48), "x0, cells": lambda: flexible(detail=32),
            "class-conditional": class_conditional}[request.param]()


def text(dit: Backbone, seed: int = 1) -> list:
    return dit.class_conditioning("3") if isinstance(dit.model, DiT) else conditioning(seed)


def call(dit: Backbone, model, patch_size: int, grid=(3, 4), reading: Reading | None = None) -> torch.Tensor:
    """A model's answer to random tokens, the same for the same size."""
    tokens = torch.randn(2, grid[0] * grid[1], 4 * patch_size ** 2, generator=torch.Generator().manual_seed(patch_size))
    arguments = ({"labels": torch.tensor([1, 3])} if isinstance(dit.model, DiT) else
                 {"context": conditioning(3, 2)[0][0], "pooled": conditioning(3, 2)[0][1]["pooled_output"]})
    times = torch.tensor([200, 700])
    with torch.no_grad():
        if reading is None:
            return model(tokens, grid, patch_size, times, **arguments)
        return reading.up(model(reading.down(tokens), grid, reading.own, times, **arguments), grid)


def random_adapter(dit: Backbone, patch_size: int = 3, seed: int = 0, **how):
    """An adapter that has learnt something, and what it was in training."""
    objective = Distilling(dit, patch_size, 2, **how)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in objective.trained.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return objective.adapter(steps=0), objective.student


def drawn(dit: Backbone, rows: str, side: int = 12, **how) -> torch.Tensor:
    """A latent by a patch schedule: [1, 4, side, side]."""
    sigmas = dit.schedule(4)
    plan = patch_schedule.parse_schedule(rows)
    noisy, _ = dit.add_noise(dit.fold({"samples": torch.zeros(1, 4, side, side)}, plan.rows[0].patch_size), sigmas, 0, 5)
    clean, *_ = patch_schedule.denoise_by_schedule(dit, noisy, plan, sigmas, text(dit), None if isinstance(dit.model, DiT) else text(dit, 2), 2.0, "euler", 0, 4)
    return unfold(clean)


@pytest.mark.parametrize("patch_size", [1, 3, 5, 8])
@pytest.mark.parametrize("wide_rank", [0, 2])
def test_it_begins_as_the_model_with_pi_resized_patches(dit, patch_size, wide_rank):
    start = finer(dit.patch_sizes, patch_size)
    made = extended(dit.model, patch_size, start, 2, wide_rank)
    expected = call(dit, dit.model, patch_size, reading=Reading("pi_resize", start, patch_size))
    if dit.model.final_layer.detail is not None:  # which is no linear map: what is behind it can't be resized and stay the same
        for model in (dit.model, made):
            torch.nn.init.zeros_(model.final_layer.detail.out.weight)
        expected = call(dit, dit.model, patch_size, reading=Reading("pi_resize", start, patch_size))
    torch.testing.assert_close(call(dit, made, patch_size), expected, atol=1e-4, rtol=1e-4)


def test_merged_is_unmerged(dit):
    adapter, student = random_adapter(dit, 3)
    taught = apply_adapter(dit, adapter)
    unmerged = call(dit, student.eval(), 3)
    torch.testing.assert_close(call(dit, taught.model, 3), unmerged, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(layer, LowRank) for layer in taught.model.modules()) and not new_parameters(taught.model)
    assert (call(dit, extended(dit.model, 3, finer(dit.patch_sizes, 3), 2), 3) - unmerged).abs().max() > 1e-2


def test_the_model_and_its_own_sizes_stay_as_they_are(dit):
    weights = {key: value.clone() for key, value in dit.model.state_dict().items()}
    modules, before = dict(dit.model.named_modules()), [call(dit, dit.model, p) for p in dit.patch_sizes]
    taught = teach_patch_size(dit, data(dit), 3, 2, SHORT)
    for model in (dit.model, taught.model):
        assert all(torch.equal(call(dit, model, p), answer) for p, answer in zip(dit.patch_sizes, before))
    assert weights.keys() == dit.model.state_dict().keys() and all(torch.equal(value, weights[key]) for key, value in dit.model.state_dict().items())
    assert all(module is dict(dit.model.named_modules())[name] for name, module in modules.items())
    assert not any(p.requires_grad for p in dit.model.parameters()) and dit.patch_sizes == tuple(p for p in taught.patch_sizes if p != 3)


def test_what_is_not_merged_is_shared(dit):
    taught = apply_adapter(dit, random_adapter(dit, 3)[0])
    places = {p.data_ptr() for p in dit.model.parameters()}
    own = [name for name, p in taught.model.named_parameters() if p.data_ptr() not in places]
    expected = ("x_embedder.", "final_layer.linear.", "final_layer.detail.context.", "patch_embedder.", "joint_blocks.", "blocks.")
    assert own and all(name.removeprefix("taught.3.").startswith(expected) and "adaLN" not in name and "norm" not in name for name in own)


def test_gradients_reach_the_adapter_and_nothing_else(dit):
    objective = Distilling(dit, 3, 2)
    loss = objective.loss(Draws(data(dit), objective, SHORT, Alone()).at(0))
    loss.backward()
    reached = {name for name, p in objective.student.named_parameters() if p.grad is not None}
    # B is zero at first, so that A hears nothing in the first step: its gradient is there, and zero
    assert reached == set(objective.trained)
    assert all(objective.trained[name].grad.abs().max() > 0 for name in reached if not name.endswith(".a"))
    assert not any(p.grad is not None or p.requires_grad for model in (objective.teacher, dit.model) for p in model.parameters())
    kinds = {name.rpartition(".")[2] for name in reached}
    assert kinds == {"a", "b", "weight", "bias", "vector"}
    low = {name.rpartition(".")[0].partition(".linear")[0] for name in reached if name.endswith(".a")}
    assert any(".attn.qkv" in name for name in low) and any(".mlp.fc2" in name for name in low)


def test_the_target_is_the_model_s_own_answer():
    """A model taught its own size's patches, cut anew: PI-resize to the same size has no error, and no loss."""
    dit = flexible(head_hidden=48)
    objective = Distilling(dit, 3, 2, start=4, teacher=4)
    objective.student = objective.module = extended(objective.teacher, 4, 4, 2)
    batch = replace(Draws(data(dit), objective, SHORT, Alone()).at(0), patch_size=4)
    assert objective.loss(batch).item() < 1e-10
    objective.data_share = 1.0
    assert objective.loss(batch).item() > 0.1


def test_the_loss_falls(backbone):
    told = []
    settings = replace(SHORT, steps=60, learning_rate=3e-3)
    teach_patch_size(backbone, data(backbone), 3, 4, settings, watch=lambda done, log: told.append(log.losses[-1]))
    assert sum(told[-5:]) < 0.7 * sum(told[:5])


def test_resume_equals_the_unbroken_run(dit, tmp_path):
    class Enough(Exception):
        pass

    def stop(done, log):
        if done == 3:
            raise Enough
    whole = teach_patch_size(dit, data(dit), 3, 2, SHORT)
    with pytest.raises(Enough):
        teach_patch_size(dit, data(dit), 3, 2, SHORT, tmp_path / "state.pt", watch=stop)
    resumed = teach_patch_size(dit, data(dit), 3, 2, SHORT, tmp_path / "state.pt", resume=True)
    assert all(torch.equal(weight, adapter_of(whole).weights[name]) for name, weight in adapter_of(resumed).weights.items())


def test_stages_in_a_row_are_the_whole(dit):
    taught = apply_adapter(dit, random_adapter(dit, 3)[0])
    sigmas = taught.schedule(4)
    for p in taught.patch_sizes:
        noisy, _ = taught.add_noise(taught.fold({"samples": torch.zeros(1, 4, 12, 12)}, p), sigmas, 0, 5)
        wire = step_stages.condition(taught, noisy, text(taught), None, sigmas, 0)
        wire = step_stages.position_embed(taught, step_stages.patch_embed(taught, wire))
        prediction = guide(step_stages.final_layer(taught, step_stages.run_blocks(taught, wire, "all")), 1.0)
        _, x0 = taught.denoise(noisy, sigmas, text(taught), None, 1.0, "euler", 0, 1)
        assert torch.equal(prediction["tokens"], x0["tokens"])


def test_a_schedule_over_both_sizes(dit):
    taught = apply_adapter(dit, random_adapter(dit, 3)[0])
    own = dit.patch_size
    assert torch.equal(drawn(taught, f"{own}"), drawn(dit, f"{own}"))
    mixed = drawn(taught, f"3 until 50%, then {own}")
    assert mixed.isfinite().all() and not torch.equal(mixed, drawn(taught, f"{own}")) and not torch.equal(mixed, drawn(taught, "3"))
    # by hand: two steps at 3, then two at its own
    sigmas, more = taught.schedule(4), None if isinstance(dit.model, DiT) else text(dit, 2)
    noisy, _ = taught.add_noise(taught.fold({"samples": torch.zeros(1, 4, 12, 12)}, 3), sigmas, 0, 5)
    half, _ = taught.denoise(noisy, sigmas, text(dit), more, 2.0, "euler", 0, 2)
    rest, _ = dit.denoise(patch_schedule.repatch(half, own), sigmas, text(dit), more, 2.0, "euler", 2, 4)
    assert torch.equal(mixed, unfold(rest))


def test_two_adapters_live_side_by_side(backbone):
    first, _ = random_adapter(backbone, 3)
    one = apply_adapter(backbone, first)
    second, _ = random_adapter(one, 5, seed=1)
    assert second.base == first.base == fingerprint(backbone.model.state_dict())
    both = apply_adapter(one, second)
    assert both.patch_sizes == (2, 4, 3, 5) and one.patch_sizes == (2, 4, 3)
    assert torch.equal(call(backbone, both.model, 3), call(backbone, one.model, 3))
    assert torch.equal(call(backbone, both.model, 2), call(backbone, backbone.model, 2))
    again = apply_adapter(both, random_adapter(backbone, 3, seed=2)[0])
    assert again.patch_sizes == (2, 4, 5, 3) and not torch.equal(call(backbone, again.model, 3), call(backbone, one.model, 3))
    assert isinstance(both.model, AdaptedMMDiT) and adapter_of(both).patch_size == 5 and adapter_of(both, 3) is first


def test_a_file_gives_back_what_was_saved(dit, tmp_path):
    adapter, _ = random_adapter(dit, 3)
    save_adapter(adapter, tmp_path / "x.safetensors")
    loaded = load_adapter(tmp_path / "x.safetensors")
    assert json.dumps({**asdict(loaded), "weights": None}) == json.dumps({**asdict(adapter), "weights": None})
    assert loaded.weights.keys() == adapter.weights.keys() and all(torch.equal(w, adapter.weights[name]) for name, w in loaded.weights.items())
    assert torch.equal(call(dit, apply_adapter(dit, loaded).model, 3), call(dit, apply_adapter(dit, adapter).model, 3))


def test_a_failed_save_leaves_nothing(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("dit_blocks.dit_impl.sources.adapters.save_file", lambda tensors, path, metadata: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(random_adapter(backbone)[0], tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_for_another_model(backbone):
    adapter, _ = random_adapter(backbone)
    other = replace(backbone, model=training_copy(backbone).model.eval().requires_grad_(False), name="another DiT")
    assert apply_adapter(other, adapter).patch_sizes == (2, 4, 3)
    other.model.context_embedder.weight[0, 0] += 0.01
    with pytest.raises(CheckpointError, match=rf"^the adapter for patch size 3 is for a small DiT \({adapter.base[:8]}\), not for another DiT \("):
        apply_adapter(other, adapter)


def test_a_fingerprint_is_of_the_values_not_of_their_type(backbone):
    half = replace(backbone, model=training_copy(backbone).model.half())
    assert fingerprint(half.model.state_dict()) == fingerprint(training_copy(half).model.state_dict()) != fingerprint(backbone.model.state_dict())


@pytest.mark.parametrize("wide_rank", [0, 2])
def test_a_model_in_half_precision_stays_in_it(dit, wide_rank):
    dit.model.bfloat16()
    objective = Distilling(dit, 3, 2)
    made = extended(dit.model, 3, objective.start, 2, wide_rank)
    adapter = replace(objective.adapter(), wide_rank=wide_rank, weights={key: p.detach() for key, p in new_parameters(made).items()})
    taught = apply_adapter(dit, adapter)
    assert {p.dtype for p in taught.model.parameters()} == {torch.bfloat16} and drawn(taught, f"3 until 50%, then {dit.patch_size}").isfinite().all()


def test_models_that_can_have_none(backbone):
    class Other(DitHandle):
        name = "SD3 (MODEL)"
    with pytest.raises(BackboneError, match=r"^SD3 \(MODEL\) is a MODEL"):
        apply_adapter(Other(), random_adapter(backbone)[0])
    whole = replace(backbone, model=torch.nn.Linear(2, 2))
    with pytest.raises(BackboneError, match="runs whole, by diffusers"):
        Distilling(whole, 3, 2)


@pytest.mark.parametrize("patch_size, rank, message", [
    (4, 2, "a small DiT has patch sizes 2, 4 already: choose another patch_size, not 4"), (0, 2, "choose another patch_size, not 0"),
    (3, -1, "rank is at least 1, or 0 for the highest that fits into 10% of the model, not -1")])
def test_what_can_not_be_taught(backbone, patch_size, rank, message):
    with pytest.raises(TrainingError, match=message):
        teach_patch_size(backbone, data(backbone), patch_size, rank, SHORT)


def test_the_next_finer_size_is_learnt_from():
    assert [finer((2, 4, 8), p) for p in (1, 3, 5, 6, 16)] == [2, 2, 4, 4, 8]


@pytest.mark.parametrize("patch_size", [1, 3, 6, 16])
def test_rank_0_is_what_fits_into_a_tenth_of_the_default_model(patch_size):
    from dit_blocks.dit_impl.sources.embedded import load_embedded
    model = load_embedded()[0].model
    start = finer(model.config.patch_sizes, patch_size)
    rank, wide = ranks(model, patch_size, start)
    count, more = (sum(p.numel() for p in new_parameters(extended(model, patch_size, start, r, wide)).values()) for r in (rank, rank + 1))
    assert count <= 0.1 * sum(p.numel() for p in model.parameters()) < more and bool(wide) == (patch_size == 16)


def broken(path, account=None, **tensors):
    metadata = {} if account is None else {KEY: account if isinstance(account, str) else json.dumps(account)}
    save_file(tensors or {"vector": torch.zeros(2)}, path, metadata=metadata or None)


@pytest.mark.parametrize("change, message", [
    (None, "no patch-size adapter; its metadata has no 'patch_size_adapter'"),
    ("[", "its metadata 'patch_size_adapter' does not describe an adapter"),
    (lambda a: a.pop("rank"), "does not describe an adapter: 'rank' is missing"),
    (lambda a: a.update(rank=0), "does not describe an adapter: rank is a whole number of at least 1, not 0"),
    (lambda a: a.update(patch_size="3"), "does not describe an adapter: patch_size is a whole number of at least 1, not '3'"),
])
def test_a_file_that_is_no_adapter(backbone, tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    save_adapter(random_adapter(backbone)[0], path)
    account = json.loads(read_safetensors(path)[1][KEY])
    if callable(change):
        change(account)
    broken(path, account if callable(change) else change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


def test_weights_that_do_not_fit(backbone, tmp_path):
    adapter, _ = random_adapter(backbone)
    wrong = replace(adapter, weights={name: w for name, w in adapter.weights.items() if "fc1" not in name})
    with pytest.raises(CheckpointError, match="^the adapter for patch size 3 does not fit its model: missing joint_blocks.0.context_block.mlp.fc1.a"):
        apply_adapter(backbone, wrong)
    save_adapter(replace(adapter, weights={**adapter.weights, "patch_embedder.vector": torch.full((64,), float("nan"))}), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="patch_embedder.vector holds values that are NaN or infinite"):
        load_adapter(tmp_path / "x.safetensors")


def test_save_dit_refuses_what_one_checkpoint_can_not_hold(backbone, tmp_path):
    taught = apply_adapter(backbone, random_adapter(backbone)[0])
    with pytest.raises(CheckpointError, match="^a small DiT carries an adapter for patch size 3, .* Save Adapter"):
        save_dit(taught, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folders(tmp_path):
    pack.load()
    made = Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))
    (made.models / "loras").mkdir(parents=True)
    with use(made):
        yield made


def test_the_nodes_save_and_load(backbone, folders):
    taught = apply_adapter(backbone, random_adapter(backbone)[0])
    said = SaveAdapter.execute(dit=taught, filename_prefix="dit_blocks/adapter").ui.as_dict()["text"][0]
    saved = folders.output / "dit_blocks" / "adapter_00001_.safetensors"
    assert said.startswith(f"saved as {saved}\npatch size 3 for a small DiT: ")
    saved.rename(folders.models / "loras" / "x.safetensors")
    assert list(host.adapter_files()) == ["x.safetensors"]
    with torch.inference_mode():
        loaded, = LoadAdapter.execute(dit=backbone, file="x.safetensors").result
        assert torch.equal(drawn(loaded, "3 until 50%, then 2"), drawn(taught, "3 until 50%, then 2"))
    with pytest.raises(ValueError, match="^Load Adapter: file is one of those in models/loras"):
        LoadAdapter.execute(dit=backbone, file="../x.safetensors")
    with pytest.raises(ValueError, match="^Save Adapter: a small DiT carries no adapter: teach it a patch size"):
        SaveAdapter.execute(dit=backbone, filename_prefix="x")
    with pytest.raises(ValueError, match="^Save Adapter: a small DiT carries adapters for patch sizes 3, not 5"):
        SaveAdapter.execute(dit=taught, filename_prefix="x", patch_size=5)


def test_it_learns_in_inference_mode_as_a_node_does(backbone):
    expected = adapter_of(teach_patch_size(backbone, data(backbone), 3, 2, SHORT)).weights
    with torch.inference_mode():
        loaded = replace(backbone, model=training_copy(backbone).model)
        loaded.model.load_state_dict({key: value.clone() for key, value in backbone.model.state_dict().items()}, assign=True)
        found = adapter_of(teach_patch_size(loaded, data(loaded), 3, 2, SHORT)).weights
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())

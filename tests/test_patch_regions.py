"""Patch sizes by region: fine patches under a mask or where detail is, coarse ones elsewhere, in one sequence."""

from dataclasses import replace

from numbers_and_errors import randn
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dit_blocks.dit_impl.cost import answers
from dit_blocks.dit_impl.cost.arithmetic import architecture
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.handle.by_regions import by_regions
from dit_blocks.dit_impl.handle.patch_schedule import denoise_by_schedule, parse_schedule
from dit_blocks.dit_impl.model.mmdit import MMDiT
from dit_blocks.dit_impl.tokens.mixed import Mixture, Split, counts_of, gather, mix_of, scatter, touching
from dit_blocks.dit_impl.tokens.wire import identity_format, unfold
from dit_blocks.nodes.denoise import Denoise
from dit_blocks.nodes.patch_schedule import PatchRegions, PatchSchedule


@pytest.fixture
def dit(backbone):
    """A model of patch sizes 2, 4 and 8, which reads the text of `positive` and `negative`."""
    torch.manual_seed(3)
    config = replace(backbone.model.config, patch_sizes=(2, 4, 8))
    model = MMDiT(config).initialise()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), backbone.flow, "a model of three sizes")


def drawn(dit, plan, positive, negative=None, cfg=1.0, solver="euler", mask=None, cut=None, latent=None, start=2):
    """The tokens after six steps, in one run or in two; the last x0; what was remarked."""
    sigmas = dit.schedule(6)
    tokens = dit.add_noise(dit.fold({"samples": torch.zeros(2, 4, 16, 24) if latent is None else latent}, start), sigmas, 0, 3)[0]
    plan = replace(parse_schedule(plan) if isinstance(plan, str) else plan, mask=mask)
    for begin, end in ((0, 6),) if cut is None else ((0, cut), (cut, 6)):
        tokens, x0, said = denoise_by_schedule(dit, tokens, plan, sigmas, positive, negative, cfg, solver, begin, end)
    return tokens, x0, said


# --- rows -----------------------------------------------------------------------------------------------------------

def test_rows_name_what_is_split():
    first, second = parse_schedule("8 until 30%; 8 with 4 on 50% with 2 on the mask").rows
    assert (first.sizes, first.share) == (8, 0.3)
    assert second.sizes == Mixture(8, (Split(4, 0.5), Split(2))) and second.last
    assert str(second.sizes) == "8 with 4 on 50% with 2 on the mask" and second.sizes.sizes == (8, 4, 2)
    assert parse_schedule("4 with 2 on 12.5% until sigma 0.5, then 2").rows[0].sigma == 0.5


@pytest.mark.parametrize("text, line", [
    ("4 with 3 on 25%", "patches of 4 are split into a size that divides it, not into 3"), ("4 with 4 on 25%", "not into 4"),
    ("4 with 0 on 25%", "not into 0"), ("4 with 2 on 125%", "a share is at most 100%, not 125%"), ("4 with 2", "a row is a patch size"),
    ("4 with 2 on a mask", "a row is a patch size"), ("8 with 4 on 50% with 3 on 10%", "patches of 4 are split")])
def test_what_can_t_be_split_is_said(text, line):
    with pytest.raises(ValueError, match=line):
        parse_schedule(text)


def test_guidance_of_coarse_steps_goes_by_the_finest_of_a_mixture():
    plan = parse_schedule("4 until 50%, then 4 with 2 on 25%", coarse_cfg=1.5)
    assert plan.guidance(4, 2.0) == 3.0 and plan.guidance(plan.rows[1].sizes, 2.0) == 2.0 and plan.finest == 2


# --- where ----------------------------------------------------------------------------------------------------------

def test_what_the_mask_touches_is_split_to_the_last_cell():
    mask = torch.zeros(1, 64, 96)
    mask[:, 0:2, 40:42] = 1  # one latent cell of 16×24 is 4×4 of these
    touched = touching(mask, 4, (16, 24))
    assert touched.nonzero().tolist() == [[0, 2]]
    mix = mix_of(Mixture(4, (Split(2),)), torch.zeros(2, 4, 16, 24), None, mask)
    assert mix.counts == {4: 23, 2: 4} and mix.places[2][0].tolist() == [4, 5, 16, 17]


def test_masks_of_a_batch_split_as_many_patches_in_each_picture():
    mask = torch.zeros(2, 16, 24)
    mask[0, :4, :4], mask[1, :8, :8] = 1, 1
    mix = mix_of(Mixture(4, (Split(2),)), torch.zeros(2, 4, 16, 24), None, mask)
    assert mix.counts == {4: 20, 2: 16}
    assert {0, 1, 12, 13} <= set(mix.places[2][0].tolist())


def test_detail_goes_where_x0_varies_most():
    x0 = torch.zeros(1, 4, 16, 24)
    x0[:, :, 4:8, 8:12] = randn(4, 4, 4)
    mix = mix_of(Mixture(4, (Split(2, 1 / 24),)), x0, x0)
    assert mix.places[2][0].tolist() == [28, 29, 40, 41]
    assert mix_of(Mixture(4, (Split(2, 0.5),)), x0, None).counts == {4: 24}  # before the first x0
    assert counts_of(Mixture(8, (Split(4, 0.5), Split(2, 0.5))), (16, 24)) == {8: 3, 4: 6, 2: 24}


# --- drawing --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("rows, same", [("4 with 2 on 0%", "4"), ("4 with 2 on the mask", "4"), ("8 with 2 on 0%", "8")])
def test_nothing_split_is_the_coarse_size_bit_for_bit(dit, positive, negative, rows, same, solver):
    none = torch.zeros(1, 16, 24)
    mixed, plain = (drawn(dit, plan, positive, negative, 2.0, solver, mask=none)[1] for plan in (rows, same))
    assert torch.equal(unfold(mixed), unfold(plain))


@pytest.mark.parametrize("rows", ["4 with 2 on the mask", "4 with 2 on 100%"])
def test_everything_split_is_the_fine_size_bit_for_bit(dit, positive, negative, rows):
    everywhere, plan = torch.ones(1, 16, 24), f"2 until 20%, then {rows}"  # detail needs an x0
    mixed, plain = (drawn(dit, rows, positive, negative, 2.0, mask=everywhere)[1] for rows in (plan, "2"))
    assert torch.equal(mixed["tokens"], plain["tokens"])


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("rows", ["4 until 30%, then 4 with 2 on 25%", "8 with 4 on 50% with 2 on 50%", "4 with 2 on the mask until 70%, then 2"])
def test_a_run_in_two_parts_is_one_run_bit_for_bit(dit, positive, negative, rows, solver):
    mask = torch.zeros(1, 16, 24)
    mask[:, :7, :9] = 1
    whole, cut = (drawn(dit, rows, positive, negative, 2.0, solver, mask=mask, cut=cut)[0] for cut in (None, 3))
    assert whole["patch_size"] == 2 and torch.equal(whole["tokens"], cut["tokens"])
    assert not torch.equal(whole["tokens"], drawn(dit, "2", positive, negative, 2.0, solver)[0]["tokens"])


def test_each_token_has_its_own_size_and_place(dit, positive):
    """By hand: the model on the two parts in one sequence, put together."""
    mask = torch.zeros(1, 16, 24)
    mask[:, :4, :4] = 1
    handle, sigmas = by_regions(dit, Mixture(4, (Split(2),)), mask), dit.schedule(6)
    tokens = dit.add_noise(dit.fold({"samples": torch.zeros(1, 4, 16, 24)}, 2), sigmas, 0, 3)[0]
    _, x0 = handle.denoise(tokens, sigmas, positive, None, 1.0, "euler", 0, 1)
    latent = unfold(tokens)
    mix = mix_of(handle.mixture, latent, None, mask)
    states, extra = positive[0]
    answer = dit.model.forward_mixed(gather(latent, mix), mix, dit.flow.time(sigmas[:1]), context=states, pooled=extra["pooled_output"])
    torch.testing.assert_close(unfold(x0), dit.flow.to_x0(scatter(answer, mix), latent, sigmas[:1]))


def test_a_model_that_was_not_trained_so_is_remarked(dit, positive):
    rows = "4 until 50%, then 4 with 2 on 25%"
    assert drawn(dit, rows, positive)[2] == "p = 4 with 2 on 25%, which this model was not trained on"
    dit.facts = {"mixes": "yes"}
    assert drawn(dit, rows, positive)[2] == ""


def test_what_can_t_be_read_so_is_refused_before_the_first_step(dit, backbone, positive):
    calls = []
    dit.model.register_forward_pre_hook(lambda *_: calls.append(1))
    area = [[positive[0][0], {**positive[0][1], "area": (4, 4, 0, 0)}]]
    for handle, plan, given, line in (
            (dit, "2 until 50%, then 4 with 2 on the mask", positive, "there is no mask; wire one"),
            (dit, "2 until 50%, then 4 with 1 on 25%", positive, "knows patch sizes 2, 4, 8, not 1"),
            (replace(dit, model=torch.nn.Identity()), "4 with 2 on 25%", positive, "reads patches of one size in a step, not 4 with 2 on 25%"),
            (dit, "4 with 2 on 25%", area, "and a conditioning with an area are not possible together")):
        with pytest.raises(ValueError, match=line):
            drawn(handle, plan, given)
    assert not calls
    with pytest.raises(ValueError, match="a latent of 18×24 cells is not a multiple of 8"):
        drawn(dit, "8 with 2 on 25%", positive, latent=torch.zeros(1, 4, 18, 24))


def test_what_shows_the_inside_of_a_step_is_refused(dit, positive):
    """There are no stages of patches of several sizes, and those of the finest would show another step."""
    handle, sigmas = by_regions(dit, Mixture(4, (Split(2, 0.25),))), dit.schedule(2)
    tokens = dit.add_noise(dit.fold({"samples": torch.zeros(1, 4, 16, 24)}, 2), sigmas, 0, 3)[0]
    with pytest.raises(ValueError, match="patches of several sizes"):
        handle.begin(tokens, sigmas, 0, positive)
    plan = parse_schedule("4 until 50%, then 4 with 2 on 25%")
    with pytest.raises(ValueError, match=r"capture_blocks shows .* a step of the patch_schedule has several \(4 with 2 on 25%\)"):
        Denoise.execute(dit, tokens, sigmas, 0, 2, positive, 1.0, "euler", patch_schedule=plan, capture_blocks=True)


# --- nodes and costs ------------------------------------------------------------------------------------------------

def test_the_node_writes_the_rows(dit):
    mask = torch.ones(1, 8, 8)
    widgets = dict(coarse=4, fine=2, share=0.25, start_percent=0.3)
    made = PatchRegions.execute(**widgets, where="detail").result[0]
    assert made == parse_schedule("4 until 30%, then 4 with 2 on 25%", "native")
    masked = PatchRegions.execute(**{**widgets, "start_percent": 0.0}, where="mask", mask=mask).result[0]
    assert masked == parse_schedule("4 with 2 on the mask", "native") and masked.mask is mask
    assert PatchSchedule.execute(rows="4 with 2 on the mask", mask=mask).result[0].mask is mask
    for wrong, line in ((dict(where="mask"), "Patch Regions: where is mask, and no mask is wired"), (dict(where="detail", fine=3), "not into 3")):
        with pytest.raises(ValueError, match=line):
            PatchRegions.execute(**{**widgets, **wrong})


@pytest.mark.parametrize("rows", ["4 with 2 on 25%", "8 with 4 on 50% with 2 on 50%"])
def test_what_a_mixture_costs_is_what_torch_counts(dit, positive, rows):
    (row,), sigmas = parse_schedule(rows).rows, dit.schedule(6)
    handle = by_regions(dit, row.sizes)
    tokens = dit.add_noise(dit.fold({"samples": torch.zeros(1, 4, 16, 24)}, 2), sigmas, 0, 3)[0]
    tokens, _ = handle.denoise(tokens, sigmas, positive, None, 1.0, "euler", 0, 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the counter knows no CPU kernel of attention
        handle.denoise(tokens, sigmas, positive, None, 1.0, "euler", 1, 2)
    shape = replace(architecture(dit), text=positive[0][0].shape[1])
    step = answers.of_step(shape, (16, 24), row.sizes, guided=False)
    assert step.macs * 2 == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert step.tokens == sum(counts_of(row.sizes, (16, 24)).values())
    walk = answers.of_walk(shape, (16, 24), parse_schedule(rows), sigmas, 1.0)
    assert walk["stretches"] == [{"patch_size": rows, "steps": 6, "tokens": step.tokens, "flops": 2 * step.macs}]

"""A step by stages at the edges: a handle whose blocks can't all be left out, reference pictures beside the picture, predictions on
another grid than the step's, other latent spaces; and what is refused, in which words."""

from copy import deepcopy
from dataclasses import dataclass, replace

from conftest import conditioning
from numbers_and_errors import line
import pytest
import torch

from dit_blocks.dit_impl.errors import ScheduleError, StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.position import sincos_1d
from dit_blocks.dit_impl.model.rotary import Placing
from dit_blocks.dit_impl.model.stages import Stages, TokenStages
from dit_blocks.dit_impl.step import stages
from dit_blocks.dit_impl.step.by_block import by_block
from dit_blocks.dit_impl.step.guidance import guide
from dit_blocks.dit_impl.step.probe import Ablation, Parity, ablate, parity
from dit_blocks.dit_impl.tokens.other_sizes import repatch
from dit_blocks.dit_impl.tokens.wire import fold, fold_nested, identity_format


def clean(dit, size=(8, 6), batch=1, seed=0) -> dict:
    return dit.fold({"samples": torch.randn(batch, dit.channels, *size, generator=torch.Generator().manual_seed(seed))}, 2)


def begun(dit, positive, negative=None, step=0, **which) -> dict:
    """A step until its blocks."""
    sigmas = dit.schedule(4)
    hidden = stages.condition(dit, dit.add_noise(clean(dit, **which), sigmas, step, 7)[0], positive, negative, sigmas, step)
    return stages.position_embed(dit, stages.patch_embed(dit, hidden))


def predicted(dit, positive, negative=None, step=0, **which) -> dict:
    return stages.final_layer(dit, stages.run_blocks(dit, begun(dit, positive, negative, step, **which)))


# --- Wires = KSampler? and Block Ablation ---------------------------------------------------------------------------

def test_a_step_after_others_is_the_model_s_too(backbone, positive, negative):
    sigmas = backbone.schedule(4)
    prediction = guide(predicted(backbone, positive, negative, step=2), 3.0)
    assert parity(backbone, prediction, sigmas, 2, positive, negative, 3.0) == Parity(0.0, "")
    assert parity(backbone, guide(predicted(backbone, positive, negative, step=2), 2.0), sigmas, 2, positive, negative, 3.0).stage == ""
    other = guide(predicted(backbone, positive, conditioning(9), step=2), 3.0)
    found = parity(backbone, other, sigmas, 2, positive, negative, 3.0)
    assert found.stage == "block 1" and str(found) == f"differs by up to {found.largest:.3g}; first after block 1"
    assert str(Parity(0.5, "")) == "differs by up to 0.5; first after guidance" and str(Parity(0.0, "")) == "equal, bit for bit"
    assert line(StagesError, parity, backbone, clean(backbone), sigmas, 2, positive, negative, 3.0) == \
        "prediction is not from Final Layer or DiT Guidance"


@dataclass(eq=False)
class NeedsItsThirdBlock(Backbone):
    @property
    def stages(self):
        made = TokenStages(self.model, self.name)
        made.can_leave_out = lambda block: block != 2
        return made


@pytest.mark.parametrize("needed", [False, True])
def test_a_block_s_change_is_that_of_the_step_without_it(four_blocks, positive, negative, needed):
    dit = NeedsItsThirdBlock(four_blocks.model, four_blocks.latent_format, name="a needy DiT") if needed else four_blocks
    sigmas, tokens, heard = dit.schedule(8), clean(dit), []
    found = ablate(dit, tokens, sigmas, 3, positive, negative, 3.0, 5, lambda total: lambda done: heard.append((done, total)))
    steps = [1, 4, 6]  # the middles of three parts of eight steps
    assert torch.equal(found.sigmas, sigmas[steps]) and found.kinds == ["joint"] * 4 and heard == [(i, 12) for i in range(1, 13)]
    for row, step in enumerate(steps):
        hidden = stages.condition(dit, dit.add_noise(tokens, sigmas, step, 5)[0], positive, negative, sigmas, step)
        hidden = stages.position_embed(dit, stages.patch_embed(dit, hidden))
        whole, *others = (guide(stages.final_layer(dit, stages.run_blocks(dit, hidden, blocks)), 3.0)["tokens"]
                          for blocks in ("all", "1-3", "0,2-3", "0-1,3", "0-2"))
        wanted = torch.stack([(one - whole).norm() / whole.norm() for one in others])
        if needed:
            wanted[2] = torch.nan
        torch.testing.assert_close(found.change[row], wanted, equal_nan=True)
    assert sorted(found.ranking) == ([0, 1, 3] if needed else [0, 1, 2, 3])
    assert found.ranked().endswith("\n2 joint can't be left out") == needed


def test_lists_of_blocks_for_core_s_node():
    def lists(*kinds, count):
        return Ablation(torch.arange(len(kinds), 0, -1.0)[None], torch.ones(1), list(kinds)).skip_lists(count)
    assert lists("double", "double", "double", "single", "single", count=4) == ("1, 2", "0, 1", "0")
    assert lists("joint", "joint", "joint", count=2) == ("1, 2", "", "0")
    assert lists("single", "single", count=1) == ("", "1", "0")
    assert lists("encoder", "double", "double", count=2) == ("", "", "0")  # no numbers of core's
    assert lists("encoder", "double", "single", count=2) == ("", "", "0")


def test_the_picture_after_each_block_is_the_final_layer_s(four_blocks, positive, negative):
    sigmas = four_blocks.schedule(4)
    tokens, hidden = four_blocks.add_noise(clean(four_blocks), sigmas, 0, 7)[0], begun(four_blocks, positive, negative)
    shown = by_block(four_blocks, tokens, sigmas, 0, positive, negative, 3.0)
    assert list(shown) == [0, 1, 2, 3]
    for block, picture in shown.items():
        x0 = guide(stages.final_layer(four_blocks, stages.run_blocks(four_blocks, hidden, f"0-{block}")), 3.0)["tokens"]
        assert torch.equal(picture, four_blocks.picture(tokens, x0))


# --- positions ------------------------------------------------------------------------------------------------------

class RotaryStages(TokenStages):
    positions, trained = "rotary", 2

    def placed(self, hidden, count, placing):
        return hidden.but(position=(count, placing))


class OwnKindOfStages(TokenStages):
    """Rotates by a table of its own."""

    def position_embed(self, hidden):
        return hidden.but(position="a table")


class LearnedElsewhere(Stages):
    """Not of this library: it scales positions itself."""

    def __init__(self, model, name):
        self.model, self.name = model, name

    @property
    def shape(self):
        return TokenStages(self.model, self.name).shape

    def position_embed(self, hidden):
        return hidden

    def scaled_positions(self, hidden, grid):
        return torch.full((1, grid[0] * grid[1], hidden.x.shape[2]), float(grid[0]))


class JoinedStages(TokenStages):
    def check_apart(self, what):
        raise StagesError(f"its {what} can't be told apart")


@dataclass(eq=False)
class Staged(Backbone):
    kind: type = RotaryStages

    @property
    def stages(self):
        return self.kind(self.model, self.name)


def staged(dit, kind=RotaryStages):
    return Staged(dit.model, dit.latent_format, dit.flow, "a staged DiT", kind=kind)


def test_rotary_places_know_the_grid_and_the_noise_level(backbone, class_dit, positive):
    dit, sigmas = staged(backbone), backbone.schedule(4)
    wire = stages.patch_embed(dit, stages.condition(dit, dit.add_noise(clean(dit), sigmas, 2, 7)[0], positive, None, sigmas, 2))
    place = lambda *how: stages.position_embed(dit, wire, *how)["hidden"].position  # noqa: E731
    assert place("shifted", 3, 1.5) == (12, Placing("shifted", 3, 1.5, 2.0, 2, 0.5))  # 4×3 patches: twice the side trained on
    assert place("NTK", 3, 1.5, 1.25) == (12, Placing("NTK", 3, 1.5, 1.25, 2, 0.5))
    assert place("none") == (12, Placing("none", 0, 0.0, 2.0, 2, 0.5))
    film = {**wire, "tokens": {**wire["tokens"], "grid": (9, 4, 1)}}
    assert stages.position_embed(dit, film, "NTK")["hidden"].position == (36, Placing("NTK", 0, 0.0, 2.0, 2, 0.5))  # frames are no side
    assert place() is None
    RotaryStages.trained = 5
    try:
        assert place("DyPE") == (12, Placing("DyPE", 0, 0.0, 1.0, 5, 0.5))  # a smaller grid is not shrunk
    finally:
        RotaryStages.trained = 2
    early = stages.patch_embed(dit, clean(dit))
    assert stages.position_embed(dit, early, "YaRN")["hidden"].position[1].time == 1.0
    assert line(StagesError, stages.position_embed, dit, early, "DyPE") == \
        "DyPE goes by the noise level: put DiT Condition before Position Embed"
    noisy = staged(class_dit)  # whose noise levels begin at 157
    label = class_dit.class_conditioning("3")
    wire = stages.patch_embed(noisy, stages.condition(noisy, clean(noisy), label, None, noisy.schedule(4), 0))
    assert stages.position_embed(noisy, wire, "DyPE")["hidden"].position[1].time == 1.0
    unplaced = stages.patch_embed(dit, stages.condition(dit, clean(dit), positive, None, sigmas, 2))
    assert line(StagesError, stages.run_blocks, dit, unplaced) == \
        "a staged DiT has rotary positions, which its blocks need: put Position Embed before DiT Blocks"


def test_positions_that_are_added(backbone, positive):
    sigmas = backbone.schedule(4)
    wire = stages.patch_embed(backbone, stages.condition(backbone, clean(backbone), positive, None, sigmas, 2))
    x = wire["hidden"].x
    added = lambda *how: stages.position_embed(backbone, wire, *how)["hidden"].x  # noqa: E731
    own = stages.position_embed(backbone, {**wire, "hidden": wire["hidden"].but(x=torch.zeros_like(x))})["hidden"].x
    assert torch.equal(added(), x + own) and torch.equal(added("scaled"), x + own) and torch.equal(added("none"), x)
    assert torch.equal(added("1-D"), x + sincos_1d(64, torch.arange(12)).float())
    for seed in (0, 3):
        assert torch.equal(added("shuffled", seed), x + own[:, torch.randperm(12, generator=torch.Generator().manual_seed(seed))])
    assert torch.equal(added("shuffled"), added("shuffled", 0))
    said = lambda dit, mode: line(StagesError, stages.position_embed, dit, {**wire, "model": dit.name}, mode)  # noqa: E731
    for mode in ("shifted", "NTK"):
        assert said(backbone, mode) == f'mode "{mode}" is for rotary positions, which a small DiT has not'
    assert said(staged(backbone, OwnKindOfStages), "none") == \
        'a staged DiT has positions of its own kind inside attention: only mode "model" is possible, not "none"'
    elsewhere = staged(backbone, LearnedElsewhere)
    assert torch.equal(stages.position_embed(elsewhere, {**wire, "model": elsewhere.name}, "scaled")["hidden"].x, x + 4.0)
    joined = staged(backbone, JoinedStages)
    assert said(joined, "none") == "its positions can't be told apart"
    assert torch.equal(stages.position_embed(joined, {**wire, "model": joined.name})["hidden"].x, x + own)
    assert said(backbone, "3-D") == "mode is one of model, none, shuffled, 1-D, scaled, shifted, NTK, YaRN, DyPE, not '3-D'"
    conditioned = stages.condition(backbone, clean(backbone), positive, None, sigmas, 2)
    assert line(StagesError, stages.position_embed, backbone, conditioned) == "the hidden states have not been through Patch Embed"


# --- the order of stages --------------------------------------------------------------------------------------------

def test_patches_embedded_first_wait_for_their_step(backbone, class_dit, positive, negative):
    sigmas, tokens = backbone.schedule(4), clean(backbone)
    wire = stages.patch_embed(backbone, tokens)
    assert (wire["tokens"], wire["call"], wire["model"], wire["done"]) == (tokens, None, "a small DiT", {"patches"})
    assert wire["hidden"].extra == {"grid": (4, 3), "patch_size": 2}
    assert wire["hidden"].index == 0 and wire["shape"] == stages.shape_of(backbone)
    ((name, sums),) = wire["trace"]
    assert name == "patches" and torch.equal(sums, stages.checksum(wire["hidden"].x).flatten())
    words = [[tensor, {**extras, "words": ("a", "ring")}] for tensor, extras in positive]
    later = stages.condition(backbone, wire, words, negative, sigmas, 1)
    first = stages.condition(backbone, tokens, words, negative, sigmas, 1)
    assert later["done"] == {"patches", "condition"} and [name for name, _ in later["trace"]] == ["patches", "condition"]
    assert torch.equal(later["hidden"].x, wire["hidden"].x.repeat(2, 1, 1)) and torch.equal(later["hidden"].vector, first["hidden"].vector)
    assert later["words"] == first["words"] == ("a", "ring")
    assert "words" not in stages.condition(backbone, tokens, positive, None, sigmas, 1)
    placed = stages.position_embed(backbone, later)
    assert placed["done"] == later["done"] | {"positions"} and stages.run_blocks(backbone, placed)["done"] == placed["done"] | {"blocks"}
    half = replace(backbone, model=deepcopy(backbone.model).bfloat16())
    assert stages.patch_embed(half, tokens)["hidden"].x.dtype == torch.bfloat16
    masked = {**tokens, "noise_mask": torch.ones(1, 8, 6)}
    for dit, given in ((backbone, masked), (class_dit, clean(class_dit))):
        assert line(StagesError, stages.patch_embed, dit, given) == \
            "a small DiT can embed patches only after DiT Condition: put DiT Condition before Patch Embed"


def test_hidden_states_of_another_model(backbone, positive):
    wire = begun(backbone, positive)
    other = replace(backbone, name="another DiT")
    assert torch.equal(stages.run_blocks(other, wire)["hidden"].x, stages.run_blocks(backbone, wire)["hidden"].x)  # of the same shape
    spaced = replace(other, latent_format=identity_format(4) | {"scale": torch.full((4,), 2.0)})
    assert line(StagesError, stages.run_blocks, spaced, wire) == \
        "the hidden states come from a small DiT, which has another latent space than another DiT"
    replayed = {**wire, "hidden": wire["hidden"].but(extra={"stages": TokenStages(torch.nn.Identity(), "x")})}
    assert line(StagesError, stages.check, backbone, replayed) == \
        "the blocks of a small DiT run by replaying its own forward, so that its hidden states go on in no other model"
    unknown = {name: value for name, value in wire.items() if name != "shape"}
    stages.check(backbone, unknown)
    assert line(StagesError, stages.check, other, unknown).startswith(
        "the hidden states come from a small DiT, of a shape not known; the dit is another DiT, ")


# --- grafts ---------------------------------------------------------------------------------------------------------

def test_a_mask_is_over_the_picture_not_over_references_beside_it(backbone, positive):
    def with_references(hidden: dict, value: float) -> dict:
        x = hidden["hidden"].x
        before, after = x.new_full((len(x), 2, x.shape[2]), value), x.new_full((len(x), 3, x.shape[2]), -value)
        return {**hidden, "hidden": hidden["hidden"].but(x=torch.cat([before, x, after], 1), extra={"img_offset": 2})}
    mine, other = (with_references(begun(backbone, positive, step=1, seed=seed), value) for seed, value in ((0, 5.0), (1, 9.0)))
    mask = torch.zeros(1, 4, 3)
    mask[0, 1, 2] = mask[0, 3, 0] = 1
    grafted, kept, theirs = (wire["hidden"].x for wire in (stages.run_blocks(backbone, mine, "", graft=other, mask=mask), mine, other))
    changed = (grafted != kept).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [2 + 5, 2 + 9] and torch.equal(grafted[:, changed], theirs[:, changed])


def test_patches_that_were_only_embedded_can_be_grafted(backbone, positive, negative):
    mine = begun(backbone, positive, negative)
    other = stages.patch_embed(backbone, clean(backbone, seed=1))
    grafted = stages.run_blocks(backbone, mine, "", graft=other)["hidden"].x
    assert torch.equal(grafted, other["hidden"].x.repeat(2, 1, 1))


def test_grafts_that_do_not_fit(backbone, positive):
    mine = begun(backbone, positive)
    assert line(StagesError, stages.run_blocks, backbone, mine, "", graft=begun(backbone, positive, size=(4, 6))) == \
        "the graft has 6 tokens of width 64, the hidden states have 12 of 64"
    area = [[tensor, {**extras, "area": (4, 4, 0, 0)}] for tensor, extras in positive]
    assert line(StagesError, stages.run_blocks, backbone, mine, "", graft=begun(backbone, area)).startswith(
        "the graft's hidden states are of several areas of the picture, of 2×2 tokens, but this node needs all tokens on one grid: ")


def test_attention_to_itself_where_the_picture_does_not_read_itself(backbone, positive):
    class SecondReadsText(TokenStages):
        def attentions(self, hidden, tokens, block=0):
            known = super().attentions(hidden, tokens, block)
            return known if block == 0 else [replace(one, keys={"text": one.keys.get("text")}) for one in known]
    dit, wire = staged(backbone, SecondReadsText), begun(backbone, positive)
    wire = {**wire, "model": dit.name}
    run = lambda blocks: stages.run_blocks(dit, wire, blocks, attention="itself")  # noqa: E731
    assert not torch.equal(run("0")["hidden"].x, stages.run_blocks(dit, wire, "0")["hidden"].x)
    assert line(StagesError, run, "0-1") == 'attention "itself": the image tokens of block 1 of a staged DiT do not read each other'
    conditioned = stages.condition(backbone, clean(backbone), positive, None, backbone.schedule(4), 0)
    for given in ((conditioned,), (begun(backbone, positive), "all", 1.0, conditioned)):
        assert line(StagesError, stages.run_blocks, backbone, *given) == "the hidden states have not been through Patch Embed"


# --- plans ----------------------------------------------------------------------------------------------------------

def test_the_plan_that_the_editor_shows():
    kinds = ["double", "double", "single", "single", "single", "double"]
    assert stages.block_plan(kinds, "all but 1-3") == {
        "groups": [[0, 1, "double"], [2, 4, "single"], [5, 5, "double"]], "runs": [0, 4, 5]}
    assert line(StagesError, stages.block_plan, kinds, "6") == "this model has blocks 0 to 5, there is no block 6"


# --- guidance and Sampler Step --------------------------------------------------------------------------------------

def test_x0_is_on_the_step_s_own_grid_where_the_prediction_is_on_another(backbone, positive):
    """A step over patches of 4 that is computed on a canvas of patches of 2, as a MODEL does."""
    fine = predicted(backbone, positive, size=(8, 8))
    start = repatch(fine["call"].start, 4)

    def to_x0(prediction, cfg):
        return repatch({**fine["call"].start, "tokens": fine["call"].to_x0(prediction, cfg)}, 4)["tokens"]
    coarse = {**fine, "call": replace(fine["call"], start=start, canvas=fine["call"].start, to_x0=to_x0)}
    guided = guide(coarse, 1.0)
    assert guided["patch_size"] == 4 and guided["grid"] == (2, 2) and guided["tokens"].shape == (1, 4, 64)
    sigmas = backbone.schedule(4)
    by_one_step = backbone.advance(start, guided["tokens"], sigmas, 0, "euler")[0]["tokens"]
    for prediction in (coarse, guided):
        assert torch.equal(stages.sampler_step(backbone, start, prediction, sigmas, 0, "euler")[0]["tokens"], by_one_step)
    assert line(StagesError, stages.sampler_step, backbone, fine["call"].start, repatch(guide(fine, 1.0), 4), sigmas, 0, "euler") == \
        "the prediction has a 2×2 grid of patches of 4, tokens a 4×4 grid of patches of 2"
    assert line(StagesError, guide, fine, 2.0, coarse) == \
        "prediction has a 4×4 grid of patches of 2, negative a 2×2 grid of patches of 4"


def test_predictions_that_do_not_belong_together(backbone, positive):
    prediction, sigmas = predicted(backbone, positive, batch=2), backbone.schedule(4)
    tokens = prediction["call"].start
    other_space = {"latent_format": identity_format(4) | {"scale": torch.full((4,), 2.0)}}
    one = predicted(backbone, positive)
    said = lambda *given: line(StagesError, guide, prediction, 2.0, *given)  # noqa: E731
    assert said() == "cfg 2 needs a negative: wire one into DiT Condition, or the prediction of another branch into negative"
    assert said(tokens) == "negative is not from Final Layer or DiT Guidance"
    assert said(predicted(backbone, positive, step=2, batch=2)) == "prediction and negative are of different steps: sigma 1 and 0.5"
    assert said(one) == "prediction and negative have shapes [2, 12, 16] and [1, 12, 16]"
    assert said({**prediction, **other_space}) == \
        "prediction and negative are in different latent spaces: both must come from models that use the same VAE"
    assert line(StagesError, guide, tokens, 2.0, prediction) == "prediction is not from Final Layer or DiT Guidance"
    step = lambda *given: line(StagesError, stages.sampler_step, backbone, *given, sigmas, 0, "euler")  # noqa: E731
    assert step({**tokens, **other_space}, prediction) == \
        "the prediction and the tokens are in different latent spaces: wire the same dit into both"
    assert step(tokens, one) == "the prediction has shape [1, 12, 16], the tokens [2, 12, 16]"
    assert line(ScheduleError, stages.sampler_step, backbone, tokens, prediction, sigmas, 5, "euler") == \
        "step 5 is outside the schedule, whose steps are 0 to 3"


def test_what_a_model_remembers_goes_on_with_the_tokens(backbone, positive):
    prediction, sigmas = predicted(backbone, positive), backbone.schedule(4)
    plain, to_x0 = prediction["call"].start, prediction["call"].to_x0
    keeps = {**prediction, "call": replace(prediction["call"], to_x0=lambda *given: (to_x0(*given), {"remembered": {"cache": 1}}))}
    once = guide(keeps, 1.0)
    for one in (keeps, once, guide(once, 2.0, prediction)):
        assert stages.sampler_step(backbone, plain, one, sigmas, 0, "euler")[0]["remembered"] == {"cache": 1}
    assert "remembered" not in stages.sampler_step(backbone, plain, guide(prediction, 1.0), sigmas, 0, "euler")[0]
    assert line(StagesError, guide, once, 2.0) == "prediction is guided already: for cfg 2, wire a negative prediction into negative"


def test_the_final_layer_needs_a_step_and_patches(backbone, positive):
    conditioned = stages.condition(backbone, clean(backbone), positive, None, backbone.schedule(4), 0)
    assert line(StagesError, stages.final_layer, backbone, conditioned) == "the hidden states have not been through Patch Embed"
    assert line(StagesError, stages.final_layer, backbone, stages.patch_embed(backbone, clean(backbone))) == \
        "the hidden states have not been through DiT Condition"


def test_answers_in_a_row_and_of_several_tensors(backbone, positive):
    """As models of sound give them, and of film with sound."""
    film, sound = torch.randn(1, 4, 3, 2, 2).half(), torch.randn(1, 5, 7).half()
    for answer, tokens in ((sound, {**fold(sound.unsqueeze(2), 1), "line": True}), ((film, sound), fold_nested([film, sound], list))):
        class Answers(TokenStages):
            def head(self, hidden, answer=answer):
                return answer
        dit, wire = staged(backbone, Answers), begun(backbone, positive)
        wire = {**wire, "model": dit.name, "tokens": tokens, "call": replace(wire["call"], start=tokens)}
        prediction = stages.final_layer(dit, wire)
        assert torch.equal(prediction["tokens"], tokens["tokens"].float()) and prediction["tokens"].dtype == torch.float32
        assert prediction["guided"] is False and [name for name, _ in prediction["trace"]][-1] == "final layer"

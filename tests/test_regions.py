"""Areas, masks, strengths, ranges of steps and defaults on a conditioning of the pack's own models, against the same put together by hand.
`host_own_check.py` compares them with KSampler."""

from conftest import conditioning
import pytest
import torch

from dit_blocks.dit_impl.sampling.flow import DDPM
from dit_blocks.dit_impl.sampling.regions import FUZZ, Prompt, has_area, prompt, with_opposites
from dit_blocks.dit_impl.tokens.wire import fold, to_latent, to_tokens
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks

SIZE = (9, 12)
SIGMA = torch.tensor(0.6)


def said(seed: int, **extras) -> list:
    return [[tensor, {**known, **extras}] for tensor, known in conditioning(seed)]


@pytest.fixture
def wire(backbone) -> dict:
    return fold(torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3)), 2)


def x0_of(backbone, wire, positive, negative=None, cfg=1.0, sigma=SIGMA):
    """x0 as a latent."""
    return to_latent(backbone.denoiser(wire, positive, negative, cfg)(wire["tokens"], sigma), wire)


def cut(wire, top, left, height, width) -> dict:
    """A part of the latent as a wire of its own."""
    return fold(to_latent(wire["tokens"], wire)[..., top:top + height, left:left + width], 2)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_prompts_are_averaged_by_strength(backbone, wire):
    one, other = x0_of(backbone, wire, said(1)), x0_of(backbone, wire, said(2))
    assert (one - other).abs().max() > 1e-3
    close(x0_of(backbone, wire, said(1) + said(2)), (one + other) / 2)
    close(x0_of(backbone, wire, said(1) + said(2, strength=3.0)), (one + 3 * other) / 4)


def test_a_mask_weighs_and_is_resized(backbone, wire):
    mask = torch.zeros(1, 18, 24)
    mask[:, :, 12:] = 1
    weight = torch.nn.functional.interpolate(mask[:, None], size=SIZE, mode="bilinear")
    one, other = x0_of(backbone, wire, said(1)), x0_of(backbone, wire, said(2))
    close(x0_of(backbone, wire, said(1) + said(2, mask=mask, mask_strength=0.5)), (one + 0.5 * weight * other) / (1 + 0.5 * weight))


def test_each_picture_of_a_batch_has_its_mask(backbone, wire):
    masks = torch.stack([torch.zeros(SIZE), torch.ones(SIZE)])
    one, other = x0_of(backbone, wire, said(1)), x0_of(backbone, wire, said(2))
    both = x0_of(backbone, wire, said(1) + said(2, mask=masks))
    close(both, torch.stack([one[0], (one[1] + other[1]) / 2]))


def test_an_area_is_asked_about_as_a_picture_of_its_own(backbone, wire):
    """Alone it leaves the rest at 0; over another prompt it fades in over an eighth of a side at most, from its inner borders."""
    top, left, height, width = 3, 5, 6, 7  # it ends where the latent does
    part = x0_of(backbone, cut(wire, top, left, height, width), said(2))
    alone = x0_of(backbone, wire, said(2, area=(height, width, top, left)))
    expected = torch.zeros_like(alone)
    expected[..., top:, left:] = part
    close(alone, expected)
    fuzz = min(FUZZ, height // 4), min(FUZZ, width // 4)
    assert fuzz == (1, 1)
    weight = torch.zeros(1, 1, *SIZE)
    weight[..., top:, left:] = 4.0
    one = x0_of(backbone, wire, said(1))
    close(x0_of(backbone, wire, said(1) + said(2, area=(height, width, top, left), strength=4.0)), (one + weight * expected) / (1 + weight))


def test_an_area_fades_over_its_inner_borders(backbone):
    wide = fold(torch.randn(1, 4, 8, 24, generator=torch.Generator().manual_seed(3)), 2)
    part, one = x0_of(backbone, cut(wide, 0, 8, 8, 16), said(2)), x0_of(backbone, wide, said(1))
    weight = torch.zeros(24)
    weight[8:] = 1
    weight[8:12] = torch.tensor([0.25, 0.5, 0.75, 1.0])
    expected = one.clone()
    expected[..., 8:] = (one[..., 8:] + weight[8:] * part) / (1 + weight[8:])
    close(x0_of(backbone, wide, said(1) + said(2, area=("percentage", 1.0, 2 / 3, 0.0, 1 / 3))), expected)


def test_a_mask_s_bounds_are_an_area_of_at_least_eight_cells(backbone):
    wide = fold(torch.randn(1, 4, 12, 24, generator=torch.Generator().manual_seed(3)), 2)
    mask = torch.zeros(1, 12, 24)
    mask[:, 2:4, 3:16] = 1
    part, one = x0_of(backbone, cut(wide, 2, 3, 8, 13), said(2)), x0_of(backbone, wide, said(1))
    expected = one.clone()
    expected[..., 2:4, 3:16] = (one[..., 2:4, 3:16] + part[..., :2, :]) / 2
    close(x0_of(backbone, wide, said(1) + said(2, mask=mask, set_area_to_bounds=True)), expected)


def test_an_area_has_an_opposite_for_guidance_to_go_away_from(backbone, wire):
    """The negative is asked about the same area, as a picture of its own, and weighs in there likewise."""
    area = (6, 6, 0, 0)
    guided = x0_of(backbone, wire, said(1) + said(2, area=area), said(3), cfg=3.0)
    cond = x0_of(backbone, wire, said(1) + said(2, area=area))
    uncond = x0_of(backbone, wire, said(3) + said(3, area=area))
    close(guided, uncond + (cond - uncond) * 3)


@pytest.mark.parametrize("flow", [None, DDPM()], ids=["flow", "ddpm"])
def test_a_range_of_steps(backbone, wire, flow):
    backbone.flow = flow or backbone.flow
    one, both = said(1), said(1) + said(2, start_percent=0.2, end_percent=0.7)
    for percent, counts in ((0.1, False), (0.3, True), (0.6, True), (0.8, False)):
        sigma = torch.tensor(backbone.flow.sigma_at(percent))
        same = torch.equal(*(x0_of(backbone, wire, positive, sigma=sigma) for positive in (one, both)))
        assert same != counts, percent
    assert not x0_of(backbone, wire, said(2, start_percent=0.9)).any()  # nobody is asked, as in KSampler


def test_a_default_fills_what_the_others_leave(backbone, wire):
    mask = torch.zeros(1, *SIZE)
    mask[..., :5] = 0.25
    one, other = x0_of(backbone, wire, said(1)), x0_of(backbone, wire, said(2))
    close(x0_of(backbone, wire, said(1, default=True) + said(2, mask=mask)), other * mask + one * (1 - mask))


def test_what_pads_the_latent_is_wrapped_anew(backbone, wire, positive):
    """9 rows in patches of 2: what stands in the tenth, past the picture, changes nothing, and comes out as the first row again."""
    assert wire["grid"] == (5, 6)
    odd = fold(torch.randn(1, 4, 10, 12, generator=torch.Generator().manual_seed(4)), 2)["tokens"]
    other = {**wire, "tokens": torch.cat([wire["tokens"][:, :24], odd[:, 24:].expand(2, -1, -1)], dim=1)}
    other["tokens"] = torch.where(to_tokens(torch.ones(2, 4, *SIZE), wire).isfinite(), other["tokens"], 0)
    inside = to_latent(other["tokens"], other)
    first, second = (backbone.denoiser({**wire, "tokens": tokens}, positive)(tokens, SIGMA) for tokens in (other["tokens"], to_tokens(inside, wire)))
    assert torch.equal(first, second) and not torch.equal(other["tokens"], to_tokens(inside, wire))
    assert torch.equal(first, to_tokens(to_latent(first, wire), wire))


@pytest.mark.parametrize("given", [
    lambda: said(1) + said(2), lambda: said(1) + said(2, area=(4, 8, 3, 3), strength=2.0), lambda: said(1) + said(2, area=("percentage", .5, .5, 0, 0)),
    lambda: [[torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1)), said(1)[0][1]]]], ids=["two", "area", "share", "longer text"])
def test_stages_carry_it_too(backbone, wire, negative, given):
    positive, sigmas = given(), backbone.schedule(4)
    step = lambda node, **more: node.execute(dit=backbone, **more).result[0]  # noqa: E731
    hidden = step(Condition, x=wire, positive=positive, negative=negative, sigmas=sigmas, step=1)
    hidden = step(RunBlocks, hidden=step(PositionEmbed, hidden=step(PatchEmbed, x=hidden), mode="model", seed=0), blocks="all", strength=1.0)
    (x0,) = Guidance.execute(prediction=step(FinalLayer, hidden=hidden), cfg=3.0).result
    tokens = hidden["call"].start["tokens"]
    assert torch.equal(x0["tokens"], backbone.denoiser(wire, positive, negative, 3.0)(tokens, sigmas[1]))


def test_stages_can_t_end_a_masked_step_by_ddim(class_dit):
    """Its noise outside the mask is another than the one that the stages began with."""
    sigmas, latent = class_dit.schedule(4), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    tokens, _ = class_dit.add_noise(fold(latent, 2, noise_mask=torch.zeros(1, 8, 8)), sigmas, 1, 5)
    with pytest.raises(ValueError, match="^ddim holds what lies outside a noise mask to other noise than the stages began with; use DiT Denoise Step$"):
        class_dit.advance(tokens, tokens["tokens"], sigmas, 1, "ddim")
    class_dit.advance(tokens, tokens["tokens"], sigmas, 1, "euler")


def test_embedding_before_condition_has_no_areas(backbone, wire):
    hidden = PatchEmbed.execute(dit=backbone, x=wire).result[0]
    with pytest.raises(ValueError, match="^DiT Condition: the conditioning has areas, .*: put DiT Condition before Patch Embed$"):
        Condition.execute(dit=backbone, x=hidden, positive=said(1, area=(4, 4, 0, 0)), sigmas=backbone.schedule(4), step=1)


@pytest.mark.parametrize("extras,message", [
    ({"control": object()}, "positive conditioning carries a ControlNet, which a small DiT has no place for: leave it out"),
    ({"gligen": object()}, "positive conditioning carries GLIGEN boxes, which a small DiT has no place for: leave them out"),
    ({"hooks": object()}, "positive conditioning carries hooks, which change a MODEL: use DiT to MODEL, and sample that"),
    ({"area": (1, 4, 0, 0)}, "positive conditioning has an area of 1×4 latent cells, patches are 2 a side: make it larger"),
    ({"area": (4, 4, 20, 0)}, "positive conditioning has an area that begins at row 20, column 0 of a latent of 9×12 cells"),
    ({"area": (4, 4, 0, 0), "default": True}, "positive conditioning is the default, which fills what others leave, and has an area too: "),
    ({"area": (2, 4, 4, 0, 0, 0)}, "positive conditioning has an area with frames, of a video: this is a picture"),
])
def test_what_can_t_be_is_refused_before_a_step(backbone, wire, extras, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        backbone.denoise(wire, backbone.schedule(2), said(1, **extras))
    assert "\n" not in str(caught.value)


def test_tokens_of_a_video_are_refused(backbone, positive):
    with pytest.raises(ValueError, match="^a small DiT draws pictures, the tokens are of a latent with 3 frames$"):
        backbone.denoise(fold(torch.randn(1, 4, 3, 8, 8), 2), backbone.schedule(2), positive)


def test_conditionings_and_masks_stay_as_they_were(backbone, wire, negative):
    mask = torch.rand(1, *SIZE)
    positive = said(1, mask=mask, area=(4, 4, 0, 0)) + said(2)
    kept = mask.clone(), [dict(extras) for _, extras in positive]
    backbone.denoise(wire, backbone.schedule(2), positive, negative, 3.0)
    assert torch.equal(mask, kept[0]) and [extras.keys() for _, extras in positive] == [extras.keys() for extras in kept[1]]


# --- areas by themselves --------------------------------------------------------------------------------------------

def test_which_prompts_have_an_area():
    mask = torch.ones(1, 4, 4)
    assert has_area({"area": (1, 1, 0, 0)}) and has_area({"mask": mask, "set_area_to_bounds": True})
    assert not any(map(has_area, ({}, {"mask": mask}, {"mask": mask, "set_area_to_bounds": False}, {"set_area_to_bounds": True})))


@pytest.mark.parametrize("rows,columns,area", [
    (slice(0, 0), slice(0, 0), (8, 8, 0, 0)), (slice(3, 5), slice(7, 9), (8, 8, 3, 7)), (slice(2, 13), slice(1, 20), (11, 19, 2, 1)),
    (slice(0, 9), slice(5, 13), (9, 8, 0, 5))])
def test_the_bounds_of_a_mask(backbone, rows, columns, area):
    masks = torch.zeros(2, 16, 24)
    masks[0, rows, columns] = masks[1, rows, columns] = -1.0  # what is not 0 counts, whatever its sign
    found = prompt({}, {"mask": masks, "set_area_to_bounds": True, "mask_strength": 0.5}, (16, 24), backbone.flow, "it", "a model")
    assert found.area == area and torch.equal(found.mask, 0.5 * masks[:, None])
    assert prompt({}, {"mask": masks}, (16, 24), backbone.flow, "it", "a model").area is None


def test_when_a_prompt_counts(backbone):
    def at(**extras) -> tuple[float, float]:
        made = prompt({}, extras, (8, 8), backbone.flow, "it", "a model")
        return made.start, made.end
    assert at() == (float("inf"), 0.0) and at(start_percent=0.25) == (0.75, 0.0) and at(end_percent=0.75) == (float("inf"), 0.25)
    assert at(clip_start_percent=0.25, clip_end_percent=0.5) == (0.75, 0.5)
    assert at(clip_start_percent=0.25, clip_end_percent=0.75, start_percent=0.5, end_percent=0.625) == (0.5, 0.375)
    assert at(clip_start_percent=0.5, clip_end_percent=0.625, start_percent=0.25, end_percent=0.75) == (0.5, 0.375)


def of(name: str, area=None) -> Prompt:
    return Prompt({"name": name}, area, strength=len(name))


def test_an_area_s_opposite_is_of_the_least_prompt_that_covers_it():
    one, whole, tiny = of("one", (4, 4, 2, 2)), of("whole"), of("tiny", (2, 2, 2, 2))
    large, close, aside, same = of("large", (8, 8, 0, 0)), of("close", (5, 5, 1, 1)), of("aside", (4, 4, 3, 2)), of("same", (4, 4, 2, 2))

    def added(*others: Prompt) -> str | None:
        positive, negative = with_opposites([one], list(others))
        new = [prompt for prompt in negative if prompt not in others]
        assert all(prompt.area == one.area and prompt.strength == one.strength for prompt in new) and len(new) < 2
        return new[0].arguments["name"] if new else None
    assert added(whole) == "whole" and added(whole, large) == added(large, whole) == "large"
    assert added(large, close) == added(close, large) == "close"
    assert added(whole, aside, tiny) == "whole" and added(aside) is None and added() is None and added(tiny) is None
    assert added(close, same) is None and added(of("first"), whole) == "first"
    for edge, covers in (((4, 4, 2, 2), True), ((5, 4, 1, 2), True), ((4, 5, 2, 1), True), ((4, 4, 1, 2), False), ((4, 4, 2, 1), False),
                         ((3, 9, 2, 0), False), ((9, 3, 0, 2), False), ((4, 9, 3, 0), False), ((9, 4, 0, 3), False)):
        assert (added(of("other", edge)) is not None or edge == one.area) == covers, edge


def test_both_sides_get_their_opposites():
    mine, theirs = of("mine", (4, 4, 0, 0)), of("theirs", (2, 2, 4, 4))
    positive, negative = with_opposites([of("cond"), mine], [of("uncond"), theirs])
    assert [(prompt.arguments["name"], prompt.area) for prompt in positive] == [
        ("cond", None), ("mine", (4, 4, 0, 0)), ("cond", (2, 2, 4, 4))]
    assert [(prompt.arguments["name"], prompt.area) for prompt in negative] == [
        ("uncond", None), ("theirs", (2, 2, 4, 4)), ("uncond", (4, 4, 0, 0))]

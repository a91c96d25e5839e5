"""Attention maps: what is seen is softmax(q·k), the block computes what it always computes, and a node says what it takes before it starts."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
import statistics
import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model import blocks
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.sampling.flow import DDPM
from dit_blocks.dit_impl.see import attention_maps, attention_pictures, attention_rows
from dit_blocks.dit_impl.see.attention_maps import DIRECTIONS, Question
from dit_blocks.dit_impl.see.attention_rows import MEAN
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.dit_impl.tokens.wire import identity_format
from dit_blocks.nodes.attention import AttentionMap, AttentionSteps
from dit_blocks.nodes.denoise import Denoise

PROMPT = "a small red ring at the left on a beige background"
PLENTY = 1e12


@pytest.fixture(autouse=True)
def as_in_comfyui():
    with torch.inference_mode():
        yield


def text(prompt: str) -> list:
    clip = load_embedded()[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def noisy(dit, sigmas, size=(32, 32), patch_size=0, batch=1, step=0) -> dict:
    tokens = dit.fold({"samples": torch.zeros(batch, dit.channels, *size)}, patch_size)
    return dit.add_noise(tokens, sigmas, step, 1)[0]


def embedded_step(size=(32, 32), patch_size=0, batch=1, negative=True) -> tuple:
    """The default model and hidden states before its first block."""
    dit, sigmas = load_embedded()[0], load_embedded()[0].schedule(4)
    wire = step_stages.condition(dit, noisy(dit, sigmas, size, patch_size, batch), text(PROMPT), text("") if negative else None, sigmas, 0)
    return dit, step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))


def class_step() -> tuple:
    torch.manual_seed(0)
    model = DiT(DiTConfig(in_channels=4, width=64, depth=3, heads=2, classes=10))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    dit = Backbone(model.eval().requires_grad_(False), identity_format(4), DDPM(), "a class DiT", picture_size=64)
    sigmas = dit.schedule(4)
    wire = step_stages.condition(dit, noisy(dit, sigmas, (8, 12), 2, 2), dit.class_conditioning("3"), dit.unconditional, sigmas, 0)
    return dit, step_stages.position_embed(dit, step_stages.patch_embed(dit, wire))


@contextmanager
def recorded(monkeypatch):
    """The queries and keys of every attention that runs, in order, from outside of what captures them."""
    calls, own = [], blocks.attention

    def attention(q, k, v):
        calls.append((q.clone(), k.clone()))
        return own(q, k, v)
    with monkeypatch.context() as patched:
        patched.setattr(blocks, "attention", attention)
        yield calls


def naive(q, k, head) -> torch.Tensor:
    """softmax(q·kᵀ/√d) of one sample: [heads, N, d] → [N, M], one head's or the mean of all."""
    weights = (q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return weights.mean(0) if head == MEAN else weights[head]


@pytest.mark.parametrize("head", [MEAN, 0, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size,patch_size,batch", [((32, 32), 2, 1), ((20, 28), 4, 2)])
def test_rows_are_the_softmax_of_the_block_s_own_queries_and_keys(monkeypatch, head, direction, size, patch_size, batch):
    dit, wire = embedded_step(size, patch_size, batch)
    with recorded(monkeypatch) as calls:
        _, seen = attention_maps.attention_map(dit, wire, Question(1, head, direction, 5), PLENTY)
    (q, k), tokens, words = calls[0], wire["hidden"].x.shape[1], wire["hidden"].context.shape[1]
    full = naive(q[batch], k[batch], head)  # the batch is [uncond, cond]: its first positive is after the negatives
    kinds = {"text": slice(0, words), "image": slice(words, words + tokens)}
    queries, keys = DIRECTIONS[direction]
    expected = full[kinds[queries]][5, kinds[keys]]
    assert (seen.rows.weights[0] - expected).abs().max() < 1e-5 and (seen.rows.sums - 1).abs().max() < 1e-5
    assert torch.equal(seen.shares.flatten(), seen.rows.weights[0]) and expected.std() > 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_row_holds_the_chosen_ones_and_in_pieces_they_are_the_same(monkeypatch, direction):
    dit, wire = embedded_step()
    one = attention_maps.attention_map(dit, wire, Question(2, MEAN, direction, 7), PLENTY)[1]
    _, every = attention_maps.attention_map(dit, wire, Question(2, MEAN, direction, 7, every=True), PLENTY)
    torch.testing.assert_close(every.shares, one.shares)
    tokens, words = wire["hidden"].x.shape[1], wire["hidden"].context.shape[1]
    assert every.maps.shape == (tokens if direction == "image to image" else words, 16, 16)
    monkeypatch.setattr(attention_rows, "CHUNK", 4 * (words + tokens) * 3)
    _, pieces = attention_maps.attention_map(dit, wire, Question(2, MEAN, direction, 7, every=True), PLENTY)
    assert pieces.plan.chunk == 3
    torch.testing.assert_close(pieces.rows.weights, every.rows.weights)


def test_a_word_is_its_tokens():
    dit, wire = embedded_step((16, 16), negative=False)

    def shares(direction, word, query=0):
        return attention_maps.attention_map(dit, wire, Question(3, MEAN, direction, query, word), PLENTY)[1].shares
    numbers = {word: i for i, word in enumerate(wire["words"])}
    red, ring = numbers["red"], numbers["ring"]
    assert (red, ring) == (2, 3)
    torch.testing.assert_close(shares("text to image", "RED"), shares("text to image", "", red))
    torch.testing.assert_close(shares("text to image", "red ring"), (shares("text to image", "2") + shares("text to image", "3")) / 2)
    torch.testing.assert_close(shares("text to image", "the red ring"), shares("text to image", "red ring"))  # articles have no tokens
    torch.testing.assert_close(shares("text to image", "donut"), shares("text to image", "ring"))  # as the tokenizer reads it
    torch.testing.assert_close(shares("image to text", "2-3"), shares("image to text", "red") + shares("image to text", "ring"))
    # every image token at a word: the word's place in each image token's own row
    for query in (0, 50):
        assert shares("image to text", "ring").flatten()[query] == pytest.approx(shares("image to text", "", query)[ring].item(), abs=1e-7)


def test_a_text_as_long_as_the_picture_is_still_no_picture():
    dit, wire = embedded_step((4, 12))  # 2×6 tokens, as many as the text has
    assert wire["hidden"].x.shape[1] == wire["hidden"].context.shape[1]
    _, bars = attention_maps.attention_map(dit, wire, Question(0, MEAN, "image to text", 9), PLENTY)
    assert bars.shares.shape == (12,) and bars.maps.flatten().argmax() == 9 and bars.maps.sum() == 1
    _, to_word = attention_maps.attention_map(dit, wire, Question(0, MEAN, "image to text", 9, "ring ring"), PLENTY)
    assert to_word.shares.shape == (2, 6) and torch.equal(to_word.maps[0], to_word.shares)
    assert to_word.shares.flatten()[9] == pytest.approx(bars.shares[3].item(), abs=1e-7)


@pytest.mark.parametrize("question", [Question(0, MEAN, "image to image", 3), Question(5, 1, "image to text", 3, "red"),
                                      Question(5, MEAN, "text to image", 3, every=True)])
def test_the_hidden_states_are_those_of_dit_blocks(question):
    dit, wire = embedded_step(negative=question.block == 0)
    given = wire["hidden"].x.clone()
    plain = step_stages.run_blocks(dit, wire, str(question.block))
    out = AttentionMap.execute(dit=dit, hidden=wire, language="English", every_query=question.every, **{
        name: getattr(question, name) for name in ("block", "head", "direction", "query", "word")}).result
    after = out[2]
    assert torch.equal(after["hidden"].x, plain["hidden"].x) and torch.equal(wire["hidden"].x, given)
    assert after["hidden"].index == plain["hidden"].index
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in zip(after["trace"], plain["trace"], strict=True))
    if plain["hidden"].context is None:
        assert after["hidden"].context is None
    else:
        assert torch.equal(after["hidden"].context, plain["hidden"].context)
    assert blocks.onlooker.get() is None and not any(block._forward_hooks or block._forward_pre_hooks for block in dit.stages.blocks)


def test_a_class_conditional_dit_has_image_tokens_alone(monkeypatch):
    dit, wire = class_step()
    with recorded(monkeypatch) as calls:
        after, seen = attention_maps.attention_map(dit, wire, Question(1, MEAN, "image to image", 23), PLENTY)
    q, k = calls[0]
    assert torch.equal(after["hidden"].x, step_stages.run_blocks(dit, wire, "1")["hidden"].x)
    torch.testing.assert_close(seen.shares.double(), naive(q[2], k[2], MEAN)[23].view(4, 6), atol=1e-5, rtol=0)
    assert seen.shares.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(StagesError, match="^a class DiT has no text tokens here, so there is no image to text attention$"):
        attention_maps.attention_map(dit, wire, Question(1, MEAN, "image to text"), PLENTY)


def test_what_a_second_attention_of_a_block_sees_is_left_out(monkeypatch, positive):
    """SD3.5-medium's blocks attend twice, the second time over the picture alone."""
    from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig(in_channels=4, width=64, depth=2, heads=2, context_width=32, pooled_width=16, dual_blocks=(0,), position="picture",
                              position_base=8.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    dit = Backbone(model.eval().requires_grad_(False), identity_format(4), name="a dual DiT", picture_size=64)
    sigmas = dit.schedule(4)
    wire = step_stages.patch_embed(dit, step_stages.condition(dit, noisy(dit, sigmas, (8, 8)), positive, None, sigmas, 0))
    with recorded(monkeypatch) as calls:
        _, seen = attention_maps.attention_map(dit, wire, Question(0, 1, "image to image", 2), PLENTY)
    assert len(calls) == 2 and calls[1][0].shape[2] == 16
    torch.testing.assert_close(seen.shares.flatten().double(), naive(calls[0][0][0], calls[0][1][0], 1)[7, 5:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver,cfg,patch_size", [("euler", 3.0, 2), ("heun", 3.0, 2), ("dpmpp_2m", 1.0, 4)])
def test_over_steps_denoises_as_denoise_does(solver, cfg, patch_size):
    dit, sigmas = load_embedded()[0], load_embedded()[0].schedule(5)
    tokens, positive, negative = noisy(dit, sigmas, (16, 24), patch_size, step=1), text(PROMPT), text("")
    run = dict(dit=dit, tokens=tokens, sigmas=sigmas, positive=positive, negative=negative, cfg=cfg, solver=solver, start_step=1)
    plain = Denoise.execute(end_step=5, **run).result
    picture, maps, ours, x0 = AttentionSteps.execute(block=3, head=-1, direction="image to text", query=0, word="ring", at_steps="1,4",
                                                     language="English", **run).result
    assert torch.equal(ours["tokens"], plain[0]["tokens"]) and torch.equal(x0["tokens"], plain[1]["tokens"])
    assert len(maps) == 2 and picture.shape[0] == 1 and not torch.equal(maps[0], maps[1])
    # the map of a step is that of its hidden states
    if solver == "euler":
        before = dit.denoise(tokens, sigmas, positive, negative, cfg, solver, 1, 4)[0]
        wire = step_stages.position_embed(dit, step_stages.patch_embed(dit, step_stages.condition(dit, before, positive, negative, sigmas, 4)))
        _, seen = attention_maps.attention_map(dit, step_stages.run_blocks(dit, wire, "0-2"), Question(3, MEAN, "image to text", 0, "ring"), PLENTY)
        torch.testing.assert_close(attention_pictures.masks(seen)[0], maps[1])


@pytest.mark.parametrize("question", [Question(2, MEAN, "image to image", 100), Question(2, MEAN, "image to image", 100, every=True),
                                      Question(2, MEAN, "image to text", 100, every=True), Question(2, 1, "image to image", 100, every=True)])
def test_capturing_a_block_is_far_from_running_it_twice(question):
    dit, wire = embedded_step()
    plan, _ = attention_maps.plan_capture(dit, wire, question)
    look = attention_rows.onlooker_of(plan, 1, 2, lambda rows: None, dit.name)

    def seconds(watched: bool) -> float:
        start = time.thread_time()  # of this thread: other work on the machine does not count
        with dit.stages.observe(2, look) if watched else nullcontext():
            step_stages.run_blocks(dit, wire, "2")
        return time.thread_time() - start
    seconds(True), seconds(False)
    rounds = [(seconds(True), seconds(False)) for _ in range(40)]
    assert statistics.median(seen / plain for seen, plain in rounds) < 1.6  # 1.05 on an idle machine


def test_capturing_all_of_a_block_is_far_from_running_twice_over_many_tokens():
    dit, wire = embedded_step((64, 64))
    plan, _ = attention_maps.plan_capture(dit, wire, Question(2, MEAN, "image to image", 100, every=True))
    look = attention_rows.onlooker_of(plan, 1, 2, lambda rows: None, dit.name)

    def seconds(watched: bool) -> float:
        start = time.thread_time()
        with dit.stages.observe(2, look) if watched else nullcontext():
            step_stages.run_blocks(dit, wire, "all")
        return time.thread_time() - start
    seconds(True), seconds(False)
    assert statistics.median(seconds(True) / seconds(False) for _ in range(7)) < 1.6


@pytest.mark.parametrize("chunk", [attention_rows.CHUNK, 2 ** 20])  # what is worked on at a time takes more than the maps, and less
@pytest.mark.parametrize("question", [Question(2, MEAN, "image to image", 3, every=True), Question(2, 1, "image to text", 3, "ring"),
                                      Question(2, MEAN, "text to image", 3, every=True), Question(2, 0, "image to text", 3, every=True)])
def test_memory_is_as_it_was_predicted(question, chunk, monkeypatch):
    monkeypatch.setattr(attention_rows, "CHUNK", chunk)
    dit, wire = embedded_step((64, 64))
    plan, words = attention_maps.plan_capture(dit, wire, question)
    q, k = (torch.randn(dit.stages.heads, plan.keys, plan.head_dim) for _ in range(2))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        rows = attention_rows.take(plan, q, k, plan.head_dim ** -0.5, None)
        masks = attention_pictures.masks(attention_maps.read_maps(question, plan, rows, words, wire))
    now = most = 0
    for event in told.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    assert rows.weights.nbytes + rows.sums.nbytes == len(plan.rows) * plan.row_bytes
    assert most == pytest.approx(plan.bytes, rel=0.1)
    assert len(masks) == (1 if not question.every else len(plan.columns) if question.direction == "image to text" else len(plan.rows))


def test_what_does_not_fit_is_refused_before_anything_runs(monkeypatch):
    dit, wire = embedded_step()
    monkeypatch.setattr(step_stages, "run_blocks", lambda *_: pytest.fail("it ran"))
    plan, _ = attention_maps.plan_capture(dit, wire, Question(2, MEAN, "image to image", 3, every=True))
    free = plan.work_bytes + 100 * plan.row_bytes + 5
    with pytest.raises(StagesError, match=r"^256 rows of attention over 256 columns take 1.08 MB, 915 kB are free: 100 rows would fit$"):
        attention_maps.attention_map(dit, wire, Question(2, MEAN, "image to image", 3, every=True), free)
    monkeypatch.setattr(attention_rows, "CHUNK", 2 ** 20)
    dit, wire = embedded_step((64, 64))
    plan, _ = attention_maps.plan_capture(dit, wire, Question(2, MEAN, "image to image", 3, every=True))
    free = 900 * (plan.row_bytes + plan.map_bytes) + 5  # its maps are what takes most
    assert plan.work_bytes < len(plan.rows) * plan.map_bytes and plan.bytes > free
    with pytest.raises(StagesError, match="^1024 rows of attention over 1024 columns take 8.39 MB, 7.38 MB are free: 900 rows would fit$"):
        attention_maps.attention_map(dit, wire, Question(2, MEAN, "image to image", 3, every=True), free)


REFUSED = [
    (dict(query=256), "token 256 is outside the grid, whose 16×16 tokens are 0 to 255"),
    (dict(direction="text to image", query=12), "token 12 is outside the text, whose tokens are 0 to 11"),
    (dict(direction="text to image", word="10-40"), "the prompt has text tokens 0 to 11, there is no text token 12"),
    (dict(direction="image to text", word="dragon"),
     "the prompt has no word 'dragon'; its words are small, red, ring, at, left, on, beige"),
    (dict(direction="image to text", word="!"), "word has no word in it: '!'"),
    (dict(direction="image to text", word=","), "word has no word and no number in it: ','"),
    (dict(block=6), "the embedded DiT has blocks 0 to 5, there is no block 6"),
    (dict(head=4), "the embedded DiT has heads 0 to 3, and -1 for their mean, there is no head 4"),
]


@pytest.mark.parametrize("wrong,message", REFUSED)
def test_wrong_inputs_are_one_line(wrong, message):
    dit, wire = embedded_step()
    asked = dict(block=0, head=-1, direction="image to image", query=0, word="", language="English") | wrong
    with pytest.raises(ValueError) as caught:
        AttentionMap.execute(dit=dit, hidden=wire, **asked)
    assert str(caught.value).startswith("Attention Map: " + message) and "\n" not in str(caught.value), caught.value


def test_more_that_is_refused():
    dit, sigmas = load_embedded()[0], load_embedded()[0].schedule(4)
    tokens = noisy(dit, sigmas)
    run = dict(dit=dit, tokens=tokens, sigmas=sigmas, positive=text(PROMPT), cfg=1.0, solver="euler", block=0, head=-1,
               direction="image to image", query=0, word="", language="English")
    for at_steps, message in (("7", "this run has steps 0 to 3, there is no step 7"), ("x", "steps are numbers and ranges")):
        with pytest.raises(ValueError, match=f"^Attention over Steps: {message}"):
            AttentionSteps.execute(at_steps=at_steps, **run)
    with pytest.raises(ValueError, match="^Attention over Steps: at_steps takes steps from 2 to 3, not '0'"):
        AttentionSteps.execute(at_steps="0", start_step=2, **run)
    with pytest.raises(ValueError, match="^Attention over Steps: cfg 3 needs a negative"):
        AttentionSteps.execute(at_steps="", **(run | {"cfg": 3.0}))
    coarse = dit.reading(6)
    with pytest.raises(StagesError, match="which has no stages of its own"):
        attention_maps.over_steps(coarse, noisy(dit, sigmas, patch_size=6), sigmas, text(PROMPT), None, 1.0, "euler", 0, 4,
                                  Question(0, -1, "image to image"), "", PLENTY)
    raw = step_stages.patch_embed(dit, tokens)
    with pytest.raises(ValueError, match="^Attention Map: the hidden states have not been through DiT Condition"):
        AttentionMap.execute(dit=dit, hidden=raw, block=0, head=-1, direction="image to image", query=0, word="", language="English")


@pytest.mark.parametrize("language", ["English", "中文"])
@pytest.mark.parametrize("question", [Question(3, MEAN, "image to image", 100), Question(3, 2, "image to text", 100),
                                      Question(3, MEAN, "image to text", 0, "red ring"), Question(3, MEAN, "text to image", 0, "ring")])
def test_pictures_and_words_tell_what_was_seen(question, language):
    dit, wire = embedded_step()
    _, seen = attention_maps.attention_map(dit, wire, question, PLENTY)
    picture, words = attention_pictures.drawing(seen, language).image, attention_pictures.described(seen, language)
    assert picture.dim() == 4 and picture.shape[-1] == 3 and min(picture.shape[1:3]) >= 384 and 0 <= picture.min() <= picture.max() <= 1
    mask = attention_pictures.masks(seen)
    assert mask.shape == (1, 16, 16) and mask.max() == 1 and mask.min() >= 0
    assert "1.000000" in words and ("rows sum to" in words) == (language == "English")
    assert attention_rows.in_bytes(len(seen.plan.rows) * seen.plan.row_bytes) in words
    if "text" in question.direction and question.word:
        assert "ring" in words


@pytest.mark.parametrize("mask", [None, "bool", (9,), (1, 9), (2, 7, 9), (2, 1, 9), (2, 3, 7, 9), (1, 1, 7, 9)])
@pytest.mark.parametrize("how", ["heads apart", "heads joined", "grouped", "scaled"])
def test_every_form_of_a_call_to_comfyui_s_attention_is_read(mask, how):
    """PyTorch's own attention over values that are one-hot gives the weights themselves."""
    from dit_blocks.nodes.comfyui.stages.base import queries_and_keys
    generator = torch.Generator().manual_seed(0)
    heads, shared = 3, 1 if how == "grouped" else 3
    q, k = (torch.randn(2, n, length, 4, generator=generator) for n, length in ((heads, 7), (shared, 9)))
    scale = {"scale": 0.3} if how == "scaled" else {}
    if mask is not None:
        shape = (2, 1, 1, 9) if mask == "bool" else mask if len(mask) > 1 else (7, 9)
        mask = torch.rand(shape, generator=generator) > 0.3 if mask == "bool" else torch.randn(shape, generator=generator)
    whole = mask if mask is None or mask.dim() == 4 else mask.unsqueeze(1) if mask.dim() == 3 else mask
    values = torch.eye(9).expand(2, shared, 9, 9)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, values, attn_mask=whole, enable_gqa=how == "grouped", **scale)
    given = (q, k, k) if how != "heads joined" else [t.transpose(1, 2).flatten(2) for t in (q, k, k)]
    read = queries_and_keys(*given, heads, mask, skip_reshape=how != "heads joined", **scale, transformer_options={})
    for head in (MEAN, 1):
        found = []
        plan = attention_rows.Plan(0, head, 0, [5, 2], range(9), 9, heads if head == MEAN else 1, 4, False)
        attention_rows.onlooker_of(plan, 1, 2, found.append, "a model")(0, *read)
        rows = expected[1].mean(0) if head == MEAN else expected[1, head]
        torch.testing.assert_close(found[0].weights, rows[[5, 2]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("language", ["English", "中文"])
def test_long_texts_and_videos_are_drawn_too(language):
    dit, wire = embedded_step((16, 16))
    _, seen = attention_maps.attention_map(dit, wire, Question(0, MEAN, "image to text", 9), PLENTY)
    short, long = (replace(seen, shares=torch.rand(count).softmax(0), names=None) for count in (24, 77))
    assert attention_pictures.drawing(long, language).image.shape[1] < 1.3 * attention_pictures.drawing(short, language).image.shape[1]
    assert "24" in attention_pictures.note(long, language) and "77" in attention_pictures.note(long, language)
    shares = torch.rand(3 * 4, 6)
    video = replace(seen, question=Question(0, 1, "image to image", 30), shares=shares, maps=shares.view(3, 4, 6), grid=(3, 4, 6))
    frames = attention_pictures.map_pictures(video, 100.0, 60)
    plain = attention_pictures.map_pictures(replace(video, question=Question(0, 1, "text to image", 3)), 100.0, 60)
    assert [torch.equal(*pair) for pair in zip(frames, plain)] == [True, False, True]  # the query is in the second frame
    assert attention_pictures.drawing(video, language).image.dim() == 4
    sheet = attention_pictures.over_steps({0: video, 2: video}, torch.linspace(1, 0, 5), language).image
    assert sheet.shape[2] > 3 * 2 * 60

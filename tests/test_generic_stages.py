"""The generic stages of a small transformer that is not ComfyUI's: what a replay gives is what the model itself gives."""

import pytest
import torch
from torch import nn

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.nodes.comfyui.stages.generic import GenericStages

P, WIDTH = 2, 8


class Block(nn.Module):
    """Attention over text and picture, which changes its inputs in place."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.runs = 0

    def forward(self, x, text, vec, transformer_options={}):
        self.runs += 1
        joined = torch.cat((text, x), dim=1)
        joined = joined + (joined.softmax(1) * self.mix(joined) * vec[:, None]).mean(1, keepdim=True) + 0.1 * self.mix(joined)
        x.copy_(joined[:, text.shape[1]:])
        return x, joined[:, :text.shape[1]]


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, joined, vec, skip=None):
        joined = joined if skip is None else joined + skip
        return joined + torch.tanh(self.mix(joined)) * vec[:, None] + joined.mean(1, keepdim=True)


class Toy(nn.Module):
    """Two streams, then one: text, picture. `first` of the singles is read once more by the last, as in HunyuanDiT."""

    def __init__(self, blocks=3, singles=3):
        super().__init__()
        self.embed = nn.Conv2d(4, WIDTH, P, P)
        self.time = nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh())
        self.text = nn.ModuleList([nn.Linear(6, WIDTH)])
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.singles = nn.ModuleList(Single() for _ in range(singles))
        self.head = nn.Linear(WIDTH, 4 * P * P)
        self.used, self.turned, self.remembered = singles, False, None

    def forward(self, x, timesteps, context=None, control=None, transformer_options={}, **kwargs):
        batch, _, height, width = x.shape
        h, w = height // P, width // P
        text, vec = self.text[0](context), self.time(timesteps[:, None])
        x = self.embed(x).flatten(2).transpose(1, 2)
        for i, block in enumerate(reversed(self.blocks) if self.turned else self.blocks):
            x, text = block(x, text, vec, transformer_options=transformer_options)
            if control is not None:
                x += control[i]
        joined, first = torch.cat((text, x), dim=1), None
        for i, single in enumerate(self.singles[:self.used]):
            joined = single(joined, vec, skip=first if i == len(self.singles) - 1 else None)
            first = joined if i == 0 else first
        x = self.head(joined[:, text.shape[1]:]).view(batch, h, w, 4, P, P)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, 4, height, width)


@pytest.fixture
def model() -> Toy:
    torch.manual_seed(0)
    return Toy().requires_grad_(False)


@pytest.fixture
def call() -> tuple[tuple, dict]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return (draw(2, 4, 6, 8), torch.tensor([0.5, 0.7])), {"context": draw(2, 5, 6), "transformer_options": {}}


def begun(model, call):
    stages = GenericStages(model)
    hidden = stages.position_embed(stages.patch_embed(stages.condition(*call[0], **call[1])))
    return stages.over(hidden), hidden


def by_hand(model, call, order, strength=1.0):
    """The model's answer with these blocks, told apart from the generic way: each block is a step on (text and picture)."""
    (x, t), kwargs = call
    h, w = x.shape[2] // P, x.shape[3] // P
    text, vec, first = model.text[0](kwargs["context"]), model.time(t[:, None]), None
    image = model.embed(x).flatten(2).transpose(1, 2)
    for i in order:
        if i < len(model.blocks):
            new, words = model.blocks[i](image.clone(), text.clone(), vec)
            image, text = (old + strength * (one - old) if strength != 1 else one for old, one in ((image, new), (text, words)))
            continue
        i -= len(model.blocks)
        joined = torch.cat((text, image), dim=1)
        new = model.singles[i](joined, vec, skip=first if i == len(model.singles) - 1 else None)
        joined = joined + strength * (new - joined) if strength != 1 else new
        first = joined if i == 0 else first
        text, image = joined[:, :text.shape[1]], joined[:, text.shape[1]:]
    answer = model.head(image).view(len(x), h, w, 4, P, P)
    return answer.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def test_the_blocks_are_found_and_the_text_is_no_block(model, call):
    stages, _ = begun(model, call)
    assert stages.kinds == ["blocks"] * 3 + ["singles"] * 3 and list(stages.blocks) == [*model.blocks, *model.singles]
    trace = stages.trace
    assert trace.fixed == {"text.0"} and [set(reads) for reads in trace.sources] == [set(), {0}, {1}, {2}, {3}, {3, 4}, {5}]


def test_only_outputs_that_are_read_again_are_kept(model, call):
    stages, hidden = begun(model, call)
    kept = []
    for block in range(6):
        hidden = stages.run_blocks(hidden, [block])
        kept.append(set(hidden.extra["state"].outs))
    assert kept == [{0}, {1}, {2}, {3}, {3, 4}, {5}]


@pytest.mark.parametrize("order", [range(6), [0, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2, 3, 4, 5], [2, 1, 0, 3, 4, 5], [0, 1, 2, 4, 3, 4], [], [0], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0, -2.0])
def test_any_blocks_give_what_they_give_by_hand(model, call, order, strength):
    stages, hidden = begun(model, call)
    if 5 in order and 3 not in order:
        return
    expected = by_hand(model, call, list(order), strength)
    at_once, one_by_one = stages.run_blocks(hidden, order, strength), hidden
    for block in order:
        one_by_one = stages.run_blocks(one_by_one, [block], strength)
    for done in (at_once, one_by_one):
        assert torch.equal(stages.head(done), expected)


def test_all_stages_are_the_model(model, call):
    stages, hidden = begun(model, call)
    assert torch.equal(stages.head(stages.run_blocks(hidden, range(6))), model(*call[0], **call[1]))
    (x, t), kwargs = call
    kwargs = {**kwargs, "control": [torch.ones(2, 12, WIDTH), torch.zeros(2, 12, WIDTH), torch.ones(2, 12, WIDTH)]}
    stages, hidden = begun(model, ((x, t), kwargs))
    assert torch.equal(stages.head(stages.run_blocks(hidden, range(6))), model(x, t, **kwargs))


def test_a_block_runs_once(model, call):
    stages, hidden = begun(model, call)
    before = [block.runs for block in model.blocks]
    for block in range(3):
        hidden = stages.run_blocks(hidden, [block])
    stages.head(hidden)
    assert [block.runs for block in model.blocks] == [runs + 1 for runs in before]


def test_a_trace_is_made_once_for_a_shape(model, call):
    begun(model, call)
    before = model.blocks[0].runs
    (x, t), kwargs = call
    begun(model, ((x * 2, t / 2), kwargs))
    assert model.blocks[0].runs == before
    begun(model, ((x[..., :6], t), kwargs))
    assert model.blocks[0].runs > before


def test_tokens_are_the_pictures_own(model, call):
    stages, hidden = begun(model, call)
    (x, t), kwargs = call
    image = model.embed(x).flatten(2).transpose(1, 2)
    assert torch.equal(hidden.x, image) and hidden.extra["picture_tokens"] == 12
    text, vec = model.text[0](kwargs["context"]), model.time(t[:, None])
    for block in model.blocks:
        image, text = block(image.clone(), text, vec)
    after = stages.run_blocks(hidden, [0, 1, 2])
    assert torch.equal(after.x, image)
    joined = model.singles[0](torch.cat((text, image), dim=1), vec)
    assert torch.equal(stages.run_blocks(after, [3]).x, joined[:, 5:])


def test_changed_tokens_go_on(model, call):
    stages, hidden = begun(model, call)
    (x, t), kwargs = call
    other = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(2))
    theirs = begun(model, ((other, t), kwargs))[1]
    answer = model(other, t, **kwargs)
    assert torch.equal(stages.head(stages.run_blocks(hidden.but(x=theirs.x), range(6))), answer)
    assert not torch.equal(answer, model(*call[0], **kwargs))
    later = stages.run_blocks(hidden, [0, 1, 2, 3])
    changed = stages.head(stages.run_blocks(later.but(x=later.x + 1), [4, 5]))
    assert not torch.equal(changed, model(*call[0], **kwargs))
    assert torch.equal(stages.head(stages.run_blocks(later.but(x=later.x.clone()), [4, 5])), model(*call[0], **kwargs))


def test_nothing_is_changed(model, call):
    (x, t), kwargs = call
    copies = x.clone(), kwargs["context"].clone()
    stages, hidden = begun(model, call)
    after = stages.run_blocks(hidden, [0, 1])
    held = [leaf.clone() for leaf in after.extra["state"].outs[1]], after.x.clone()
    stages.head(stages.run_blocks(after, [2, 3], 0.5))
    stages.run_blocks(after, [0])
    stages.head(after)
    assert torch.equal(x, copies[0]) and torch.equal(kwargs["context"], copies[1]) and torch.equal(after.x, held[1])
    assert all(torch.equal(*pair) for pair in zip(after.extra["state"].outs[1], held[0]))
    assert not any("forward" in vars(module) for module in model.modules()) and model.remembered is None


def test_what_cannot_be_is_refused(model, call):
    stages, hidden = begun(model, call)
    with pytest.raises(StagesError, match=r"block 0 of Toy \(blocks\.0\) can't run after block 3 \(singles\.0\): it takes other tokens"):
        stages.run_blocks(hidden, [3, 0])
    with pytest.raises(StagesError, match=r"block 5 of Toy .* can't run after block 5 .*: it reads what other blocks answered"):
        stages.run_blocks(stages.run_blocks(hidden, range(6)), [5])
    with pytest.raises(StagesError, match="there is no block 6"):
        stages.run_blocks(hidden, [6])
    with pytest.raises(StagesError, match="the patch embedding of Toy can't be told apart"):
        stages.check_apart("patch embedding")
    with pytest.raises(StagesError, match="blocks of Toy are known after DiT Condition only"):
        GenericStages(model).kinds
    with pytest.raises(StagesError, match=r"attention of block 0 of Toy \(blocks\.0\) can't be seen"):
        stages.attentions(hidden, 12, 0)


class Narrowing(Toy):
    """Its second block halves the number of tokens."""

    def forward(self, x, timesteps, context=None, transformer_options={}, **kwargs):
        text, vec = self.text[0](context), self.time(timesteps[:, None])
        image = self.embed(x).flatten(2).transpose(1, 2)
        joined = self.singles[0](torch.cat((text, image), dim=1), vec)
        joined = self.halve[0](joined)
        return self.singles[1](joined, vec).mean((1, 2))[:, None, None, None].expand(x.shape) + 0


def test_a_block_that_changes_the_shape_cannot_be_left_out(call):
    model = Narrowing()
    model.halve = nn.ModuleList([nn.Sequential(nn.Flatten(1), nn.Linear(17 * WIDTH, 8 * WIDTH), nn.Unflatten(1, (8, WIDTH)))])
    stages, hidden = begun(model.requires_grad_(False), call)
    assert [stages.can_leave_out(block) for block in range(3)] == [True, False, True]
    assert torch.equal(stages.head(stages.run_blocks(hidden, range(3))), model(*call[0], **call[1]))
    for run in (lambda: stages.run_blocks(hidden, [0, 2]), lambda: stages.head(hidden)):
        with pytest.raises(StagesError, match=r"block 1 of Narrowing \(halve\.0\) gives what it was not given"):
            run()
    after = stages.run_blocks(hidden, [0, 1])
    assert after.extra["picture_tokens"] == 0
    with pytest.raises(StagesError, match="not known which are the picture's tokens after block 1"):
        stages.head(after.but(x=after.x + 1))


class Remembering(Toy):
    """Its blocks leave something for the head that no output shows."""

    def forward(self, x, timesteps, context=None, transformer_options={}, **kwargs):
        kept = []
        hooks = [single.register_forward_hook(lambda module, args, out: kept.append(module.mix(out).mean())) for single in self.singles]
        joined, vec = self.embed(x).flatten(2).transpose(1, 2), self.time(timesteps[:, None])
        for single in self.singles:
            joined = single(joined, vec)
        for hook in hooks:
            hook.remove()
        for single in self.singles:
            kept.append(single.mix.last if hasattr(single.mix, "last") else 0)
        return joined.mean((1, 2))[:, None, None, None].expand(x.shape) + self.counted() * 1.0

    def counted(self):
        self.calls = getattr(self, "calls", 0) + 1
        return self.calls


def test_a_memory_in_the_blocks_is_refused(call):
    model = Remembering().requires_grad_(False)
    with pytest.raises(StagesError, match="keep a memory of their own.*use DiT Denoise Step"):
        begun(model, call)


class Caching(Toy):
    """Keeps what it made of the text in an attribute, from one call to the next."""

    def forward(self, x, timesteps, context=None, **kwargs):
        if self.remembered is None:
            self.remembered = [self.singles[0](self.text[0](context), self.time(timesteps[:, None]))]
        return super().forward(x, timesteps, context, **kwargs)


def test_what_a_model_remembers_stays(call):
    model = Caching().requires_grad_(False)
    stages, hidden = begun(model, call)
    assert stages.kinds == ["blocks"] * 3 and model.remembered is None  # the singles run more than once
    stages.head(stages.run_blocks(hidden, [0]))
    assert model.remembered is None
    expected = model(*call[0], **call[1])
    assert len(begun(model, call)[0].kinds) == 6, "what it remembers makes another trace"
    assert torch.equal(stages.head(stages.run_blocks(hidden, range(3))), expected)


class Twice(Toy):
    def forward(self, x, timesteps, context=None, **kwargs):
        return super().forward(super().forward(x, timesteps, context, **kwargs), timesteps, context, **kwargs)


def test_blocks_that_run_twice_are_refused(call):
    with pytest.raises(StagesError, match="Twice has no blocks that it calls once each for the picture"):
        begun(Twice().requires_grad_(False), call)


def test_wrappers_and_replaced_blocks_are_refused(model, call):
    options = {"wrappers": {"diffusion_model": {"EasyCache": [print]}}}
    with pytest.raises(StagesError, match="EasyCache"):
        begun(model, (call[0], {**call[1], "transformer_options": options}))
    model.used = 2
    options = {"patches_replace": {"dit": {("single_block", 2): print}}}
    with pytest.raises(StagesError, match=r"a patch on this MODEL runs in the place of singles\.2"):
        begun(model, (call[0], {**call[1], "transformer_options": options}))


def test_another_order_is_refused(model, call):
    stages, hidden = begun(model, call)
    model.turned = True
    with pytest.raises(StagesError, match="in another order than when they were counted"):
        stages.head(hidden)


class Drawing(Toy):
    def forward(self, x, *args, **kwargs):
        return super().forward(x + torch.randn(1) * 1e-3, *args, **kwargs)


def test_random_numbers_are_refused_and_not_drawn(call):
    before = torch.get_rng_state()
    with pytest.raises(StagesError, match="Drawing, or a patch on it, draws random numbers"):
        begun(Drawing().requires_grad_(False), call)
    torch.set_rng_state(before)
    model = Toy().requires_grad_(False)
    before = torch.get_rng_state()
    begun(model, call)
    assert torch.equal(torch.get_rng_state(), before)

"""Token Journey: every number of it is the step's own, and the step goes on as it would."""

import base64

import pytest
from test_attention import noisy, text
import torch

from dit_blocks.dit_impl.errors import StagesError
from dit_blocks.dit_impl.see import journey
from dit_blocks.dit_impl.sources.embedded import load_embedded
from dit_blocks.dit_impl.step import stages as step_stages
from dit_blocks.nodes.journey import TokenJourney

DIT = load_embedded()[0]
TOKEN, NUMBER = 5, 7


def begun(size=(16, 24), patch_size=2, negative=True, batch=1):
    sigmas = DIT.schedule(4)
    tokens = noisy(DIT, sigmas, size, patch_size, batch)
    return step_stages.condition(DIT, tokens, text("a red ring"), text("") if negative else None, sigmas, 0)


def taken(wire):
    return step_stages.run_blocks(DIT, step_stages.position_embed(DIT, step_stages.patch_embed(DIT, wire)))


@pytest.mark.parametrize("wire", [lambda: begun(), lambda: begun(batch=2, negative=False), lambda: begun((32, 32), 4)])
def test_the_step_goes_on_as_it_would(wire):
    wire = wire()
    before, plain = wire["hidden"].x.clone(), taken(wire)
    after, said = TokenJourney.execute(dit=DIT, hidden=wire, token=TOKEN, number=NUMBER, language="English").result
    assert torch.equal(after["hidden"].x, plain["hidden"].x) and torch.equal(wire["hidden"].x, before)
    assert said.startswith(f"Token {TOKEN}: row")


def test_every_number_is_the_steps_own():
    wire = begun()
    told = journey.journeys(DIT, wire, TOKEN, NUMBER)[1]
    rows, row = DIT.model.x_embedder["2"], len(wire["hidden"].x) - 1  # the conditional part
    assert torch.equal(told.values, wire["call"].x[0].float())
    assert torch.allclose(told.matrix, rows.weight.float(), atol=1e-5) and abs(told.bias(NUMBER) - rows.bias[NUMBER].item()) < 1e-4
    embedded = step_stages.patch_embed(DIT, wire)
    assert torch.equal(told.embedded, embedded["hidden"].x[row])
    placed = step_stages.position_embed(DIT, embedded)
    assert torch.equal(told.placed, placed["hidden"].x[row])
    halfway = step_stages.run_blocks(DIT, placed, "0-2")
    assert torch.equal(told.norms[:, 3], halfway["hidden"].x[row].norm(dim=1))
    answers = step_stages.final_layer(DIT, taken(wire))["tokens"]
    assert torch.equal(told.answers, answers[row])
    assert told.names[:3] == ["<start>", "red", "ring"] and told.read.shape == (len(told.tokens), len(told.names))
    assert 0 < told.read.sum(1).max() < 1


def test_what_is_told_adds_up():
    facts = journey.journeys(DIT, begun(), TOKEN, NUMBER)[1].facts(TOKEN, NUMBER)
    for at in (0, TOKEN):
        total = sum(a * b for a, b in zip(facts["values"][at], facts["row"])) + facts["rest"][at] + facts["bias"]
        assert abs(total - facts["embedded"][at]) < 2e-3
    assert facts["tokens"] == list(range(96)) and facts["grid"] == [8, 12] and facts["count"] == 64


def test_an_embedded_token_is_told_in_bytes():
    told = journey.journeys(DIT, begun(), TOKEN, NUMBER)[1]
    sent = torch.frombuffer(bytearray(base64.b64decode(told.facts(TOKEN, NUMBER)["vectors"][3])), dtype=torch.int8).float()
    assert len(sent) == 192 and sent.abs().max() == 127
    assert (sent / 127 - told.embedded[3] / told.embedded[3].abs().max()).abs().max() <= 0.51 / 127


@pytest.mark.parametrize(("show", "begins"), [
    ("all", ["Token 5", "1. Its", "2. Patch", "3. Its", "4. Length", "5. Words", "6. The head"]), ("patch embedding", ["Token 5", "1. Its", "2. Patch"]),
    ("position embedding", ["Token 5", "3. Its"]), ("text", ["Token 5", "5. Words"]), ("blocks", ["Token 5", "4. Length", "6. The head"])])
def test_a_part_of_it_alone(show, begins):
    said = TokenJourney.execute(dit=DIT, hidden=begun(), token=TOKEN, number=NUMBER, language="English", show=show).result[1].splitlines()
    assert len(said) == len(begins) and all(map(str.startswith, said, begins))


def test_of_a_large_grid_one_token_is_told():
    many = journey.journeys(DIT, begun((64, 64)), 1023, NUMBER)[1]
    assert many.tokens.tolist() == list(range(1024))
    few, token = journey.journeys(DIT, begun((66, 64)), 1050, NUMBER)[1], 1050
    assert few.tokens.tolist() == [token] and len(few.values) == len(few.read) == len(few.norms) == 1
    assert str(token) in journey.described(few, token, NUMBER)


@pytest.mark.parametrize("size", [(16, 24), (66, 64)])
def test_a_matrix_that_does_not_embed_the_values_is_not_told(size, monkeypatch):
    """Not of one token alone either, of which any matrix and a bias would be true."""
    as_it_is = journey.filters_of
    monkeypatch.setattr(journey, "filters_of", lambda *given: as_it_is(*given) * 2)
    told = journey.journeys(DIT, begun(size), TOKEN, NUMBER)[1]
    assert told.matrix is None and told.facts(TOKEN, NUMBER)["row"] is None


def test_in_chinese():
    told = journey.journeys(DIT, begun(), TOKEN, NUMBER)[1]
    assert "图块嵌入" in journey.described(told, TOKEN, NUMBER, "中文")


@pytest.mark.parametrize(("change", "line"), [
    (dict(token=96), "the grid has tokens 0 to 95, there is no token 96"),
    (dict(number=192), "has numbers 0 to 191, there is no number 192"),
    (dict(wire=lambda: step_stages.patch_embed(DIT, begun())), "embedded already: wire hidden from DiT Condition")])
def test_refusals(change, line):
    asked = {"token": TOKEN, "number": NUMBER, "wire": begun, **change}
    with pytest.raises(StagesError, match=line):
        journey.journeys(DIT, asked["wire"](), asked["token"], asked["number"])

"""Copies of modules that a host manages: the same layers, none of what the host hung on them; and wires that are brought from place to place."""

import copy

import pytest
import torch
from torch import nn

from dit_blocks.dit_impl.model.copies import compute_device, hollow_copy, own_copy, shared_copy
from dit_blocks.dit_impl.model.stages import Hidden
from dit_blocks.dit_impl.tokens.places import moved


class Handle:
    """A host's: a copy of it would free what it points to."""
    load_device = torch.device("meta")

    def __deepcopy__(self, memo):
        raise AssertionError("a native handle was copied")


class Tied(nn.Module):
    """One layer under two names, a table, and a list of layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second, self.blocks = self.first, nn.ModuleList([nn.LayerNorm(4), nn.Linear(4, 4)])
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x):
        return self.blocks[1](self.blocks[0](self.second(self.first(x)))) + self.table


@pytest.fixture
def hosted():
    torch.manual_seed(0)
    module = Tied()
    module.comfy_patcher = module.dynamic_vbars = module.dynamic_pins = Handle()
    for layer in (module.first, module.blocks[1]):
        layer._v = layer._pin_state = layer._v_signature = layer._prefetch = layer.weight_lowvram_function = Handle()
        layer.comfy_cast_weights, layer.weight_function, layer.seed_key = True, [Handle()], "first"
    return module


@pytest.mark.parametrize("made", [shared_copy, hollow_copy, lambda module: own_copy(module, torch.device("cpu"), torch.float64)])
def test_no_handle_is_on_a_copy(hosted, made):
    with pytest.raises(AssertionError, match="handle"):
        copy.deepcopy(hosted)
    before = {name: dict(vars(layer)) for name, layer in hosted.named_modules()}
    copied = made(hosted)
    left = [value for layer in copied.modules() for value in vars(layer).values() if isinstance(value, (Handle, list)) and value != []]
    assert not left and copied.first is copied.second and copied.first is not hosted.first
    assert {name: dict(vars(layer)) for name, layer in hosted.named_modules()} == before


def test_a_shared_copy_shares_weights_and_no_layers(hosted):
    copied, x = shared_copy(hosted), torch.randn(2, 4)
    assert torch.equal(copied(x), hosted(x)) and copied.first.weight.data_ptr() == hosted.first.weight.data_ptr()
    assert not any(weight.requires_grad for weight in copied.parameters()) and all(weight.requires_grad for weight in hosted.parameters())
    copied.blocks[1] = nn.Identity()
    copied.blocks[0].register_forward_hook(lambda *_: None)
    assert isinstance(hosted.blocks[1], nn.Linear) and not hosted.blocks[0]._forward_hooks


def test_an_own_copy_has_weights_of_its_own(hosted):
    copied = own_copy(hosted, torch.device("cpu"), torch.float64)
    assert copied.first.weight.dtype == torch.float64 and copied.first.weight.data_ptr() != hosted.first.weight.data_ptr()
    with torch.no_grad():
        copied.first.weight.zero_()
    assert hosted.first.weight.any()


def test_a_patcher_says_where_a_module_computes(hosted):
    assert compute_device(hosted) == torch.device("meta") and compute_device(Tied()) == torch.device("cpu")


def test_what_lies_at_home_is_handed_on_as_it_is():
    x, number, options = torch.ones(1, 2, 3), torch.tensor(0.5), {"sigmas": torch.ones(2)}
    wire = {"hidden": Hidden(x, None, (x,), None, 0, {"transformer_options": options}), "tokens": {"tokens": x, "level": {"sigma": number}}, "done": frozenset()}
    assert moved(wire, torch.device("cpu")) is wire
    there = moved(wire, torch.device("meta"))
    assert there["hidden"].x.device.type == there["hidden"].vector[0].device.type == there["tokens"]["tokens"].device.type == "meta"
    assert there["tokens"]["level"]["sigma"] is number and there["hidden"].extra["transformer_options"] is options
    learning = torch.ones(2, requires_grad=True)
    assert moved(learning, torch.device("meta")) is learning and wire["hidden"].x is x

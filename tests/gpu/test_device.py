"""The simulated device itself: it refuses what a GPU refuses, and counts what makes a CPU wait."""

from gpu import device, shapes
import pytest
import torch
from torch import nn


def test_devices_do_not_mix():
    with device.on():
        x = torch.ones(3, device=device.GPU)
        assert (x + torch.tensor(2.0)).cpu().tolist() == [3.0, 3.0, 3.0]
        for mixed in (lambda: x + torch.ones(3), lambda: torch.ones(3).add_(x), lambda: torch.ones(3)[x.long()], lambda: torch.cat([x, torch.ones(1)]),
                      lambda: torch.randn(3, device=device.GPU, generator=torch.Generator()), lambda: nn.Linear(3, 2)(x)):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()


def test_two_gpus_do_not_mix():
    with device.on():
        x, y = torch.ones(3, device=device.GPU), torch.arange(3, device=device.SECOND)
        assert (x.device, y.device, (y + torch.tensor(2)).device) == (device.GPU, device.SECOND, device.SECOND)
        assert torch.zeros(1, device=device.GPU.type).device == device.GPU
        for mixed in (lambda: x + y, lambda: x + y[0], lambda: x[y], lambda: x.add_(y), lambda: torch.cat([x, y]), lambda: torch.where(y > 1, x, x)):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        there = x.to(device.SECOND)
        assert (there + y).device == device.SECOND and (there + y).tolist() == [1, 2, 3] and x.device == device.GPU
        x.copy_(there * 2)
        assert x.tolist() == [2, 2, 2] and there.tolist() == [1, 1, 1]


def test_waits_and_bytes_are_counted():
    with device.on() as counts:
        x = torch.ones(256, device=device.GPU)
        live = counts.live
        y = x * 2
        assert counts.live == live + 1024 and counts.waits == 0
        y.sum().item(), y.cpu(), bool((y > 1).all())
        assert counts.waits == 3 and counts.down == 1024
        del y
        assert counts.live == live


def test_its_memory_ends():
    with device.on(total=device.counts.live + 4096):
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(2048, device=device.GPU)


def test_float64_can_be_forbidden():
    with device.on(float64=False):
        for made in (lambda: torch.zeros(2, device=device.GPU, dtype=torch.float64), lambda: torch.zeros(2, device=device.GPU).double(),
                     lambda: torch.zeros(2, dtype=torch.float64).to(device.GPU)):
            with pytest.raises(TypeError, match="float64"):
                made()


def test_a_backward_pass_gives_the_gradients_of_the_cpu():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)), torch.randn(5, 4)
    model(x).square().mean().backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    with device.on():
        model.to(device.GPU)
        model(x.to(device.GPU)).square().mean().backward()
        assert model[0].weight.device == device.GPU and torch.equal(model[0].weight.grad.cpu(), expected)


def test_tensors_without_values_take_the_memory_that_they_would():
    with shapes.mode:
        weight = torch.empty(1 << 17, 1 << 15)
    before = device.counts.live
    with shapes.on(), device.on(total=before + (24 << 30)) as counts:
        there = weight.to(device.GPU)
        assert counts.live - before == counts.up == 16 << 30
        x = torch.ones(3, 1 << 15, device=device.GPU)
        assert (x @ there.T).sum().item() == 0.5 and counts.waits == 1
        assert torch.tensor([3.0, 4.0]).to(device.GPU).mul(2).tolist() == [6.0, 8.0]
        with pytest.raises(torch.OutOfMemoryError):
            weight.to(device.GPU)
        del there
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        assert layer.to(device.GPU).weight.device == device.GPU and counts.live - before >= 16 << 30
        del layer
        counts.restart()
        q = torch.zeros(1, 24, 1 << 16, 128, dtype=torch.float16, device=device.GPU)
        nn.functional.scaled_dot_product_attention(q, q, q)
        assert counts.peak - before < 3 * (24 << 24)

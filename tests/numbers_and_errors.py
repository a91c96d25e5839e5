"""Random numbers by a seed, and the line that an error says, for tests."""

import pytest
import torch


def randn(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def line(error, call, *arguments, **named) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **named)
    return str(caught.value)

"""Attention in parts, in which image tokens read themselves and the text, against the masked softmax of all tokens by all tokens."""

import pytest
import torch

from dit_blocks.dit_impl.model import alone
from dit_blocks.dit_impl.model.alone import Alone

N, TEXT, WIDTH = 23, 5, 8


def masked(q, k, v, mask):
    scores = q @ k.transpose(-1, -2) * WIDTH ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


def padding(rows: int) -> torch.Tensor:
    """Which keys may be read, some of the text's not."""
    allowed = torch.ones(2, 1, rows, N + TEXT, dtype=torch.bool)
    allowed[1, ..., 1:3] = False
    return allowed


MASKS = {"none": None, "keys": padding(1), "queries and keys": padding(N + TEXT), "values": torch.randn(N + TEXT, N + TEXT)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("first", [0, TEXT, 2], ids=["text after", "text before", "text around"])
@pytest.mark.parametrize("chunk", [1, 10, 1024])
def test_it_is_the_masked_softmax(monkeypatch, mask, first, chunk):
    monkeypatch.setattr(alone, "CHUNK", chunk)
    q, k, v = (torch.randn(2, 3, N + TEXT, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    image, made = range(first, first + N), []
    reads = torch.zeros(N + TEXT, N + TEXT)
    reads[first:first + N, first:first + N] = torch.full((N, N), -torch.inf).fill_diagonal_(0)
    whole = reads if mask is None else alone.both(reads, mask)

    def attend(q, k, v, given):
        made.append((q.shape[-2], k.shape[-2]))
        return masked(q, k, v, given)
    found = Alone(image, image).attention(q, k, v, mask, attend)
    torch.testing.assert_close(found, masked(q, k, v, whole))
    parts = [one for one in made if one[0] <= chunk and one[1] <= TEXT + chunk]
    assert sum(rows for rows, _ in parts) >= N and all(rows <= TEXT for rows, _ in set(made) - set(parts)), made


def test_queries_of_the_picture_that_stand_elsewhere_than_its_keys():
    q, k, v = (torch.randn(1, 2, count, WIDTH) for count in (N, N + TEXT, N + TEXT))
    added = torch.zeros(N, N + TEXT)
    added[:, TEXT:] = torch.full((N, N), -torch.inf).fill_diagonal_(0)
    torch.testing.assert_close(Alone(range(N), range(TEXT, TEXT + N)).attention(q, k, v, None, masked), masked(q, k, v, added))

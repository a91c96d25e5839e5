"""Attention in which every image token reads itself and the text: perturbed attention, Ahn et al. 2024, §4.2.

It is computed in parts, so that no mask of all tokens by all tokens is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1024  # image tokens in a part
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # queries, keys, values, mask → [..., n, d]


@dataclass(frozen=True)
class Alone:
    """Which queries read no image token but themselves, and their keys, in the same order."""
    queries: range
    keys: range

    def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Attend) -> Tensor:
        """Queries [..., N, d], keys and values [..., M, d], and the mask that they have anyway, [..., N or 1, M or 1]: → [..., N, d]."""
        others = [slice(0, self.keys.start), slice(self.keys.stop, k.shape[-2])]
        shared, found = k.shape[-2] - len(self.keys), []

        def whole(part: slice) -> None:
            if part.start < part.stop:
                found.append(attend(q[..., part, :], k, v, rows_of(mask, part)))
        whole(slice(0, self.queries.start))
        for start in range(0, len(self.queries), CHUNK):
            count = min(CHUNK, len(self.queries) - start)
            part, own = (slice(side.start + start, side.start + start + count) for side in (self.queries, self.keys))
            added = q.new_zeros(count, shared + count)
            added[:, shared:].fill_(-torch.inf).fill_diagonal_(0)
            read = [*others, own]
            given = columns_of(rows_of(mask, part), read)
            found.append(attend(q[..., part, :], joined(k, read), joined(v, read), added if given is None else both(added, given)))
        whole(slice(self.queries.stop, q.shape[-2]))
        return torch.cat(found, -2)


def joined(t: Tensor, parts: list[slice]) -> Tensor:
    """Some tokens: [..., N, d] → [..., n, d]."""
    return torch.cat([t[..., part, :] for part in parts], -2)


def rows_of(mask: Tensor | None, part: slice) -> Tensor | None:
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., part, :]


def columns_of(mask: Tensor | None, parts: list[slice]) -> Tensor | None:
    return mask if mask is None or mask.shape[-1] == 1 else torch.cat([mask[..., part] for part in parts], -1)


def both(added: Tensor, mask: Tensor) -> Tensor:
    """Two masks, the second of values to add or True where a query may attend."""
    return added + (added.new_zeros(mask.shape).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask)

"""Patches of several sizes in one sequence: cutting and laying back, splitting, and the MM-DiT that reads them."""

import pytest
import torch

from dit_blocks.dit_impl.model.mmdit import MMDiT, MMDiTConfig
from dit_blocks.dit_impl.tokens import mixed
from dit_blocks.dit_impl.tokens.patch import patchify, token_grid

SIZE = (16, 24)
CONFIG = MMDiTConfig(patch_sizes=(2, 4, 8), in_channels=4, width=32, depth=2, heads=2, context_width=8, pooled_width=8, qk_norm=True,
                     position="picture", position_base=16.0, prediction="x0")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some(seed: int = 0) -> mixed.Mix:
    """Two samples: 8 split to 4 and to 2, 4 to 2, at places of their own."""
    made = mixed.whole(SIZE, 8, 2)
    made = mixed.split(made, 8, torch.tensor([[0, 3], [1, 5]]))
    made = mixed.split(made, 8, torch.tensor([[2], [0]]), 2)
    return mixed.split(made, 4, made.places[4][:, 1:3])


def model(detail: int = 16) -> MMDiT:
    made = MMDiT(MMDiTConfig(**{**vars(CONFIG), "detail": detail}))
    torch.manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def text() -> dict[str, torch.Tensor]:
    return {"t": torch.tensor([300.0, 700.0]), "context": drawn(2, 5, 8, seed=2), "pooled": drawn(2, 8, seed=3)}


def test_gather_and_scatter_undo_each_other_and_cover_every_cell_once():
    latent, mix = drawn(2, 4, *SIZE), some()
    tokens = mixed.gather(latent, mix)
    assert mix.counts == {8: 3, 4: 6, 2: 24} and len(mix) == 33
    assert torch.equal(mixed.scatter(tokens, mix), latent)
    ones = {p: torch.ones_like(one) for p, one in tokens.items()}
    assert torch.equal(mixed.scatter(ones, mix), torch.ones_like(latent))


def test_one_size_everywhere_is_patchify():
    latent = drawn(2, 4, *SIZE)
    for p in (2, 4, 8):
        assert torch.equal(mixed.gather(latent, mixed.whole(SIZE, p, 2))[p], patchify(latent, p))


def test_a_split_patch_becomes_its_own_four():
    latent = torch.zeros(1, 1, *SIZE)
    latent[0, 0, 8:16, 16:24] = 1  # the patch of 8 in the second row and third column
    mix = mixed.split(mixed.whole(SIZE, 8, 1), 8, torch.tensor([[5]]))
    tokens = mixed.gather(latent, mix)
    assert tokens[4].shape == (1, 4, 16) and (tokens[4] == 1).all() and (tokens[8] == 0).all()


def test_what_is_richest_in_detail_is_split_first():
    latent = torch.zeros(1, 4, *SIZE)
    latent[0, :, 8:16, 8:16] = drawn(4, 8, 8)
    latent[0, :, 0:8, 0:8] = 5  # flat, however large
    scores = mixed.detail(latent, 8)
    assert mixed.richest(scores, 1).tolist() == [[4]]
    assert mixed.richest(scores, 1, torch.tensor([[0, 1, 2]])).shape == (1, 1)


@pytest.mark.parametrize("wrong,message", [
    (lambda: mixed.whole((16, 20), 8, 1), "16×20 is not a multiple of 8"),
    (lambda: mixed.split(mixed.whole(SIZE, 8, 1), 8, torch.tensor([[0]]), 3), "patches of 8 can't be split into patches of 3"),
    (lambda: mixed.split(mixed.whole(SIZE, 8, 1), 8, torch.tensor([[7]])), "to split is not there"),
    (lambda: mixed.split(mixed.whole(SIZE, 8, 1), 8, torch.tensor([[1, 1]])), "or is named twice"),
])
def test_what_can_t_be_split_is_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("detail", [0, 16])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_a_sequence_of_one_size_is_the_plain_path_bit_for_bit(p, detail):
    latent, dit = drawn(2, 4, *SIZE), model(detail)
    mix = mixed.whole(SIZE, p, 2)
    tokens = mixed.gather(latent, mix)
    assert torch.equal(dit.forward_mixed(tokens, mix, **text())[p], dit(tokens[p], token_grid(*SIZE, p), p, **text()))


def test_every_token_has_the_embedding_the_position_and_the_vector_of_its_own_size():
    dit, mix, latent = model(), some(), drawn(2, 4, *SIZE)
    hidden, start = dit.embed_mixed(mixed.gather(latent, mix), mix, **text()), 0
    for i, (p, places) in enumerate(mix.places.items()):
        plain = dit.embed(patchify(latent, p), token_grid(*SIZE, p), p, **text())
        own = plain.x.gather(1, places[..., None].expand(-1, -1, CONFIG.width))
        torch.testing.assert_close(hidden.x[:, start:start + places.shape[1]], own)
        torch.testing.assert_close(hidden.vector.image[:, i], plain.vector)
        start += places.shape[1]
    each = hidden.vector.image.repeat_interleave(torch.tensor(hidden.vector.counts), dim=1)
    torch.testing.assert_close(hidden.vector.text, each.mean(1))


def test_blocks_modulate_every_token_by_its_own_vector():
    """With attention out of the way a token of a mixed sequence comes out as it does among its like."""
    dit, mix, latent = model(), some(), drawn(2, 4, *SIZE)
    for block in dit.joint_blocks:
        torch.nn.init.zeros_(block.x_block.attn.proj.weight)
        torch.nn.init.zeros_(block.x_block.attn.proj.bias)
    answers = dit.forward_mixed(mixed.gather(latent, mix), mix, **text())
    for p, places in mix.places.items():
        plain = dit(patchify(latent, p), token_grid(*SIZE, p), p, **text())
        torch.testing.assert_close(answers[p], plain.gather(1, places[..., None].expand(-1, -1, plain.shape[2])), atol=1e-4, rtol=1e-4)


def test_the_order_of_patches_in_a_sequence_does_not_matter():
    dit, mix, latent = model(), some(), drawn(2, 4, *SIZE)
    turned = mixed.Mix(mix.size, {p: places.flip(1) for p, places in mix.places.items()})
    one, other = (mixed.scatter(dit.forward_mixed(mixed.gather(latent, m), m, **text()), m) for m in (mix, turned))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_cell_decoder_gives_a_cell_to_its_own_place():
    """A change to one noisy cell reaches, past the blocks, that cell of the answer alone."""
    layer = model().final_layer
    x, raw, vector = drawn(1, 3, 32), drawn(1, 3, 4 * 16), drawn(1, 32)
    other = raw.clone()
    other.view(1, 3, 4, 16)[0, 1, :, 5] += 1
    changed = (layer(x, vector, 4, raw) != layer(x, vector, 4, other)).view(3, 4, 16).any(1)
    assert changed.nonzero().tolist() == [[1, 5]]

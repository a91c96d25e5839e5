"""Training sets of pictures of several sizes and aspect ratios: every picture is learnt from, in batches of one size."""

from dataclasses import replace

from conftest import conditioning
import pytest
import torch

from dit_blocks.dit_impl.errors import SetError, TrainingError
from dit_blocks.dit_impl.sources.embedded import EmbeddedVAE
from dit_blocks.dit_impl.training import sets
from dit_blocks.dit_impl.training.loop import Alone, Draws, Settings, train, validate
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.sets import TrainingSet, from_latents, from_pictures

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")
SETTINGS = Settings(steps=6, batch=4, learning_rate=1e-3, scheduler="constant", warmup=0)
SIZES = [(8, 8), (8, 4), (4, 8)]


class VAE:
    """A latent cell for every 8 × 8 pixels: their mean, and nothing in a fourth channel."""

    def encode(self, pixels):
        latent = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([latent, latent[:, :1] * 0], dim=1)


def mixed(counts=(5, 3, 1)) -> TrainingSet:
    """Latents that are their own numbers, from 1, their sizes in turns."""
    sizes = [size for size, count in zip(SIZES, counts) for _ in range(count)]
    latents = tuple(torch.full((4, *size), at + 1.0) for at, size in enumerate(sizes))
    return TrainingSet(latents, [conditioning(i) for i in range(len(latents))], (), conditioning(99))


def numbers(batch) -> list[int]:
    return [int(value) for value in batch.clean[:, 0, 0, 0]]


def draws(backbone, set_, settings=SETTINGS, runner=Alone()) -> Draws:
    return Draws(set_, Denoising(training_copy(backbone)), settings, runner)


def test_an_epoch_takes_every_picture_once_in_batches_of_one_size(backbone):
    made = draws(backbone, mixed())
    orders = []
    for epoch in range(3):
        batches = [made.at(epoch * 4 + step) for step in range(4)]  # 4 + 1, 3 and 1 pictures
        assert sorted(number for batch in batches for number in numbers(batch)) == list(range(1, 10))
        assert sorted(len(batch.clean) for batch in batches) == [1, 1, 3, 4]
        assert all(batch.noise.shape == batch.clean.shape and len(batch.sigma) == len(batch.conditionings) == len(batch.clean) for batch in batches)
        orders.append([numbers(batch) for batch in batches])
    assert orders[0] != orders[1] != orders[2]
    assert [numbers(draws(backbone, mixed()).at(5))] == [orders[1][1]]  # which follows from the number of the step alone


def test_accumulated_batches_go_on_in_the_epoch(backbone):
    made, plain = draws(backbone, mixed(), replace(SETTINGS, accumulate=2)), draws(backbone, mixed())
    assert [numbers(made.at(step, part)) for step in range(3) for part in range(2)] == [numbers(plain.at(step)) for step in range(6)]


def test_pictures_held_out_keep_their_sizes(backbone):
    made = draws(backbone, mixed((5, 3, 2)), replace(SETTINGS, validation=3))
    assert [numbers(batch) for batch in made.held_out()] == [[9, 10], [8]] and made.count == 7
    seen = []

    class Counted:
        device, patch_sizes = torch.device("cpu"), (2,)

        def loss(self, batch):
            seen.append(numbers(batch))
            return torch.tensor(float(len(batch.clean)))
    assert validate(Counted(), made, Alone()) == pytest.approx((2 * 2 + 1) / 3) and seen == [[9, 10], [8]]


def test_two_processes_share_a_batch(backbone):
    class Second(Alone):
        rank, processes = 1, 2

    class First(Alone):
        rank, processes = 0, 2
    for step in range(4):
        whole = numbers(draws(backbone, mixed()).at(step))
        first, second = (numbers(draws(backbone, mixed(), runner=runner()).at(step)) for runner in (First, Second))
        assert sorted({*first, *second}) == sorted(whole)


def test_a_set_of_one_size_is_drawn_from_as_before(backbone):
    latents = torch.stack([torch.full((4, 8, 8), at + 1.0) for at in range(9)])
    alike = TrainingSet(latents, [conditioning(i) for i in range(9)], (), conditioning(99))
    made = draws(backbone, alike)
    chosen = [number for step in range(9) for number in numbers(made.at(step))]
    assert [sorted(chosen[at:at + 9]) for at in (0, 9, 18, 27)] == [list(range(1, 10))] * 4  # batches go on over the end of an epoch


def test_it_learns_from_all_sizes(backbone):
    objective = Denoising(training_copy(backbone))
    log = train(objective, mixed(), replace(SETTINGS, validation=2))
    assert len(log.losses) == 6 and all(loss > 0 for loss in log.losses)


def test_pictures_of_several_sizes_become_a_set(tmp_path):
    pictures = [torch.rand(2, 64, 64, 3), torch.rand(1, 32, 64, 3), torch.rand(1, 64, 32, 1)]
    made = from_pictures(pictures, VAE(), cache=tmp_path)
    again = from_pictures(pictures, VAE(), cache=tmp_path)
    assert made.sizes == {(8, 8): 2, (4, 8): 1, (8, 4): 1} and len(made) == 4 and made.channels == 4
    assert all(torch.equal(one, other) for one, other in zip(made.latents, again.latents)) and len(list(tmp_path.iterdir())) == 1
    assert str(made).startswith("4 latents of 4×8×8 (2), 4×4×8 (1), 4×8×4 (1), ")
    torch.testing.assert_close(made.latents[3][0], made.latents[3][1])  # grey


def test_the_order_of_sizes_names_another_cache():
    first, second = torch.zeros(1, 64, 32, 3), torch.zeros(1, 32, 64, 3)
    assert sets.fingerprint([first, second], VAE()) != sets.fingerprint([second, first], VAE())


def test_latents_of_several_sizes_and_of_other_vaes():
    assert from_latents([{"samples": torch.zeros(1, 4, *size)} for size in SIZES], None).sizes == dict.fromkeys(SIZES, 1)
    with pytest.raises(SetError, match="the latents of a set come from one VAE, these have 4, 16 channels"):
        from_latents([{"samples": torch.zeros(1, channels, 8, 8)} for channels in (16, 4)], None)


def test_a_size_smaller_than_a_patch_is_refused(backbone):
    small = TrainingSet((torch.zeros(4, 8, 8), torch.zeros(4, 1, 8)), None)
    with pytest.raises(TrainingError, match="the shorter side of the set's latents is 1 cells"):
        draws(backbone, small)


def test_grey_pictures_are_encoded():
    from dit_blocks.dit_impl.sources.embedded import load_embedded
    grey = torch.rand(1, 16, 16, 1)
    vae: EmbeddedVAE = load_embedded()[2]
    torch.testing.assert_close(vae.encode(grey), vae.encode(grey.repeat(1, 1, 1, 3)))

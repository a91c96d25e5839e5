"""A class-conditional DiT through the nodes: labels by number and name, guidance from no class, and what is refused."""

import pytest
import torch

from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.sampling.flow import DDPM
from dit_blocks.dit_impl.tokens.wire import latent_format
from dit_blocks.nodes.class_label import ClassLabel
from dit_blocks.nodes.denoise import AddNoise, Denoise, Schedule
from dit_blocks.nodes.patch import Patchify
from dit_blocks.nodes.vae import EmptyLatent

NAMES = {0: "tench, Tinca tinca", 1: "goldfish", 2: "crane", 3: "great white shark, white shark", 4: "crane"}


def out(node, **inputs):
    return node.execute(**inputs).result


@pytest.fixture
def dit():
    torch.manual_seed(0)
    model = DiT(DiTConfig(in_channels=4, width=32, depth=2, heads=4, classes=5, position_base=4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Backbone(model.eval().requires_grad_(False), latent_format(torch.full((4,), 0.18215), torch.zeros(4)), DDPM(),
                    "a small DiT", picture_size=64, class_names=NAMES)


def start(dit):
    (empty,) = out(EmptyLatent, dit=dit, width=64, height=64, batch_size=2)
    (sigmas,) = out(Schedule, dit=dit, steps=3, scheduler="normal", denoise=1.0)
    tokens, _ = out(Patchify, latent=empty, patch_size=0, dit=dit)
    noisy, _ = out(AddNoise, dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=1)
    return {"dit": dit, "tokens": noisy, "sigmas": sigmas, "solver": "ddim", "start_step": 0, "end_step": 3}


@pytest.mark.parametrize("label,number", [
    ("0", 0), (" 4 ", 4), ("tench", 0), ("Tinca  Tinca", 0), ("tench, tinca tinca", 0), ("white shark", 3), ("", 5), (" ", 5)])
def test_a_label_is_a_number_a_name_or_no_class(dit, label, number):
    (conditioning,) = out(ClassLabel, dit=dit, label=label)
    ((tensor, extras),) = conditioning
    assert extras == {"class_label": number} and tensor.tolist() == [[[number]]]


@pytest.mark.parametrize("label,message", [
    ("5", "label 5 is outside the classes of a small DiT, 0 to 4"),
    ("-1", "label -1 is outside the classes of a small DiT, 0 to 4"),
    ("gold fish", "label 'gold fish' is no class of a small DiT: give a number from 0 to 4, or a name such as 'goldfish'"),
    ("zzz", "label 'zzz' is no class of a small DiT: give a number from 0 to 4, or a name such as 'tench, Tinca tinca'"),
    ("crane", "label 'crane' names the classes 2, 4 of a small DiT: give the number"),
])
def test_a_label_that_is_none_of_them(dit, label, message):
    with pytest.raises(ValueError, match=f"^Class Label: {message}$"):
        out(ClassLabel, dit=dit, label=label)


def test_a_name_where_there_are_none(dit):
    dit.class_names = {}
    with pytest.raises(ValueError, match="^Class Label: a small DiT has no class names: label is a number from 0 to 4, not 'tench'$"):
        out(ClassLabel, dit=dit, label="tench")


def test_text_and_labels_are_not_mixed_up(dit, backbone, positive):
    with pytest.raises(ValueError, match="^Class Label: a small DiT reads text, not a class label: use CLIP Text Encode$"):
        out(ClassLabel, dit=backbone, label="0")
    with pytest.raises(ValueError, match="^DiT Denoise: positive conditioning has no class_label, which a small DiT reads: use Class Label$"):
        out(Denoise, **start(dit), positive=positive, cfg=1.0)
    (label,) = out(ClassLabel, dit=dit, label="1")
    with pytest.raises(ValueError, match="^DiT Denoise: positive conditioning is a class label, a small DiT reads text: use CLIP Text Encode$"):
        out(Denoise, **start(backbone) | {"solver": "euler"}, positive=label, cfg=1.0)
    with pytest.raises(ValueError, match="^DiT Denoise: positive conditioning is class 7, a small DiT knows classes 0 to 4$"):
        out(Denoise, **start(dit), positive=[[label[0][0], {"class_label": 7}]], cfg=1.0)


def test_guidance_goes_away_from_no_class_unless_told_otherwise(dit):
    (positive,), (nothing,), (other,) = (out(ClassLabel, dit=dit, label=label) for label in ("goldfish", "", "2"))
    inputs = start(dit)
    of = {name: out(Denoise, **inputs, positive=positive, cfg=4.0, **negative)[0]["tokens"]
          for name, negative in {"none": {}, "empty": {"negative": nothing}, "other": {"negative": other}}.items()}
    assert torch.equal(of["none"], of["empty"]) and not torch.equal(of["none"], of["other"])
    assert torch.isfinite(of["none"]).all()


def test_one_step_is_the_model_s_own_epsilon(dit):
    """x0 = x − σ·ε, with guidance on ε as the paper has it: ε_u + (ε_c − ε_u)·cfg."""
    inputs = start(dit)
    (positive,) = out(ClassLabel, dit=dit, label="3")
    _, x0, *_ = out(Denoise, **inputs | {"end_step": 1}, positive=positive, cfg=2.0)
    x, sigma = inputs["tokens"]["tokens"], inputs["sigmas"][0]
    z, t = x / (sigma ** 2 + 1).sqrt(), torch.full((4,), 999)
    epsilon = dit.model(z.repeat(2, 1, 1), (4, 4), 2, t, torch.tensor([5, 5, 3, 3]))
    guided = epsilon[:2] + (epsilon[2:] - epsilon[:2]) * 2
    torch.testing.assert_close(x0["tokens"], x - sigma * guided, atol=2e-3, rtol=1e-5)


def test_a_half_precision_model_keeps_its_type_and_the_tokens_theirs(dit):
    dit.model.bfloat16()
    (positive,) = out(ClassLabel, dit=dit, label="3")
    tokens, *_ = out(Denoise, **start(dit), positive=positive, cfg=2.0)
    assert tokens["tokens"].dtype == torch.float32 and torch.isfinite(tokens["tokens"]).all()
    assert {parameter.dtype for parameter in dit.model.parameters()} == {torch.bfloat16}

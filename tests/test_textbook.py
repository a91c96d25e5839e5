"""The textbook step as wires: its loss and gradients are the training loop's, a step changes a copy alone, and slips are refused."""

from dataclasses import replace

from conftest import conditioning
import pytest
import torch

from dit_blocks.dit_impl.handle.backbone import Backbone
from dit_blocks.dit_impl.model.dit import DiT, DiTConfig
from dit_blocks.dit_impl.sampling.flow import DDPM, RectifiedFlow
from dit_blocks.dit_impl.tokens.patch import unpatchify
from dit_blocks.dit_impl.tokens.wire import fold, identity_format
from dit_blocks.dit_impl.training.loop import Batch
from dit_blocks.dit_impl.training.objectives import Denoising, training_copy
from dit_blocks.dit_impl.training.textbook import gradients_of
from dit_blocks.nodes.patch import Patchify
from dit_blocks.nodes.textbook import DiffusionLoss, NoiseAtTime, Trainable, TrainStep
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks

pytest.importorskip("diffusers", reason="no diffusers (pip install diffusers)")


def out(node, **inputs) -> tuple:
    return node.execute(**inputs).result


def prediction_of(dit, patch_size=2, time=-1.0, negative=None, positive=None, batch=2, seed=3):
    samples = torch.randn(batch, dit.channels, 7, 6, generator=torch.Generator().manual_seed(0))
    (clean, _) = out(Patchify, latent={"samples": samples}, patch_size=patch_size, dit=dit)
    noisy, noise, sigmas = out(NoiseAtTime, dit=dit, tokens=clean, seed=seed, time=time, times="logit_normal")
    positive = positive or conditioning(1)
    (hidden,) = out(Condition, dit=dit, x=noisy, positive=positive, sigmas=sigmas, step=0, negative=negative)
    (hidden,) = out(PatchEmbed, dit=dit, x=hidden)
    (hidden,) = out(PositionEmbed, dit=dit, hidden=hidden, mode="model", seed=0)
    (hidden,) = out(RunBlocks, dit=dit, hidden=hidden, blocks="all", strength=1.0)
    (prediction,) = out(FinalLayer, dit=dit, hidden=hidden)
    return prediction, noisy, sigmas, positive


def looped(dit, noisy, sigmas, positive, target, weighting) -> tuple:
    """Loss and gradients of the training loop over the same batch."""
    objective = Denoising(training_copy(dit), target=target, weighting=weighting)
    clean, noise = (unpatchify(noisy["start"][name].clone(), noisy["patch_size"], noisy["size"]) for name in ("clean", "noise"))
    batch = Batch(clean, noise, sigmas[:1].clone().expand(len(clean)), [positive] * len(clean), noisy["patch_size"])
    with torch.inference_mode(False), torch.enable_grad():
        loss = objective.loss(batch)
        loss.backward()
    return loss.item(), {name: p.grad for name, p in objective.trained.items() if p.grad is not None}


def label_model(flow) -> Backbone:
    torch.manual_seed(0)
    model = DiT(DiTConfig((2,), 4, 32, 2, 2, classes=3, position_base=8, learn_sigma=False, prediction=flow.prediction))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Backbone(model.eval().requires_grad_(False), identity_format(4), flow, "a small DiT")


@pytest.mark.parametrize("target, weighting", [("own", "none"), ("x0", "cosmap"), ("epsilon", "sigma_sqrt")])
@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_the_wires_give_the_loop_s_loss_and_gradients(backbone, prediction, target, weighting):
    backbone = replace(backbone, flow=RectifiedFlow(prediction))
    with torch.inference_mode():
        (dit,) = out(Trainable, dit=backbone, scope="everything")
        answer, noisy, sigmas, positive = prediction_of(dit)
        loss, value, picture = out(DiffusionLoss, dit=dit, prediction=answer, target=target, weighting=weighting)
        wired = gradients_of(dit, loss["loss"])
    expected, gradients = looped(backbone, noisy, sigmas, positive, target, weighting)
    assert value == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(wired[name], gradient, atol=1e-6 * gradient.abs().max().clamp_min(1)), name
    assert picture.shape == (2, 7 * 37, 6 * 37, 3) and picture.max() == 1


@pytest.mark.parametrize("flow", [DDPM("epsilon"), DDPM("v")], ids=lambda flow: flow.prediction)
def test_a_ddpm_s_step_too(flow):
    backbone = label_model(flow)
    with torch.inference_mode():
        (dit,) = out(Trainable, dit=backbone, scope="everything")
        answer, noisy, sigmas, positive = prediction_of(dit, positive=backbone.class_conditioning("1"))
        loss, value, _ = out(DiffusionLoss, dit=dit, prediction=answer, target="own", weighting="none")
        wired = gradients_of(dit, loss["loss"])
    expected, gradients = looped(backbone, noisy, sigmas, positive, "own", "none")
    assert value == pytest.approx(expected, rel=1e-6)
    assert all(torch.allclose(wired[name], gradient, atol=1e-6) for name, gradient in gradients.items())


def test_noise_at_a_time_is_the_textbook_s(backbone):
    clean = backbone.fold({"samples": torch.randn(1, 4, 8, 8)})
    noisy, noise, sigmas = out(NoiseAtTime, dit=backbone, tokens=clean, seed=0, time=0.25, times="uniform")
    assert torch.allclose(noisy["tokens"], 0.75 * clean["tokens"] + 0.25 * noise["tokens"]) and sigmas.tolist() == [0.25, 0]
    ddpm = label_model(DDPM())
    noisy, noise, sigmas = out(NoiseAtTime, dit=ddpm, tokens=clean, seed=0, time=0.5, times="uniform")
    alpha = ddpm.flow.alphas_cumprod[500].float()
    z_t = alpha.sqrt() * clean["tokens"] + (1 - alpha).sqrt() * noise["tokens"]
    assert torch.allclose(ddpm.flow.model_input(noisy["tokens"], sigmas[0]), z_t, atol=1e-5)
    times = {float(out(NoiseAtTime, dit=backbone, tokens=clean, seed=seed, time=-1.0, times="logit_normal")[2][0]) for seed in range(4)}
    assert len(times) == 4 and all(0 < time < 1 for time in times)


def test_steps_in_a_row_are_adamw_s(backbone):
    """Three Train Steps on one batch equal torch's AdamW, moments and all; every model before them stays as it was."""
    with torch.inference_mode():
        (dit,) = out(Trainable, dit=backbone, scope="everything")
        chain, told = [dit], []
        for _ in range(3):
            answer, noisy, sigmas, positive = prediction_of(chain[-1])
            loss, *_ = out(DiffusionLoss, dit=chain[-1], prediction=answer, target="own", weighting="none")
            taught, value, norm = out(TrainStep, dit=chain[-1], loss=loss, learning_rate=1e-3, weight_decay=0.01, clip=1e9)
            again, *_ = out(TrainStep, dit=chain[-1], loss=loss, learning_rate=1e-3, weight_decay=0.01, clip=1e9)  # as from a cache
            assert all(torch.equal(a, b) for a, b in zip(taught.model.parameters(), again.model.parameters()))
            chain.append(taught)
            told.append(value)
    objective = Denoising(training_copy(backbone))
    optimizer = torch.optim.AdamW(objective.trained.values(), 1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    clean, noise = (unpatchify(noisy["start"][name].clone(), 2, noisy["size"]) for name in ("clean", "noise"))
    for step in range(3):
        loss = objective.loss(Batch(clean, noise, sigmas[:1].clone().expand(2), [positive] * 2, 2))
        assert told[step] == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        for parameter in objective.trained.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
    for ours, theirs in zip(chain[-1].model.parameters(), objective.module.parameters()):
        assert torch.allclose(ours, theirs, atol=2e-6)
    assert all(torch.equal(a, b) for a, b in zip(chain[0].model.parameters(), backbone.model.parameters()))
    assert told[2] < told[0]


def test_only_the_scope_learns(backbone):
    (dit,) = out(Trainable, dit=backbone, scope="patch embed and head")
    answer, *_ = prediction_of(dit)
    loss, *_ = out(DiffusionLoss, dit=dit, prediction=answer, target="own", weighting="none")
    taught, *_ = out(TrainStep, dit=dit, loss=loss, learning_rate=1e-3, weight_decay=0.0, clip=1.0)
    changed = {name for (name, a), b in zip(dit.model.named_parameters(), taught.model.parameters()) if not torch.equal(a, b)}
    assert changed and all(name.startswith(("x_embedder.2.", "final_layer.")) for name in changed)


def test_slips_are_refused_in_one_line(backbone, negative):
    (dit,) = out(Trainable, dit=backbone, scope="everything")
    answer, noisy, sigmas, _ = prediction_of(dit)
    loss, *_ = out(DiffusionLoss, dit=dit, prediction=answer, target="own", weighting="none")
    train = {"learning_rate": 1e-3, "weight_decay": 0.0, "clip": 1.0}
    with pytest.raises(ValueError, match="Train Step: a small DiT can't learn yet: put Trainable DiT after its loader"):
        out(TrainStep, dit=backbone, loss=loss, **train)
    (other,) = out(Trainable, dit=backbone, scope="everything")
    with pytest.raises(ValueError, match="Train Step: the loss comes from another dit"):
        out(TrainStep, dit=other, loss=loss, **train)
    plain = {"target": "own", "weighting": "none"}
    with pytest.raises(ValueError, match="Diffusion Loss: prediction is not from Final Layer"):
        out(DiffusionLoss, dit=dit, prediction=noisy, **plain)
    (guided,) = out(Guidance, prediction=answer, cfg=1.0)
    with pytest.raises(ValueError, match="Diffusion Loss: prediction is not from Final Layer"):
        out(DiffusionLoss, dit=dit, prediction=guided, **plain)
    both, *_ = prediction_of(dit, negative=negative)
    with pytest.raises(ValueError, match="the loss takes one conditioning, but DiT Condition has 2"):
        out(DiffusionLoss, dit=dit, prediction=both, **plain)
    with pytest.raises(ValueError, match="do not hold their clean values"):
        out(DiffusionLoss, dit=dit, prediction={key: value for key, value in answer.items() if key != "start"}, **plain)
    with pytest.raises(ValueError, match="Add Noise at Time: time is 0 to 1, or -1 for a random one, not 2"):
        out(NoiseAtTime, dit=dit, tokens=noisy, seed=0, time=2.0, times="uniform")


def test_a_trainable_dit_reads_sizes_it_has_no_weights_for(backbone):
    """Denoise takes it by resample, as it takes any DIT; its stages are those of its own sizes."""
    (dit,) = out(Trainable, dit=backbone, scope="everything")
    tokens = fold(torch.randn(1, 4, 12, 12), 6)
    sigmas = backbone.schedule(2)
    done, _ = dit.reading(6).denoise(tokens, sigmas, conditioning(1))
    assert torch.equal(done["tokens"], backbone.reading(6).denoise(tokens, sigmas, conditioning(1))[0]["tokens"])

"""Our models against diffusers' on the same random weights, through our checkpoint code: stage by stage and whole."""

from dataclasses import replace

from diffusers import DiTTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from diffusers.models.embeddings import get_timestep_embedding
import pytest
from safetensors.torch import save_file
import torch

from dit_blocks.dit_impl.model.blocks import timestep_embedding
from dit_blocks.dit_impl.model.dit import DiT
from dit_blocks.dit_impl.model.mmdit import MMDiT, Streams
from dit_blocks.dit_impl.sources.checkpoints import load_model
from dit_blocks.dit_impl.tokens.patch import patchify, unpatchify

SD3 = {
    "plain": dict(),
    "qk_norm": dict(qk_norm="rms_norm"),
    "dual": dict(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "dual_without_norm": dict(dual_attention_layers=(1,)),
    "patch_4": dict(patch_size=4, sample_size=32),
    "patch_1": dict(patch_size=1, sample_size=8, in_channels=5, out_channels=5),
}
GRIDS = [(8, 8), (6, 10), (11, 3), (1, 1), (12, 12)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def randomise(model):
    """Every parameter, the ones that start at zero or one too, at a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 1 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        if "norm_" in name and parameter.dim() == 1 and "linear" not in name:
            parameter.add_(1)
    return model.eval()


def through_a_file(model, tmp_path, config=None):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(model.state_dict(), path, metadata={"format": "pt"})
    return load_model(path, config)


def sd3(**changes):
    config = dict(sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=64,
                  num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=128, pooled_projection_dim=20,
                  pos_embed_max_size=12)
    return randomise(SD3Transformer2DModel(**config | changes))


def sd3_inputs(model, grid, batch=2):
    c, p = model.config, model.config.patch_size
    torch.manual_seed(1)
    return dict(hidden_states=torch.randn(batch, c.in_channels, grid[0] * p, grid[1] * p),
                encoder_hidden_states=torch.randn(batch, 7, c.joint_attention_dim),
                pooled_projections=torch.randn(batch, c.pooled_projection_dim), timestep=torch.tensor([999.5, 12.25])[:batch])


def whole_sd3(ours, inputs, grid):
    """Our prediction for diffusers' inputs, as a latent."""
    latent, p = inputs["hidden_states"], ours.config.patch_size
    tokens = ours(patchify(latent, p), grid, p, inputs["timestep"], inputs["encoder_hidden_states"], inputs["pooled_projections"])
    return unpatchify(tokens, p, latent.shape[-2:])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", SD3)
def test_sd3_whole(kind, grid, tmp_path):
    theirs = sd3(**SD3[kind])
    ours = through_a_file(theirs, tmp_path)
    assert isinstance(ours, MMDiT)
    inputs = sd3_inputs(theirs, grid)
    close(whole_sd3(ours, inputs, grid), theirs(**inputs).sample)


@pytest.mark.parametrize("kind", SD3)
def test_sd3_stage_by_stage(kind, tmp_path):
    theirs = sd3(**SD3[kind])
    ours, grid = through_a_file(theirs, tmp_path), (6, 10)
    inputs = sd3_inputs(theirs, grid)
    latent, text, pooled, t = inputs.values()
    p = ours.config.patch_size
    tokens = patchify(latent, p)

    close(ours.patch_embed(tokens, p), theirs.pos_embed.proj(latent).flatten(2).transpose(1, 2))
    close(ours.position_embedding(grid, p), theirs.pos_embed.cropped_pos_embed(*latent.shape[-2:]))
    hidden = ours.embed(tokens, grid, p, t, text, pooled)
    x, context, vector = theirs.pos_embed(latent), theirs.context_embedder(text), theirs.time_text_embed(t, pooled)
    close(hidden.x, x)
    close(hidden.context, context)
    close(hidden.vector, vector)

    for i, block in enumerate(theirs.transformer_blocks):
        hidden = ours.run_blocks(Streams(x, context, vector, p), i, i + 1)
        context, x = block(hidden_states=x, encoder_hidden_states=context, temb=vector)
        close(hidden.x, x)
        if i == len(theirs.transformer_blocks) - 1:
            assert hidden.context is None and context is None
        else:
            close(hidden.context, context)

    answer = theirs.proj_out(theirs.norm_out(x, vector)).view(len(x), *grid, p, p, -1)
    predicted = torch.einsum("nhwpqc->nchpwq", answer).reshape(latent.shape)
    close(ours.head(Streams(x, None, vector, p)), patchify(predicted, p))


def test_blocks_chain_to_the_whole(tmp_path):
    theirs = sd3(num_layers=4)
    ours, grid = through_a_file(theirs, tmp_path), (5, 5)
    inputs = sd3_inputs(theirs, grid)
    arguments = (patchify(inputs["hidden_states"], 2), grid, 2, inputs["timestep"], inputs["encoder_hidden_states"],
                 inputs["pooled_projections"])
    hidden = ours.embed(*arguments)
    for start, stop in ((0, 1), (1, 1), (1, 3), (3, None)):
        hidden = ours.run_blocks(hidden, start, stop)
    assert torch.equal(ours.head(hidden), ours(*arguments))


def test_heads_come_from_config_json_where_no_norm_tells_them(tmp_path):
    theirs = sd3(attention_head_dim=32, num_attention_heads=4)
    inputs = sd3_inputs(theirs, (4, 4))
    ours = through_a_file(theirs, tmp_path, dict(theirs.config))
    assert ours.config.heads == 4
    close(whole_sd3(ours, inputs, (4, 4)), theirs(**inputs).sample)


def original_sd3(width=128, depth=3, channels=4, patch_size=2, text=24, pooled=20, table=12, norm=True, dual=(0,)):
    """A random checkpoint in the layout that SD3.5 is published in."""
    shapes = {"x_embedder.proj.weight": (width, channels, patch_size, patch_size), "x_embedder.proj.bias": (width,)}

    def linear(name, rows, columns=width):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def attention(name, project_out=True):
        linear(f"{name}.qkv", 3 * width)
        if project_out:
            linear(f"{name}.proj", width)
        if norm:
            shapes[f"{name}.ln_q.weight"] = shapes[f"{name}.ln_k.weight"] = (64,)
    for name, columns in (("t_embedder", 256), ("y_embedder", pooled)):
        linear(f"{name}.mlp.0", width, columns)
        linear(f"{name}.mlp.2", width)
    linear("context_embedder", width, text)
    for i in range(depth):
        last = i == depth - 1
        for stream in ("x_block", "context_block"):
            name, only = f"joint_blocks.{i}.{stream}", last and stream == "context_block"
            attention(f"{name}.attn", not only)
            second = stream == "x_block" and i in dual
            if second:
                attention(f"{name}.attn2")
            linear(f"{name}.adaLN_modulation.1", (2 if only else 9 if second else 6) * width)
            if not only:
                linear(f"{name}.mlp.fc1", 4 * width)
                linear(f"{name}.mlp.fc2", width, 4 * width)
    linear("final_layer.adaLN_modulation.1", 2 * width)
    linear("final_layer.linear", channels * patch_size ** 2)
    generator = torch.Generator().manual_seed(2)
    tensors = {key: torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else shape[-1] ** -0.5)
               for key, shape in shapes.items()}
    model = SD3Transformer2DModel(sample_size=16, pos_embed_max_size=table, num_attention_heads=width // 64, num_layers=1)
    return tensors | {"pos_embed": model.pos_embed.pos_embed}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("norm, dual", [(False, ()), (True, ()), (True, (0,))])
def test_the_original_sd3_layout(norm, dual, prefix, tmp_path):
    original = original_sd3(norm=norm, dual=dual)
    theirs = sd3(qk_norm="rms_norm" if norm else None, dual_attention_layers=dual)
    theirs.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(original)))
    stored = {prefix + key: value for key, value in original.items()}
    if prefix:
        stored["first_stage_model.decoder.weight"] = torch.zeros(2)
    save_file(stored, tmp_path / "sd3.safetensors")
    ours, inputs = load_model(tmp_path / "sd3.safetensors"), sd3_inputs(theirs, (6, 10))
    close(whole_sd3(ours, inputs, (6, 10)), theirs(**inputs).sample)


def dit(**changes):
    config = dict(num_attention_heads=2, attention_head_dim=64, in_channels=4, out_channels=8, num_layers=3, sample_size=16,
                  patch_size=2, num_embeds_ada_norm=10)
    model = randomise(DiTTransformer2DModel(**config | changes))
    shared = model.transformer_blocks[0].norm1.emb.state_dict()  # published weights have one embedding, copied to all blocks
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(shared)
    return model


DITS = {"plain": dict(), "patch_4": dict(patch_size=4), "grid_5": dict(sample_size=10), "no_sigma": dict(out_channels=4),
        "eps": dict(norm_eps=1e-6), "heads": dict(num_attention_heads=4, attention_head_dim=32)}


@pytest.mark.parametrize("kind", DITS)
def test_dit_stage_by_stage_and_whole(kind, tmp_path):
    theirs = dit(**DITS[kind])
    ours = through_a_file(theirs, tmp_path, dict(theirs.config))
    assert isinstance(ours, DiT) and ours.config.classes == 10 and ours.config.mlp_eps == theirs.config.norm_eps
    p, side = ours.config.patch_size, theirs.config.sample_size
    grid = (side // p, side // p)
    torch.manual_seed(3)
    latent, t, labels = torch.randn(2, 4, side, side), torch.tensor([999, 3]), torch.tensor([4, 10])
    tokens = patchify(latent, p)

    x, emb = theirs.pos_embed(latent), theirs.transformer_blocks[0].norm1.emb(t, labels, hidden_dtype=torch.float32)
    close(ours.patch_embed(tokens, p), theirs.pos_embed.proj(latent).flatten(2).transpose(1, 2))
    close(ours.position_embedding(grid, p), theirs.pos_embed.pos_embed)
    hidden = ours.embed(tokens, grid, p, t, labels)
    close(hidden.x, x)
    close(hidden.vector, emb)
    for i, block in enumerate(theirs.transformer_blocks):
        hidden = ours.run_blocks(Streams(x, None, emb, p), i, i + 1)
        x = block(x, timestep=t, class_labels=labels)
        close(hidden.x, x)

    theirs_whole = theirs(latent, t, labels).sample
    epsilon = patchify(theirs_whole[:, :4], p)
    close(ours.head(Streams(x, None, emb, p)), epsilon)
    close(ours.final_layer(x, emb, p), patchify(theirs_whole, p))
    close(ours(tokens, grid, p, t, labels), epsilon)


def test_the_original_dit_layout(tmp_path):
    """The same weights in both layouts are the same model, but for the two things diffusers does its own way."""
    theirs = dit()
    state, original = theirs.state_dict(), {"pos_embed": theirs.pos_embed.pos_embed}
    emb = "transformer_blocks.0.norm1.emb."
    names = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1",
             "final_layer.linear": "proj_out_2", "t_embedder.mlp.0": emb + "timestep_embedder.linear_1",
             "t_embedder.mlp.2": emb + "timestep_embedder.linear_2"}
    for i in range(3):
        for new, old in (("adaLN_modulation.1", "norm1.linear"), ("attn.proj", "attn1.to_out.0"),
                         ("mlp.fc1", "ff.net.0.proj"), ("mlp.fc2", "ff.net.2")):
            names[f"blocks.{i}.{new}"] = f"transformer_blocks.{i}.{old}"
    for end in ("weight", "bias"):
        original |= {f"{new}.{end}": state[f"{old}.{end}"] for new, old in names.items()}
        for i in range(3):
            parts = [state[f"transformer_blocks.{i}.attn1.to_{part}.{end}"] for part in "qkv"]
            original[f"blocks.{i}.attn.qkv.{end}"] = torch.cat(parts)
    original["y_embedder.embedding_table.weight"] = state[emb + "class_embedder.embedding_table.weight"]
    save_file(original, tmp_path / "dit.safetensors")
    ours, reference = load_model(tmp_path / "dit.safetensors"), through_a_file(theirs, tmp_path, dict(theirs.config))
    assert ours.config == replace(reference.config, time_last=0, mlp_eps=1e-6)
    for key, value in reference.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("last", [0, 1])
def test_timestep_embedding_is_diffusers(last):
    t = torch.tensor([0.0, 0.3, 17, 500.5, 999, 1000])
    expected = get_timestep_embedding(t, 256, flip_sin_to_cos=True, downscale_freq_shift=last)
    assert torch.equal(timestep_embedding(t, last=last), expected)


def test_embeddings_that_differ_between_blocks_are_refused(tmp_path):
    theirs = dit()
    theirs.transformer_blocks[2].norm1.emb.class_embedder.embedding_table.weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.norm1\.emb\.class_embedder\S+ differs"):
        through_a_file(theirs, tmp_path)

"""Small models of latents of one dimension, sound and shapes, and of several tensors, beside those in host_zoo_videos. Import as host_zoo says."""

from unittest.mock import patch

import comfy.ldm.audio.embedders
import comfy.ldm.minimax_music.dit as music
import comfy.supported_models as SM
from host_zoo import arch, build, pair, randomize, rnd
import torch
from torch import nn


@arch
def stable_audio3():
    seconds = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=384, fourier_features_type="expo")
    randomize(seconds, 3)
    state = {f"conditioner.conditioners.seconds_total.{name}": value for name, value in seconds.state_dict().items()}
    state["conditioner.conditioners.prompt.padding_embedding"] = rnd(768, seed=4)
    m = build(SM.StableAudio3, dict(audio_model="dit1.0", global_cond_dim=768, project_cond_tokens=True, embed_dim=64, num_heads=2, depth=2,
        io_channels=256, input_concat_dim=0, timestep_features_type="expo", cond_token_dim=768, local_add_cond_dim=257,
        global_cond_shared_embed=True, global_cond_type="adaLN", num_memory_tokens=3), state)
    return m, *pair(768), (256, 12)


@arch
def ace_step15():
    m = build(SM.ACEStep15, dict(audio_model="ace1.5", in_channels=192, hidden_size=64, text_hidden_dim=32, num_dit_layers=3,
        num_lyric_layers=1, num_timbre_layers=1, num_tokenizer_layers=1, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=64,
        fsq_dim=32, encoder_hidden_size=32, encoder_intermediate_size=64, encoder_num_heads=2, sliding_window=4))
    return m, *pair(32, conditioning_lyrics=lambda seed: rnd(1, 5, 32, seed=seed + 4)), (64, 15)


@arch
def ace_step15_cover():
    m, *_ = ace_step15()
    reference = [rnd(1, 64, 40, seed=9)]
    return m, *pair(32, conditioning_lyrics=lambda seed: rnd(1, 5, 32, seed=seed + 4), reference_audio_timbre_latents=reference), (64, 15)


class SmallMusic(nn.Module):
    """Of MiniMax Music 3, whose widths are written out in its code, with two layers in place of 36."""

    def __init__(self, dtype, device, operations):
        super().__init__()
        self.project_in = operations.Linear(2304, 64, bias=False, dtype=dtype, device=device)
        self.project_out = operations.Linear(64, 128, bias=False, dtype=dtype, device=device)
        self.rotary_pos_emb = music.RotaryEmbedding(32, dtype, device)
        self.layers = nn.ModuleList([music.TransformerBlock(64, 64, 128, dtype, device, operations) for _ in range(2)])
    forward = music.ContinuousTransformer.forward


class SmallDiffusion(music.DiffusionTransformer):
    def __init__(self, dtype, device, operations):
        nn.Module.__init__(self)
        self.transformer, self.timestep_features = SmallMusic(dtype, device, operations), music.FourierFeatures(1, 256, dtype, device)
        self.to_timestep_embed = nn.Sequential(operations.Linear(256, 64, dtype=dtype, device=device), nn.SiLU(),
                                               operations.Linear(64, 64, dtype=dtype, device=device))
        self.preprocess_conv = operations.Conv1d(2304, 2304, 1, bias=False, dtype=dtype, device=device)
        self.postprocess_conv = operations.Conv1d(128, 128, 1, bias=False, dtype=dtype, device=device)


@arch
def minimax_music3():
    with patch.object(music, "DiffusionTransformer", SmallDiffusion):
        m = build(SM.MiniMaxMusic3, dict(audio_model="minimax_music3"))
    return m, *pair(8 * 4096, 3, conditioning_scale=torch.ones(1, 1, 1)), (128, 9)


@arch
def hunyuan3d_21():
    m = build(SM.Hunyuan3Dv2_1, dict(image_model="hunyuan3d2_1", in_channels=64, context_dim=32, hidden_size=64, mlp_ratio=4.0, num_heads=2,
        depth=3, qkv_bias=False, guidance_cond_proj_dim=None, num_moe_layers=1, num_experts=2))
    return m, *pair(32), (64, 40)


@arch
def triposplat():
    m = build(SM.TripoSplat, dict(image_model="triposplat", q_token_length=20, model_channels=64, cond_channels=32, num_blocks=2,
        num_refiner_blocks=1, num_head_channels=32, cond2_channels=16))
    return m, *pair(32, 7, reference_latents=lambda seed: [rnd(1, 16, 2, 2, seed=seed + 4)]), [(20, 16), (1, 5)]


@arch
def minimax_h3():
    m = build(SM.MiniMaxH3, dict(image_model="minimax_h3", hidden_size=64, num_layers=2, token_refiner_num_layers=1, num_attention_heads=2,
        attention_head_dim=128, ffn_hidden_size=64, text_dim=32, time_embed_hidden_size=64, time_embed_dim=32))
    return m, *pair(32), [(24, 2, 4, 6), (32, 2, 5)]

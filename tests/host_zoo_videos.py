"""Small random models for host_zoo_check.py: transformers of videos and sound. Import it once ComfyUI is started (host_models.start)."""

from types import SimpleNamespace as NS

import comfy.supported_models as SM
from host_zoo import arch, build, pair, randomize, rnd
import torch


@arch
def mochi():
    m = build(SM.GenmoMochi, dict(image_model="mochi_preview", depth=2, patch_size=2, num_heads=2, hidden_size_x=64, hidden_size_y=32,
        mlp_ratio_x=192.0, mlp_ratio_y=4.0, learn_sigma=False, in_channels=12, qk_norm=True, qkv_bias=False, out_bias=True, attn_drop=0.0,
        patch_embed_bias=True, posenc_preserve_area=True, timestep_mlp_bias=True, attend_to_padding=False, timestep_scale=1000.0,
        use_t5=True, t5_feat_dim=32, t5_token_length=7, rope_theta=10000.0))
    return m, *pair(32, attention_mask=lambda s: torch.ones(1, 7, dtype=torch.long)), (12, 2, 10, 8)


LT = dict(image_model="ltxv", in_channels=128, cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2, caption_channels=32,
    num_layers=2)


@arch
def ltxv():
    return build(SM.LTXV, LT), *pair(32, attention_mask=lambda s: torch.ones(1, 7, dtype=torch.long), frame_rate=25), (128, 3, 4, 3)


@arch
def ltxav():
    m = build(SM.LTXAV, dict(image_model="ltxav", in_channels=128, audio_in_channels=128, cross_attention_dim=64,
        audio_cross_attention_dim=32, attention_head_dim=32, audio_attention_head_dim=16, num_attention_heads=2,
        audio_num_attention_heads=2, caption_channels=32, num_layers=2, connector_attention_head_dim=16, connector_num_attention_heads=2,
        connector_num_layers=1))
    return m, *pair(64, frame_rate=25), (128, 3, 4, 3)


@arch
def ltxav_with_sound():
    m, p, n, film = ltxav()
    return m, p, n, [film, (8, 5, 16)]


CO = dict(image_model="cosmos", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16, patch_spatial=2,
    patch_temporal=1, model_channels=64, block_config="FA-CA-MLP", concat_padding_mask=True, pos_emb_cls="rope3d",
    pos_emb_learnable=False, pos_emb_interpolation="crop", block_x_format="THWBD", affline_emb_norm=True, use_adaln_lora=True,
    adaln_lora_dim=16, num_blocks=2, num_heads=2, extra_per_block_abs_pos_emb=True, rope_h_extrapolation_ratio=1.0,
    rope_w_extrapolation_ratio=1.0, rope_t_extrapolation_ratio=2.0, extra_per_block_abs_pos_emb_type="learnable",
    crossattn_emb_channels=32)


@arch
def cosmos_t2v():
    return build(SM.CosmosT2V, CO), *pair(32), (16, 3, 10, 8)


@arch
def cosmos_i2v():
    return build(SM.CosmosI2V, {**CO, "in_channels": 17}), *pair(32), (16, 3, 10, 8)


CP = dict(image_model="cosmos_predict2", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16, patch_spatial=2,
    patch_temporal=1, model_channels=64, concat_padding_mask=True, crossattn_emb_channels=32, pos_emb_cls="rope3d",
    pos_emb_learnable=True, pos_emb_interpolation="crop", min_fps=1, max_fps=30, use_adaln_lora=True, adaln_lora_dim=16, num_blocks=2,
    num_heads=2, extra_per_block_abs_pos_emb=False, rope_h_extrapolation_ratio=4.0, rope_w_extrapolation_ratio=4.0,
    rope_t_extrapolation_ratio=1.0, extra_h_extrapolation_ratio=1.0, extra_w_extrapolation_ratio=1.0, extra_t_extrapolation_ratio=1.0,
    rope_enable_fps_modulation=False)


@arch
def cosmos_predict2():
    return build(SM.CosmosT2IPredict2, CP), *pair(32), (16, 1, 9, 7)


@arch
def cosmos_predict2_i2v():
    return build(SM.CosmosI2VPredict2, {**CP, "in_channels": 17}), *pair(32), (16, 3, 9, 7)


@arch
def anima():
    m = build(SM.Anima, {**CP, "image_model": "anima", "crossattn_emb_channels": 1024})
    return m, *pair(1024, 7, t5xxl_ids=lambda s: torch.arange(5) + s, t5xxl_weights=torch.ones(5)), (16, 1, 9, 7)


WAN = dict(image_model="wan2.1", model_type="t2v", dim=128, out_dim=16, num_heads=1, ffn_dim=128, num_layers=3, patch_size=(1, 2, 2),
    freq_dim=256, window_size=(-1, -1), qk_norm=True, cross_attn_norm=True, eps=1e-6, in_dim=16, text_dim=32)
CV = NS(penultimate_hidden_states=rnd(1, 257, 1280, seed=4))


@arch
def wan21_t2v():
    return build(SM.WAN21_T2V, WAN), *pair(32), (16, 3, 9, 7)


@arch
def wan21_t2v_bernini():
    return build(SM.WAN21_T2V, WAN), *pair(32, context_latents=[rnd(1, 16, 1, 8, 6, seed=8)]), (16, 3, 9, 7)


@arch
def wan21_phantom():
    return build(SM.WAN21_T2V, WAN), *pair(32, time_dim_concat=rnd(1, 16, 2, 9, 7, seed=8)), (16, 3, 9, 7)


@arch
def wan21_i2v():
    return (build(SM.WAN21_I2V, {**WAN, "model_type": "i2v", "in_dim": 36}), *pair(32, clip_vision_output=CV, concat_latent_image=rnd(1,
        16, 3, 9, 7, seed=8), concat_mask=(rnd(1, 4, 3, 9, 7, seed=9) > 0).float()), (16, 3, 9, 7))


@arch
def wan21_flf():
    return (build(SM.WAN21_I2V, {**WAN, "model_type": "i2v", "in_dim": 36, "flf_pos_embed_token_number": 514}), *pair(32,
        clip_vision_output=NS(penultimate_hidden_states=rnd(1, 514, 1280, seed=4)), concat_latent_image=rnd(1, 16, 3, 9, 7, seed=8)), (16,
        3, 9, 7))


@arch
def wan21_fun_control():
    return (build(SM.WAN21_FunControl2V, {**WAN, "model_type": "i2v", "in_dim": 48}), *pair(32, clip_vision_output=CV,
        concat_latent_image=rnd(1, 32, 3, 9, 7, seed=8)), (16, 3, 9, 7))


@arch
def wan21_camera():
    return (build(SM.WAN21_Camera, {**WAN, "model_type": "camera", "in_dim": 32}), *pair(32, clip_vision_output=CV,
        concat_latent_image=rnd(1, 16, 3, 10, 8, seed=8), camera_conditions=rnd(1, 24, 3, 80, 64, seed=9)), (16, 3, 10, 8))


@arch
def wan22_camera():
    return (build(SM.WAN22_Camera, {**WAN, "model_type": "camera_2.2", "in_dim": 36}), *pair(32, concat_latent_image=rnd(1, 16, 3, 10, 8,
        seed=8), camera_conditions=rnd(1, 24, 3, 80, 64, seed=9)), (16, 3, 10, 8))


@arch
def wan21_vace():
    return (build(SM.WAN21_Vace, {**WAN, "model_type": "vace", "vace_in_dim": 96, "vace_layers": 2, "num_layers": 4}), *pair(32,
        vace_frames=[rnd(1, 32, 3, 10, 8, seed=8)], vace_mask=[(rnd(1, 64, 3, 10, 8, seed=9) > 0).float()], vace_strength=[0.8]), (16, 3,
        10, 8))


@arch
def wan21_humo():
    return (build(SM.WAN21_HuMo, {**WAN, "model_type": "humo", "in_dim": 36, "num_layers": 2, "dim": 128}), *pair(32, audio_embed=rnd(1,
        3, 8, 5, 1280, seed=8), reference_latents=[rnd(1, 16, 1, 10, 8, seed=9)]), (16, 3, 10, 8))


@arch
def wan22_s2v():
    return (build(SM.WAN22_S2V, {**WAN, "model_type": "s2v", "audio_dim": 32, "num_audio_token": 4, "audio_inject_layers": [0, 2],
        "num_layers": 3, "enable_adain": True, "cond_dim": 16}), *pair(32, audio_embed=rnd(1, 25, 32, 12, seed=8),
        reference_latents=[rnd(1, 16, 1, 10, 8, seed=9)]), (16, 3, 10, 8))


@arch
def wan22_animate():
    return (build(SM.WAN22_Animate, {**WAN, "model_type": "animate", "in_dim": 36, "num_layers": 5}), *pair(32, clip_vision_output=CV,
        concat_latent_image=rnd(1, 16, 3, 10, 8, seed=8), pose_video_latent=rnd(1, 16, 2, 10, 8, seed=9)), (16, 3, 10, 8))


@arch
def wan_animate2():
    return (build(SM.WAN_Animate2, {**WAN, "model_type": "animate2", "in_dim": 36}), *pair(32, clip_vision_output=CV,
        concat_latent_image=rnd(1, 16, 3, 10, 8, seed=8), pose_video_latent=rnd(1, 16, 2, 10, 8, seed=9)), (16, 3, 10, 8))


@arch
def wan22_5b():
    return build(SM.WAN22_T2V, {**WAN, "in_dim": 48, "out_dim": 48}), *pair(32), (48, 3, 9, 7)


@arch
def wan21_flowrvs():
    return build(SM.WAN21_FlowRVS, {**WAN, "model_type": "flow_rvs"}), *pair(32), (16, 3, 9, 7)


@arch
def wan21_scail():
    return (build(SM.WAN21_SCAIL, {**WAN, "model_type": "i2v", "in_dim": 20}, ), *pair(32, clip_vision_output=CV,
        reference_latents=[rnd(1, 16, 1, 10, 8, seed=8)], pose_video_latent=rnd(1, 16, 3, 4, 4, seed=9)), (16, 3, 10, 8))


@arch
def wan21_scail2():
    return (build(SM.WAN21_SCAIL2, {**WAN, "model_type": "i2v", "in_dim": 20}), *pair(32, clip_vision_output=CV, reference_latents=[rnd(1,
        16, 1, 10, 8, seed=8)], pose_video_latent=rnd(1, 16, 3, 4, 4, seed=9)), (16, 3, 10, 8))


@arch
def wandancer():
    return (build(SM.WAN22_WanDancer, {**WAN, "model_type": "i2v", "in_dim": 36, "audio_inject_layers": [0, 1], "music_dim": 32,
        "music_heads": 2, "music_latent_dim": 32}), *pair(32, clip_vision_output=CV, concat_latent_image=rnd(1, 16, 3, 8, 8, seed=8),
        audio_embed=rnd(1, 24, 35, seed=9)), (16, 3, 8, 8))


@arch
def wan_causal_ar():
    return build(SM.WAN21_CausalAR_T2V, WAN), *pair(32), (16, 3, 9, 7)


COG = dict(image_model="cogvideox", num_attention_heads=1, attention_head_dim=64, time_embed_dim=32, num_layers=2, in_channels=16,
    patch_size=2, text_embed_dim=32, use_learned_positional_embeddings=False, use_rotary_positional_embeddings=True)


@arch
def cogvideox():
    return build(SM.CogVideoX_T2V, COG), *pair(32), (16, 3, 9, 7)


@arch
def cogvideox15_i2v():
    return (build(SM.CogVideoX_I2V, {**COG, "in_channels": 32, "patch_size_t": 2, "ofs_embed_dim": 32}), *pair(32,
        concat_latent_image=rnd(1, 16, 3, 9, 7, seed=8)), (16, 3, 9, 7))


@arch
def cogvideox_inpaint():
    return (build(SM.CogVideoX_Inpaint, {**COG, "in_channels": 48}), *pair(32, concat_latent_image=rnd(1, 32, 3, 9, 7, seed=8)), (16, 3,
        9, 7))


@arch
def seedvr2():
    m = build(SM.SeedVR2, dict(image_model="seedvr2", vid_dim=128, heads=1, head_dim=128, num_layers=2, mm_layers=1, norm_eps=1e-5,
        mlp_type="swiglu", vid_out_norm=True, txt_in_dim=32), over={})
    return m, *pair(32, condition=rnd(1, 17, 3, 10, 8, seed=8)), (16, 3, 10, 8)


@arch
def ace_step():
    m = build(SM.ACEStep, dict(audio_model="ace", attention_head_dim=16, in_channels=8, inner_dim=32, max_height=16, max_position=512,
        max_width=512, mlp_ratio=2.5, num_attention_heads=2, num_layers=2, out_channels=8, patch_size=[16, 1], rope_theta=1000000.0,
        speaker_embedding_dim=512, text_embedding_dim=32, ssl_encoder_depths=[8, 8], ssl_latent_dims=[16, 16], ssl_names=["mert",
        "m-hubert"], lyric_encoder_vocab_size=50, lyric_hidden_size=1024))
    return m, *pair(32, conditioning_lyrics=lambda s: torch.arange(6)[None] + s, lyrics_strength=1.0), (8, 16, 12)


@arch
def stable_audio():
    import comfy.ldm.audio.embedders as E
    sd = {}
    for pre in ("seconds_start", "seconds_total"):
        e = E.NumberConditioner(768, min_val=0, max_val=512)
        randomize(e, 3)
        sd.update({f"conditioner.conditioners.{pre}.{k}": v for k, v in e.state_dict().items()})
    m = build(SM.StableAudio, dict(audio_model="dit1.0", global_cond_dim=1536, project_cond_tokens=True, embed_dim=64, num_heads=2,
        depth=2, io_channels=64, input_concat_dim=0, timestep_features_type="learned", cond_token_dim=768), sd)
    return m, *pair(768), (64, 40)


@arch
def hunyuan3d():
    m = build(SM.Hunyuan3Dv2, dict(image_model="hunyuan3d2", in_channels=64, context_in_dim=32, hidden_size=64, mlp_ratio=4.0,
        num_heads=2, depth=1, depth_single_blocks=1, qkv_bias=True, guidance_embed=False))
    return m, *pair(32), (64, 40)

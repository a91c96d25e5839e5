"""Small random models for host_zoo_check.py: transformers of pictures, SD3 to HiDream O1. Import it once ComfyUI is started."""

from types import SimpleNamespace as NS

import comfy.supported_models as SM
from host_zoo import P48, arch, build, pair, rnd
import torch


@arch
def sd3():
    m = build(SM.SD3, dict(in_channels=16, pos_embed_scaling_factor=None, patch_size=2, out_channels=16, depth=2, input_size=None,
        adm_in_channels=48, num_patches=24**2, pos_embed_max_size=24, context_embedder_config={"target": "torch.nn.Linear",
        "params": {"in_features": 32, "out_features": 128}}, x_block_self_attn_layers=[]))
    return m, *pair(32, pooled_output=P48), (16, 9, 7)


@arch
def sd35_medium():
    m = build(SM.SD3, dict(in_channels=16, pos_embed_scaling_factor=None, patch_size=2, out_channels=16, depth=3, input_size=None,
        adm_in_channels=48, num_patches=24**2, pos_embed_max_size=24, qk_norm="rms", context_embedder_config={"target": "torch.nn.Linear",
        "params": {"in_features": 32, "out_features": 192}}, x_block_self_attn_layers=[0, 1]))
    return m, *pair(32, pooled_output=P48), (16, 9, 7)


@arch
def auraflow():
    m = build(SM.AuraFlow, dict(cond_seq_dim=32, max_seq=64, n_double_layers=2, n_layers=4, dim=64, n_heads=2, global_conddim=64))
    return m, *pair(32), (4, 9, 7)


@arch
def pixart_sigma():
    m = build(SM.PixArtSigma, dict(image_model="pixart_sigma", depth=2, model_max_length=20, micro_condition=False, hidden_size=96,
        num_heads=4, caption_channels=32, patch_size=2, in_channels=4))
    return m, *pair(32), (4, 40, 34)


@arch
def pixart_alpha():
    m = build(SM.PixArtAlpha, dict(image_model="pixart_alpha", depth=2, model_max_length=20, micro_condition=True, hidden_size=96,
        num_heads=4, caption_channels=32, patch_size=2, in_channels=4))
    return m, *pair(32, width=64, height=48), (4, 40, 34)


def _hydit(cls, **cfg):
    m = build(cls, dict(depth=6, hidden_size=96, num_heads=4, text_states_dim=32, text_states_dim_t5=24, text_len=7, text_len_t5=9,
        **cfg))
    return (m, *pair(32, 7, attention_mask=lambda s: (torch.arange(7) < 4 + s)[None].long(), conditioning_mt5xl=lambda s: rnd(1, 9, 24,
        seed=s), attention_mask_mt5xl=lambda s: (torch.arange(9) < 5 + s)[None].long()), (4, 10, 8))


@arch
def hunyuan_dit():
    return _hydit(SM.HunyuanDiT, image_model="hydit")


@arch
def hunyuan_dit1():
    return _hydit(SM.HunyuanDiT1, image_model="hydit1", size_cond=True, use_style_cond=True)


HY = dict(image_model="hunyuan_video", in_channels=16, patch_size=[1, 2, 2], out_channels=16, vec_in_dim=48, axes_dim=[16, 56, 56],
    meanflow=False, context_in_dim=32, hidden_size=128, mlp_ratio=4.0, num_heads=1, depth=2, depth_single_blocks=2, theta=256,
    qkv_bias=True, byt5=False, guidance_embed=True, use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False)


@arch
def hunyuan_video():
    return build(SM.HunyuanVideo, HY), *pair(32, pooled_output=P48), (16, 3, 10, 8)


@arch
def hunyuan_video_i2v():
    m = build(SM.HunyuanVideoI2V, {**HY, "in_channels": 33, "out_channels": 16})
    return (m, *pair(32, pooled_output=P48, concat_latent_image=rnd(1, 16, 1, 10, 8, seed=8), concat_mask=(rnd(1, 1, 3, 10, 8,
        seed=9) > 0).float()), (16, 3, 10, 8))


@arch
def hunyuan_video_i2v_replace():
    m = build(SM.HunyuanVideo, HY)
    return m, *pair(32, pooled_output=P48, guiding_frame_index=0), (16, 3, 8, 8)


@arch
def hunyuan_video_skyreels():
    m = build(SM.HunyuanVideoSkyreelsI2V, {**HY, "in_channels": 32})
    return m, *pair(32, pooled_output=P48, concat_latent_image=rnd(1, 16, 3, 10, 8, seed=8)), (16, 3, 10, 8)


@arch
def hunyuan_image21():
    m = build(SM.HunyuanImage21, {**HY, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [64, 64],
        "vec_in_dim": None, "byt5": True, "meanflow": True, "guidance_embed": True})
    return m, *pair(32, conditioning_byt5small=lambda s: rnd(1, 5, 1472, seed=s), guidance=3.0), (64, 9, 7)


@arch
def hunyuan_image21_refiner():
    m = build(SM.HunyuanImage21Refiner, {**HY, "in_channels": 128, "out_channels": 64, "patch_size": [1, 1, 1], "vec_in_dim": None})
    return m, *pair(32, pooled_output=P48, concat_latent_image=rnd(1, 32, 1, 9, 7, seed=8)), (32, 1, 9, 7)


@arch
def hunyuan_video15():
    m = build(SM.HunyuanVideo15, {**HY, "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
        "vision_in_dim": 24, "byt5": True, "use_cond_type_embedding": True, "meanflow": True, "meanflow_sum": True,
        "guidance_embed": False})
    return (m, *pair(32, pooled_output=P48, conditioning_byt5small=lambda s: rnd(1, 5, 1472, seed=s),
        clip_vision_output=NS(last_hidden_state=rnd(1, 4, 24, seed=7)), concat_latent_image=rnd(1, 32, 3, 9, 7, seed=8)), (32, 3, 9, 7))


@arch
def hunyuan_video15_sr():
    m = build(SM.HunyuanVideo15_SR_Distilled, {**HY, "in_channels": 98, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
        "vision_in_dim": 24, "byt5": True, "use_cond_type_embedding": True, "meanflow": True, "meanflow_sum": True,
        "guidance_embed": False})
    return m, *pair(32, pooled_output=P48, concat_latent_image=rnd(1, 66, 3, 9, 7, seed=8), noise_augmentation=0.3), (32, 3, 9, 7)


@arch
def hidream():
    m = build(SM.HiDream, dict(image_model="hidream", attention_head_dim=32, axes_dims_rope=[16, 8, 8], caption_channels=[32, 24],
        max_resolution=[128, 128], in_channels=16, llama_layers=[0, 1, 1, 1], num_attention_heads=2, num_routed_experts=4,
        num_activated_experts=2, num_layers=2, num_single_layers=2, out_channels=16, patch_size=2, text_emb_dim=48))
    return m, *pair(32, pooled_output=P48, conditioning_llama3=lambda s: rnd(1, 2, 7, 24, seed=s)), (16, 9, 7)


@arch
def hidream_e1():
    m, p, n, s = hidream()
    for c in (p, n):
        c[0][1]["concat_latent_image"] = rnd(1, 16, 9, 7, seed=9)
    return m, p, n, (16, 9, 7)


@arch
def lumina2():
    m = build(SM.Lumina2, dict(image_model="lumina2", patch_size=2, in_channels=16, dim=64, cap_feat_dim=32, n_layers=2, qk_norm=True,
        n_heads=4, n_kv_heads=2, axes_dims=[4, 6, 6], axes_lens=[300, 512, 512], rope_theta=10000.0, ffn_dim_multiplier=4.0))
    return m, *pair(32), (16, 9, 7)


@arch
def newbie():
    m = build(SM.Lumina2, dict(image_model="lumina2", patch_size=2, in_channels=16, dim=64, cap_feat_dim=32, n_layers=2, qk_norm=True,
        n_heads=4, n_kv_heads=2, axes_dims=[4, 6, 6], axes_lens=[300, 512, 512], rope_theta=10000.0, ffn_dim_multiplier=4.0,
        clip_text_dim=48))
    return m, *pair(32, pooled_output=P48), (16, 9, 7)


ZI = dict(image_model="lumina2", patch_size=2, in_channels=16, dim=256, cap_feat_dim=32, n_layers=2, qk_norm=True, n_heads=4,
    n_kv_heads=4, axes_dims=[16, 24, 24], axes_lens=[1536, 512, 512], rope_theta=256.0, ffn_dim_multiplier=8/3, z_image_modulation=True,
    time_scale=1000.0, pad_tokens_multiple=32)


@arch
def z_image():
    return build(SM.ZImage, ZI), *pair(32), (16, 9, 7)


@arch
def z_image_omni():
    m = build(SM.ZImage, {**ZI, "siglip_feat_dim": 24})
    return m, *pair(32, reference_latents=[rnd(1, 16, 8, 6, seed=8)]), (16, 9, 7)


@arch
def z_image_pixel():
    m = build(SM.ZImagePixelSpace, {**ZI, "image_model": "zimage_pixel", "patch_size": 4, "in_channels": 3, "decoder_in_channels": 48,
        "decoder_hidden_size": 32, "decoder_num_res_blocks": 1, "decoder_max_freqs": 4})
    return m, *pair(32), (3, 18, 14)


@arch
def pixeldit():
    m = build(SM.PixelDiTT2I, dict(image_model="pixeldit_t2i", num_groups=2, hidden_size=64, pixel_hidden_size=8,
        pixel_attn_hidden_size=32, pixel_num_groups=2, patch_depth=2, pixel_depth=1, patch_size=4, txt_embed_dim=32, txt_max_length=20))
    return m, *pair(32), (3, 18, 14)


@arch
def pid():
    m = build(SM.PiD, dict(image_model="pid", num_groups=2, hidden_size=64, pixel_hidden_size=8, pixel_attn_hidden_size=32,
        pixel_num_groups=2, patch_depth=2, pixel_depth=1, patch_size=16, txt_embed_dim=32, txt_max_length=20, lq_hidden_dim=16,
        lq_num_res_blocks=1, lq_latent_channels=16))
    return m, *pair(32, lq_latent=rnd(1, 16, 2, 1, seed=8), degrade_sigma=torch.tensor([0.1])), (3, 64, 32)


@arch
def omnigen2():
    m = build(SM.Omnigen2, dict(image_model="omnigen2", axes_dim_rope=[8, 12, 12], axes_lens=[64, 64, 64], ffn_dim_multiplier=None,
        hidden_size=64, in_channels=16, multiple_of=32, norm_eps=1e-5, num_attention_heads=2, num_kv_heads=1, num_layers=2,
        num_refiner_layers=1, out_channels=None, patch_size=2, text_feat_dim=32, timestep_scale=1000.0))
    return m, *pair(32, attention_mask=lambda s: torch.ones(1, 7, dtype=torch.long)), (16, 9, 7)


@arch
def omnigen2_ref():
    m, p, n, s = omnigen2()
    for c in (p, n):
        c[0][1]["reference_latents"] = [rnd(1, 16, 6, 8, seed=8)]
    return m, p, n, s


@arch
def boogu():
    m = build(SM.Boogu, dict(image_model="boogu", hidden_size=64, num_layers=2, num_double_stream_layers=1, num_refiner_layers=1,
        instruction_feat_dim=32, num_attention_heads=2, num_kv_heads=1, axes_dim_rope=[8, 12, 12], axes_lens=[64, 64, 64],
        multiple_of=32))
    return m, *pair(32, attention_mask=lambda s: torch.ones(1, 7, dtype=torch.long)), (16, 9, 7)


@arch
def mage_flow():
    m = build(SM.MageFlow, dict(image_model="mage_flow", in_channels=128, num_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(8, 12, 12)))
    return m, *pair(32), (128, 9, 7)


QI = dict(image_model="qwen_image", in_channels=64, num_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=32,
    axes_dims_rope=(8, 12, 12))


@arch
def qwen_image():
    return build(SM.QwenImage, QI), *pair(32), (16, 1, 9, 7)


@arch
def qwen_edit():
    return build(SM.QwenImage, QI), *pair(32, reference_latents=[rnd(1, 16, 1, 8, 6, seed=8), rnd(1, 16, 1, 5, 9, seed=9)]), (16, 1, 9, 7)


@arch
def qwen_edit_2511():
    return (build(SM.QwenImage, {**QI, "default_ref_method": "index_timestep_zero"}), *pair(32, reference_latents=[rnd(1, 16, 1, 8, 6,
        seed=8)]), (16, 1, 9, 7))


@arch
def qwen_layered():
    return (build(SM.QwenImage, {**QI, "default_ref_method": "negative_index", "use_additional_t_cond": True}), *pair(32,
        reference_latents=[rnd(1, 16, 1, 9, 7, seed=8)]), (16, 3, 9, 7))


@arch
def joy_image():
    m = build(SM.JoyImage, dict(image_model="joyimage", in_channels=16, hidden_size=128, patch_size=[1, 2, 2], num_layers=2,
        num_attention_heads=1, text_dim=32))
    return m, *pair(32), (16, 1, 9, 7)


@arch
def ideogram4():
    m = build(SM.Ideogram4, dict(image_model="ideogram4", in_channels=128, num_layers=2), over=dict(num_attention_heads=1,
        attention_head_dim=128, intermediate_size=128, adaln_dim=32, llm_features_dim=32, mrope_section=[24, 20, 20]))
    return m, *pair(32), (128, 9, 7)


@arch
def krea2():
    m = build(SM.Krea2, dict(image_model="krea2", features=128, tdim=32, channels=16, patch=2, layers=2, heads=2, kvheads=1, txtlayers=3,
        txtdim=16, txtheads=2, txtkvheads=1), over=dict(num_heads=None))
    return m, *pair(48), (16, 1, 9, 7)


@arch
def lens():
    m = build(SM.Lens, dict(image_model="lens", in_channels=128, out_channels=32, num_layers=2, num_attention_heads=1,
        attention_head_dim=64, enc_hidden_dim=16, multi_layer_encoder_feature=True, selected_layer_index=(0, 1)))
    return m, *pair(32), (128, 9, 7)


@arch
def ernie():
    m = build(SM.ErnieImage, dict(image_model="ernie", hidden_size=128, num_attention_heads=1, num_layers=2, ffn_hidden_size=128,
        text_in_dim=32))
    return m, *pair(32), (128, 9, 7)


@arch
def kandinsky5_image():
    m = build(SM.Kandinsky5Image, dict(image_model="kandinsky5", model_dim=128, visual_embed_dim=64, axes_dims=(16, 24, 24),
        rope_scale_factor=(1., 1., 1.), time_dim=32, ff_dim=128, num_text_blocks=1, num_visual_blocks=2, in_text_dim=32, in_text_dim2=48))
    return m, *pair(32, pooled_output=P48), (16, 10, 8)


@arch
def kandinsky5_video():
    m = build(SM.Kandinsky5, dict(image_model="kandinsky5", model_dim=128, visual_embed_dim=132, axes_dims=(16, 24, 24), time_dim=32,
        ff_dim=128, num_text_blocks=1, num_visual_blocks=2, in_text_dim=32, in_text_dim2=48))
    return m, *pair(32, pooled_output=P48), (16, 3, 10, 8)


@arch
def hidream_o1():
    m = build(SM.HiDreamO1, dict(image_model="hidream_o1", text_config_overrides=dict(hidden_size=128, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=64, rope_dims=[12, 10, 10], vocab_size=151940),
        vision_config_overrides=dict(hidden_size=32, intermediate_size=32, depth=1, num_heads=2)))
    ids = lambda s: torch.tensor([151644, 872, 198, 10 + s, 20, 30, 151673])
    return m, *pair(8, text_input_ids=ids), (3, 96, 64)

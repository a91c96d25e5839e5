"""Small random models for host_zoo_check.py: UNets, Stable Cascade, Flux and its kin. Import it once ComfyUI is started."""

import comfy.supported_models as SM
from host_zoo import P48, arch, build, pair, rnd
import torch


def unet(cls, state=None, over=None, ctx=16, temporal=False, **cfg):
    base = dict(use_checkpoint=False, image_size=32, use_spatial_transformer=True, legacy=False, in_channels=4, out_channels=4,
        model_channels=32, num_res_blocks=[1, 1], transformer_depth=[1, 1], transformer_depth_output=[1, 1, 1, 1], channel_mult=[1, 2],
        transformer_depth_middle=1, use_linear_in_transformer=True, context_dim=ctx, use_temporal_resblock=False,
        use_temporal_attention=False, adm_in_channels=None, num_heads=2, num_head_channels=-1)
    extra = dict(num_heads=-1, num_head_channels=16)
    return build(cls, {**base, **cfg}, state, {**(extra), **(over or {})})


@arch
def sd15():
    return unet(SM.SD15), *pair(16), (4, 9, 7)


@arch
def sd15_inpaint():
    return unet(SM.SD15, in_channels=9), *pair(16), (4, 9, 7)


@arch
def sd2_vpred():
    m = build(SM.SD20, dict(use_checkpoint=False, image_size=32, use_spatial_transformer=True, legacy=False, in_channels=4,
        out_channels=4, model_channels=32, num_res_blocks=[1, 1], transformer_depth=[1, 1], transformer_depth_output=[1, 1, 1, 1],
        channel_mult=[1, 2], transformer_depth_middle=1, use_linear_in_transformer=True, context_dim=16, use_temporal_resblock=False,
        use_temporal_attention=False, adm_in_channels=None), {"output_blocks.11.1.transformer_blocks.0.norm1.bias": rnd(64)},
        dict(num_head_channels=16))
    return m, *pair(16), (4, 9, 7)


def _sdxl(cls=SM.SDXL, state=None, **cfg):
    return (unet(cls, state, num_classes="sequential", adm_in_channels=32 + 6 * 256, **cfg), *pair(16, pooled_output=lambda s: rnd(1, 32,
        seed=s), width=64, height=72), (4, 9, 7))


@arch
def sdxl():
    return _sdxl()


@arch
def sdxl_vpred_zsnr():
    return _sdxl(state={"v_pred": 1, "ztsnr": 1})


@arch
def sdxl_playground_edm():
    return _sdxl(state={"edm_mean": 1, "edm_std": 1})


@arch
def sdxl_vpred_edm():
    return _sdxl(state={"edm_vpred.sigma_max": torch.tensor(120.), "edm_vpred.sigma_min": torch.tensor(0.002)})


@arch
def sdxl_ip2p():
    m, p, n, s = _sdxl(SM.SDXL_instructpix2pix, in_channels=8)
    for c in (p, n):
        c[0][1]["concat_latent_image"] = rnd(1, 4, 9, 7, seed=9)
    return m, p, n, s


@arch
def sdxl_refiner():
    return (unet(SM.SDXLRefiner, num_classes="sequential", adm_in_channels=32 + 5 * 256), *pair(16, pooled_output=lambda s: rnd(1, 32,
        seed=s)), (4, 9, 7))


@arch
def sd15_ip2p():
    m = unet(SM.SD15_instructpix2pix, in_channels=8)
    p, n = pair(16, concat_latent_image=rnd(1, 4, 9, 7, seed=9))
    return m, p, n, (4, 9, 7)


@arch
def lotus_d():
    return unet(SM.LotusD, num_classes="sequential", adm_in_channels=4), *pair(16), (4, 9, 7)


@arch
def svd():
    m = unet(SM.SVD_img2vid, in_channels=8, num_classes="sequential", adm_in_channels=768, use_temporal_attention=True,
        use_temporal_resblock=True, extra_ff_mix_layer=True, use_spatial_context=True, merge_strategy="learned_with_images",
        merge_factor=0.0, video_kernel_size=[3,1,1], disable_temporal_crossattention=False)
    p, n = pair(16, 1, concat_latent_image=rnd(1, 4, 9, 7, seed=9), motion_bucket_id=127, fps=6, augmentation_level=0)
    return m, p, n, (4, 9, 7)


@arch
def sv3d_u():
    m = unet(SM.SV3D_u, in_channels=8, num_classes="sequential", adm_in_channels=256, use_temporal_attention=True,
        use_temporal_resblock=True, extra_ff_mix_layer=True, use_spatial_context=True, merge_strategy="learned_with_images",
        merge_factor=0.0, video_kernel_size=[3,1,1], disable_temporal_crossattention=False)
    p, n = pair(16, 1, concat_latent_image=rnd(1, 4, 9, 7, seed=9))
    return m, p, n, (4, 9, 7)


@arch
def zero123():
    m = unet(SM.Stable_Zero123, {"cc_projection.weight": rnd(16, 20), "cc_projection.bias": rnd(16)}, in_channels=8)
    p, n = pair(20, 1, concat_latent_image=rnd(1, 4, 9, 7, seed=9))
    return m, p, n, (4, 9, 7)


@arch
def sd_x4():
    m = unet(SM.SD_X4Upscaler, in_channels=7, over=dict(num_classes=1000, disable_self_attentions=[True, False], num_heads=2,
        num_head_channels=-1), num_classes=1000)
    p, n = pair(16, concat_image=rnd(1, 3, 9, 7, seed=9), noise_augmentation=0.1)
    return m, p, n, (4, 9, 7)


@arch
def sd21_unclip():
    m = unet(SM.SD21UnclipL, num_classes="sequential", adm_in_channels=1536)
    p, n = pair(16)
    return m, p, n, (4, 9, 7)


@arch
def cascade_c():
    m = build(SM.Stable_Cascade_C, dict(stable_cascade_stage="c", c_cond=32, c_hidden=[32, 32], nhead=[2, 2], blocks=[[1, 1], [1, 1]],
        c_clip_text=16, c_clip_text_pooled=16, c_clip_img=768))
    return m, *pair(16, pooled_output=lambda s: rnd(1, 1, 16, seed=s)), (16, 12, 8)


@arch
def cascade_b():
    m = build(SM.Stable_Cascade_B, dict(stable_cascade_stage="b", c_cond=32, c_hidden=[16, 16, 32, 32], nhead=[-1, -1, 2, 2],
        blocks=[[1]*4, [1]*4], block_repeat=[[1]*4, [1]*4], c_clip=16))
    return m, *pair(16, pooled_output=lambda s: rnd(1, 1, 16, seed=s), stable_cascade_prior=rnd(1, 16, 4, 4, seed=8)), (4, 32, 16)


FLUX = dict(image_model="flux", in_channels=16, out_channels=16, vec_in_dim=48, context_in_dim=32, hidden_size=128, mlp_ratio=4.0,
    num_heads=1, depth=2, depth_single_blocks=2, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True,
    txt_ids_dims=[], yak_mlp=False, txt_norm=False)


@arch
def flux_dev():
    return build(SM.Flux, FLUX), *pair(32, pooled_output=P48, guidance=3.0), (16, 9, 7)


@arch
def flux_kontext():
    return (build(SM.Flux, FLUX), *pair(32, pooled_output=P48, guidance=3.0, reference_latents=[rnd(1, 16, 8, 6, seed=8), rnd(1, 16, 5, 9,
        seed=9)]), (16, 9, 7))


@arch
def flux_kontext_uxo():
    return (build(SM.Flux, FLUX), *pair(32, pooled_output=P48, guidance=3.0, reference_latents=[rnd(1, 16, 8, 6, seed=8)],
        reference_latents_method="uxo"), (16, 9, 7))


@arch
def flux_fill():
    m = build(SM.FluxInpaint, {**FLUX, "in_channels": 96})
    return (m, *pair(32, pooled_output=P48, guidance=30.0, concat_latent_image=rnd(1, 16, 9, 7, seed=8), concat_mask=(rnd(1, 1, 72, 56,
        seed=9) > 0).float()), (16, 9, 7))


@arch
def flux_canny():
    m = build(SM.Flux, {**FLUX, "in_channels": 32})
    return m, *pair(32, pooled_output=P48, guidance=30.0, concat_latent_image=rnd(1, 16, 9, 7, seed=8)), (16, 9, 7)


@arch
def flux_schnell():
    return build(SM.FluxSchnell, {**FLUX, "guidance_embed": False}), *pair(32, pooled_output=P48), (16, 9, 7)


@arch
def flux2():
    m = build(SM.Flux2, dict(image_model="flux2", in_channels=128, hidden_size=128, depth=2, depth_single_blocks=2, vec_in_dim=None,
        context_in_dim=32, out_channels=128, axes_dim=[32]*4, num_heads=1, mlp_ratio=3.0, theta=2000, global_modulation=True,
        mlp_silu_act=True, qkv_bias=False, ops_bias=False, txt_ids_dims=[3], patch_size=1, guidance_embed=True,
        default_ref_method="index", ref_index_scale=10.0))
    return m, *pair(32, guidance=4.0), (128, 9, 7)


@arch
def flux2_ref():
    m, p, n, s = flux2()
    for c in (p, n):
        c[0][1]["reference_latents"] = [rnd(1, 128, 4, 6, seed=8)]
    return m, p, n, s


@arch
def longcat():
    m = build(SM.LongCatImage, {**FLUX, "guidance_embed": False, "vec_in_dim": None, "context_in_dim": 32, "txt_ids_dims": [1, 2]})
    return m, *pair(32), (16, 9, 7)


@arch
def ovis():
    m = build(SM.FluxSchnell, {**FLUX, "guidance_embed": False, "vec_in_dim": None, "yak_mlp": True, "txt_norm": True, "txt_ids_dims": [1,
        2]})
    return m, *pair(32), (16, 9, 7)


CHROMA = dict(image_model="chroma", in_channels=64, out_channels=64, context_in_dim=32, hidden_size=128, mlp_ratio=4.0, num_heads=1,
    depth=2, depth_single_blocks=3, axes_dim=[16,56,56], theta=10000, patch_size=2, qkv_bias=True, in_dim=64, out_dim=128, hidden_dim=64,
    n_layers=2, txt_ids_dims=[], vec_in_dim=None)


@arch
def chroma():
    return build(SM.Chroma, CHROMA), *pair(32), (16, 9, 7)


RADIANCE = {**CHROMA, "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 4,
    "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 2, "nerf_max_freqs": 4, "nerf_tile_size": 16,
    "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False, "use_sequential_txt_ids": False}


@arch
def chroma_radiance():
    return build(SM.ChromaRadiance, RADIANCE), *pair(32), (3, 18, 14)

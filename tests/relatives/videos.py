"""Pipelines for videos."""

from __future__ import annotations

from typing import Any

from relatives.core import BOOLEAN, LTX, MASKED, image_call, normal, ones, picture, relative
from relatives.images import KANDINSKY, kandinsky5_parts

# Wan


def wan_parts(in_channels: int = 16) -> dict[str, Any]:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=in_channels,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    autoencoder = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return {"transformer": transformer, "vae": autoencoder}


def wan_two_experts() -> dict[str, Any]:
    parts = wan_parts()
    return {**parts, "transformer_2": wan_parts()["transformer"], "boundary_ratio": 0.7}


WAN = {"prompt_embeds": normal(1, 7, 32), "negative_prompt_embeds": normal(1, 7, 32, seed=3)}

relative("Wan", "WanPipeline", image_call(**WAN, num_frames=5), note="no sigmas passed", shift=5.0)(wan_parts)
relative("Wan 2.2, two experts", "WanPipeline", image_call(**WAN, num_frames=5), note="no sigmas passed", shift=5.0)(
    wan_two_experts
)
relative(
    "Wan video to video",
    "WanVideoToVideoPipeline",
    image_call(**WAN, video=lambda: [picture()] * 5, strength=0.7),
    note="add_noise",
    shift=5.0,
)(wan_parts)


@relative(
    "Wan image to video",
    "WanImageToVideoPipeline",
    image_call(**WAN, num_frames=5, image=picture),
    note="no sigmas passed",
    shift=5.0,
)
def wan_i2v() -> dict[str, Any]:
    return wan_parts(16 + 16 + 4)


@relative("Wan VACE", "WanVACEPipeline", image_call(**WAN, num_frames=5), note="no sigmas passed", shift=5.0)
def wan_vace() -> dict[str, Any]:
    from diffusers import WanVACETransformer3DModel

    transformer = WanVACETransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        vace_layers=[0],
        vace_in_channels=2 * 16 + 8 * 8,
    )
    return {"transformer": transformer, "vae": wan_parts()["vae"]}


# LTX


def ltx_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    autoencoder = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )
    autoencoder.use_framewise_encoding = False
    autoencoder.use_framewise_decoding = False
    return {"transformer": transformer, "vae": autoencoder}


LTX_CALL = {**MASKED, "num_frames": 9}
PER_TOKEN = "every token has a time of its own: per_token_timesteps"

relative("LTX", "LTXPipeline", image_call(**LTX_CALL), **LTX)(ltx_parts)
relative(
    "LTX image to video",
    "LTXImageToVideoPipeline",
    image_call(**LTX_CALL, image=picture),
    note="steps a slice of the latents",
    **LTX,
)(ltx_parts)
relative("LTX condition", "LTXConditionPipeline", image_call(**LTX_CALL), note="passes -v", only_euler=PER_TOKEN)(ltx_parts)
relative(
    "LTX condition, with an image",
    "LTXConditionPipeline",
    image_call(**LTX_CALL, image=picture, strength=0.9),
    note="passes -v",
    only_euler=PER_TOKEN,
)(ltx_parts)


# LTX 2: video and sound, each with a copy of the scheduler


LTX2_CALL = {
    **{k: v for k, v in MASKED.items() if "mask" in k},
    "prompt_embeds": normal(1, 7, 32),
    "negative_prompt_embeds": normal(1, 7, 32, seed=3),
    "num_frames": 5,
    "frame_rate": 25.0,
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_modality_scale": 1.0,
    "output_type": "latent",
}
BY_SIGMA = "makes a data prediction of the velocity and divides by sigma again: no call may be at 0, see below"


@relative("LTX 2", "LTX2Pipeline", image_call(**LTX2_CALL), note=BY_SIGMA, divides=True, **LTX)
def ltx2_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    rope = {"rope_double_precision": False, "rope_type": "split"}
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
        **rope,
    )
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=2,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        **rope,
    )
    autoencoder = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=1,
    )
    sound = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, latent_channels=2, resolution=32, mel_bins=8
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=8,
        upsample_kernel_sizes=[4],
        upsample_factors=[2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )
    return {"transformer": transformer, "connectors": connectors, "vae": autoencoder, "audio_vae": sound, "vocoder": vocoder}


# Sana, Hunyuan, Mochi, Kandinsky


@relative(
    "Sana Video",
    "SanaVideoPipeline",
    image_call(**MASKED, negative_prompt=None, frames=5, use_resolution_binning=False),
    shift=8.0,
)
def sana_video_parts() -> dict[str, Any]:
    from diffusers import SanaVideoTransformer3DModel

    transformer = SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=8,
    )
    return {"transformer": transformer, "vae": wan_parts()["vae"]}


relative(
    "Sana image to video",
    "SanaImageToVideoPipeline",
    image_call(**MASKED, negative_prompt=None, image=picture, frames=5, use_resolution_binning=False),
    shift=8.0,
)(sana_video_parts)


HUNYUAN_VIDEO = {
    "prompt_embeds": normal(1, 7, 16),
    "pooled_prompt_embeds": normal(1, 8),
    "prompt_attention_mask": ones(1, 7),
    "num_frames": 5,
}


@relative("HunyuanVideo", "HunyuanVideoPipeline", image_call(**HUNYUAN_VIDEO), shift=7.0)
def hunyuan_video_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    autoencoder = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return {"transformer": transformer, "vae": autoencoder}


def with_negative(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Embeddings by name, and negative ones; a shape of one number is a mask's."""
    made = {k: normal(1, *n) if len(n) > 1 else ones(1, *n) for k, n in shapes.items()}
    return made | {f"negative_{k}": normal(1, *n, seed=3) if len(n) > 1 else ones(1, *n) for k, n in shapes.items()}


HUNYUAN_15 = {
    "prompt_embeds": (7, 16),
    "prompt_embeds_mask": (7,),
    "prompt_embeds_2": (5, 8),
    "prompt_embeds_mask_2": (5,),
}


@relative("HunyuanVideo 1.5", "HunyuanVideo15Pipeline", image_call(**with_negative(HUNYUAN_15), num_frames=5), shift=7.0)
def hunyuan_video_15_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
    from diffusers.guiders import ClassifierFreeGuidance

    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=8,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=32,
        task_type="t2v",
    )
    autoencoder = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return {"transformer": transformer, "vae": autoencoder, "guider": ClassifierFreeGuidance(guidance_scale=4.0)}


@relative(
    "Mochi",
    "MochiPipeline",
    image_call(**BOOLEAN, num_frames=7),
    note="sigma rises from 0 to 1: invert_sigmas",
    invert_sigmas=True,
)
def mochi_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLMochi, MochiTransformer3DModel

    transformer = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    autoencoder = AutoencoderKLMochi(
        latent_channels=12,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return {"transformer": transformer, "vae": autoencoder}


@relative(
    "Kandinsky 5 video", "Kandinsky5T2VPipeline", image_call(**KANDINSKY, num_frames=5), note="no sigmas passed", shift=10.0
)
def kandinsky5_video() -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanVideo

    autoencoder = AutoencoderKLHunyuanVideo(
        latent_channels=16,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return {**kandinsky5_parts(), "vae": autoencoder}

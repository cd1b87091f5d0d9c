"""More pipelines for images."""

from __future__ import annotations

from typing import Any

import torch

from relatives.core import BOOLEAN, DYNAMIC, MASKED, image_call, normal, ones, picture, relative, vae
from relatives.flux import qwen_parts

# AuraFlow, Lumina, Chroma, CogView4


def aura_flow_parts() -> dict[str, Any]:
    from diffusers import AuraFlowTransformer2DModel

    transformer = AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    return {"transformer": transformer, "vae": vae()}


relative("AuraFlow", "AuraFlowPipeline", image_call(**MASKED), note="no sigmas passed", shift=1.73)(aura_flow_parts)


@relative("Lumina 2", "Lumina2Pipeline", image_call(**MASKED), note="passes -v; its time is 1 - sigma", shift=6.0)
def lumina2_parts() -> dict[str, Any]:
    from diffusers import Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(128, 128, 128),
        cap_feat_dim=32,
    )
    return {"transformer": transformer, "vae": vae()}


@relative("Lumina", "LuminaPipeline", image_call(**MASKED), note="its time is 1 - sigma")
def lumina_parts() -> dict[str, Any]:
    from diffusers import LuminaNextDiT2DModel

    transformer = LuminaNextDiT2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        cross_attention_dim=32,
    )
    return {"transformer": transformer, "vae": vae()}


def chroma_parts() -> dict[str, Any]:
    from diffusers import ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return {"transformer": transformer, "vae": vae()}


relative("Chroma", "ChromaPipeline", image_call(**BOOLEAN), note="beta sigmas", use_beta_sigmas=True)(chroma_parts)
relative("Chroma img2img", "ChromaImg2ImgPipeline", image_call(**BOOLEAN, image=picture, strength=0.7), use_beta_sigmas=True)(
    chroma_parts
)


COGVIEW = {"prompt_embeds": normal(1, 7, 32), "negative_prompt_embeds": normal(1, 7, 32, seed=3)}
COGVIEW_SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}


@relative(
    "CogView4",
    "CogView4Pipeline",
    image_call(**COGVIEW),
    note="passes sigmas and timesteps; reads scheduler.sigmas; linear shift",
    **COGVIEW_SHIFT,
)
def cogview4_parts(in_channels: int = 4) -> dict[str, Any]:
    from diffusers import CogView4Transformer2DModel

    transformer = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=in_channels,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    return {"transformer": transformer, "vae": vae()}


relative("CogView4 Control", "CogView4ControlPipeline", image_call(**COGVIEW, control_image=picture), **COGVIEW_SHIFT)(
    lambda: cogview4_parts(8)
)


# Sana, HiDream, Hunyuan, Kandinsky, Krea, Ovis, Bria, PRX


@relative("Sana", "SanaPipeline", image_call(**MASKED, negative_prompt=None, use_resolution_binning=False), shift=3.0)
def sana_parts() -> dict[str, Any]:
    from diffusers import AutoencoderDC, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=32,
        sample_size=32,
    )
    autoencoder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return {"transformer": transformer, "vae": autoencoder}


relative("Sana PAG", "SanaPAGPipeline", image_call(**MASKED, negative_prompt=None, use_resolution_binning=False), shift=3.0)(
    lambda: {**sana_parts(), "pag_applied_layers": ["transformer_blocks.0"]}
)


HIDREAM = {
    "prompt_embeds_t5": normal(1, 6, 32),
    "prompt_embeds_llama3": normal(2, 1, 6, 32),
    "pooled_prompt_embeds": normal(1, 16),
    "negative_prompt_embeds_t5": normal(1, 6, 32, seed=3),
    "negative_prompt_embeds_llama3": normal(2, 1, 6, 32, seed=3),
    "negative_pooled_prompt_embeds": normal(1, 16, seed=3),
}


@relative("HiDream", "HiDreamImagePipeline", image_call(**HIDREAM), note="passes -v", shift=3.0)
def hidream_parts() -> dict[str, Any]:
    from diffusers import HiDreamImageTransformer2DModel

    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 32],
        text_emb_dim=16,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    )
    return {"transformer": transformer, "vae": vae()}


HUNYUAN_IMAGE = {
    "prompt_embeds": normal(1, 7, 32),
    "prompt_embeds_mask": ones(1, 7),
    "negative_prompt_embeds": normal(1, 7, 32, seed=3),
    "negative_prompt_embeds_mask": ones(1, 7),
    "prompt_embeds_2": normal(1, 6, 32),
    "prompt_embeds_mask_2": ones(1, 6),
    "negative_prompt_embeds_2": normal(1, 6, 32, seed=3),
    "negative_prompt_embeds_mask_2": ones(1, 6),
}


@relative("HunyuanImage", "HunyuanImagePipeline", image_call(**HUNYUAN_IMAGE), shift=5.0)
def hunyuan_image_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLHunyuanImage, HunyuanImageTransformer2DModel

    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=32,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    autoencoder = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=32,
        scaling_factor=0.75,
    )
    return {"transformer": transformer, "vae": autoencoder}


KREA = {
    "prompt_embeds": normal(1, 7, 2, 16),
    "prompt_embeds_mask": ones(1, 7).bool(),
    "negative_prompt_embeds": normal(1, 7, 2, 16, seed=3),
    "negative_prompt_embeds_mask": ones(1, 7).bool(),
}
KANDINSKY = {
    "prompt_embeds_qwen": normal(1, 7, 16),
    "prompt_embeds_clip": normal(1, 8),
    "prompt_cu_seqlens": torch.tensor([0, 7], dtype=torch.int32),
    "negative_prompt_embeds_qwen": normal(1, 7, 16, seed=3),
    "negative_prompt_embeds_clip": normal(1, 8, seed=3),
    "negative_prompt_cu_seqlens": torch.tensor([0, 7], dtype=torch.int32),
}


@relative("Kandinsky 5", "Kandinsky5T2IPipeline", image_call(**KANDINSKY), note="no sigmas passed", shift=5.0)
def kandinsky5_parts(*, pictured: bool = False) -> dict[str, Any]:
    from diffusers import Kandinsky5Transformer3DModel

    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=32,
        out_visual_dim=16,
        patch_size=(1, 2, 2),
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 8),
        visual_cond=pictured,
    )
    return {"transformer": transformer, "vae": vae(16, blocks=4)}


relative(
    "Kandinsky 5 img2img",
    "Kandinsky5I2IPipeline",
    image_call(**KANDINSKY, image=picture),
    note="no sigmas passed",
    shift=5.0,
)(lambda: kandinsky5_parts(pictured=True))


@relative(
    "Ovis-Image",
    "OvisImagePipeline",
    image_call(prompt_embeds=normal(1, 7, 32), negative_prompt_embeds=normal(1, 7, 32, seed=3), negative_prompt=None),
    **DYNAMIC,
)
def ovis_parts() -> dict[str, Any]:
    from diffusers import OvisImageTransformer2DModel

    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return {"transformer": transformer, "vae": vae()}


@relative(
    "Bria",
    "BriaPipeline",
    image_call(prompt_embeds=normal(1, 7, 32), negative_prompt_embeds=normal(1, 7, 32, seed=3)),
    shift=3.0,
)
def bria_parts() -> dict[str, Any]:
    from diffusers import BriaTransformer2DModel

    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    return {"transformer": transformer, "vae": vae()}


@relative("PRX", "PRXPipeline", image_call(**BOOLEAN, use_resolution_binning=False), note="no sigmas passed", shift=3.0)
def prx_parts() -> dict[str, Any]:
    from diffusers import PRXTransformer2DModel

    transformer = PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=32, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=1, axes_dim=[8, 8]
    )
    return {"transformer": transformer, "vae": vae()}


@relative("Krea 2", "Krea2Pipeline", image_call(**KREA), **DYNAMIC)
def krea2_parts() -> dict[str, Any]:
    from diffusers import Krea2Transformer2DModel

    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=32,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )
    return {"transformer": transformer, "vae": qwen_parts()["vae"]}

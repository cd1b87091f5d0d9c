"""FLUX, Stable Diffusion 3, Qwen-Image, Z-Image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from relatives.core import DYNAMIC, QWEN, image_call, mask, normal, ones, picture, relative, vae

# FLUX.1


FLUX_SIZE = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 4, 8),
}


def flux_parts(in_channels: int = 16) -> dict[str, Any]:
    from diffusers import FluxTransformer2DModel

    return {"transformer": FluxTransformer2DModel(in_channels=in_channels, out_channels=16, **FLUX_SIZE), "vae": vae()}


FLUX = {"prompt_embeds": normal(1, 7, 32), "pooled_prompt_embeds": normal(1, 32)}

relative("Flux", "FluxPipeline", image_call(**FLUX), shift=3.0, **DYNAMIC)(flux_parts)
relative("Flux img2img", "FluxImg2ImgPipeline", image_call(**FLUX, image=picture, strength=0.6), shift=3.0, **DYNAMIC)(
    flux_parts
)
relative(
    "Flux inpaint",
    "FluxInpaintPipeline",
    image_call(**FLUX, image=picture, mask_image=mask, strength=0.7),
    shift=3.0,
    **DYNAMIC,
)(flux_parts)
relative(
    "Flux Kontext", "FluxKontextPipeline", image_call(**FLUX, image=picture, max_area=32 * 32, _auto_resize=False), **DYNAMIC
)(flux_parts)


@relative("Flux Fill", "FluxFillPipeline", image_call(**FLUX, image=picture, mask_image=mask), **DYNAMIC)
def flux_fill() -> dict[str, Any]:
    return flux_parts(16 + 16 + 4)


@relative("Flux Control", "FluxControlPipeline", image_call(**FLUX, control_image=picture), **DYNAMIC)
def flux_control() -> dict[str, Any]:
    return flux_parts(32)


CONTROLLED = {**FLUX, "image": picture, "control_image": picture, "strength": 0.7}

relative("Flux Control img2img", "FluxControlImg2ImgPipeline", image_call(**CONTROLLED), **DYNAMIC)(flux_control)
relative("Flux Control inpaint", "FluxControlInpaintPipeline", image_call(**CONTROLLED, mask_image=mask), **DYNAMIC)(
    flux_control
)


@relative("Flux ControlNet", "FluxControlNetPipeline", image_call(**FLUX, control_image=picture), **DYNAMIC)
def flux_controlnet() -> dict[str, Any]:
    from diffusers import FluxControlNetModel

    return {**flux_parts(), "controlnet": FluxControlNetModel(in_channels=16, **FLUX_SIZE)}


relative("Flux ControlNet img2img", "FluxControlNetImg2ImgPipeline", image_call(**CONTROLLED), **DYNAMIC)(flux_controlnet)
relative("Flux ControlNet inpaint", "FluxControlNetInpaintPipeline", image_call(**CONTROLLED, mask_image=mask), **DYNAMIC)(
    flux_controlnet
)
relative(
    "Flux Kontext inpaint",
    "FluxKontextInpaintPipeline",
    image_call(**FLUX, image=picture, mask_image=mask, strength=0.7, max_area=32 * 32, _auto_resize=False),
    **DYNAMIC,
)(flux_parts)


# Stable Diffusion 3


SD3_SIZE = {
    "sample_size": 32,
    "patch_size": 1,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 96,
}


def sd3_parts() -> dict[str, Any]:
    from diffusers import SD3Transformer2DModel

    return {"transformer": SD3Transformer2DModel(**SD3_SIZE), "vae": vae(16)}


SD3 = {
    "prompt_embeds": normal(1, 7, 32),
    "pooled_prompt_embeds": normal(1, 64),
    "negative_prompt_embeds": normal(1, 7, 32, seed=3),
    "negative_pooled_prompt_embeds": normal(1, 64, seed=3),
}

relative("SD3", "StableDiffusion3Pipeline", image_call(**SD3), shift=3.0)(sd3_parts)
relative("SD3.5, dynamic shift", "StableDiffusion3Pipeline", image_call(**SD3), **DYNAMIC)(sd3_parts)
relative("SD3 img2img", "StableDiffusion3Img2ImgPipeline", image_call(**SD3, image=picture, strength=0.6), shift=3.0)(sd3_parts)
relative(
    "SD3 inpaint", "StableDiffusion3InpaintPipeline", image_call(**SD3, image=picture, mask_image=mask, strength=0.7), shift=3.0
)(sd3_parts)


@relative("SD3 PAG", "StableDiffusion3PAGPipeline", image_call(**SD3), shift=3.0)
def sd3_pag() -> dict[str, Any]:
    return {**sd3_parts(), "pag_applied_layers": ["blocks.0"]}


relative("SD3 PAG img2img", "StableDiffusion3PAGImg2ImgPipeline", image_call(**SD3, image=picture, strength=0.6), shift=3.0)(
    sd3_pag
)


@relative("SD3 ControlNet", "StableDiffusion3ControlNetPipeline", image_call(**SD3, control_image=picture), shift=3.0)
def sd3_controlnet() -> dict[str, Any]:
    from diffusers import SD3ControlNetModel

    return {**sd3_parts(), "controlnet": SD3ControlNetModel(**SD3_SIZE)}


@relative(
    "SD3 ControlNet inpaint",
    "StableDiffusion3ControlNetInpaintingPipeline",
    image_call(**SD3, control_image=picture, control_mask=mask),
    shift=3.0,
)
def sd3_controlnet_inpaint() -> dict[str, Any]:
    from diffusers import SD3ControlNetModel

    return {**sd3_parts(), "controlnet": SD3ControlNetModel(**SD3_SIZE, extra_conditioning_channels=1)}


# FLUX.2


@relative("FLUX.2", "Flux2Pipeline", image_call(prompt_embeds=normal(1, 7, 16)), **DYNAMIC)
def flux2_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=256,
        axes_dims_rope=(4, 4, 4, 4),
    )
    autoencoder = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {"transformer": transformer, "vae": autoencoder}


# Qwen-Image


QWEN_SIZE = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "axes_dims_rope": (8, 4, 4),
}


def qwen_parts() -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(**QWEN_SIZE)
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return {"transformer": transformer, "vae": autoencoder}


QWEN_CALL = {
    "prompt_embeds": normal(1, 7, 16),
    "prompt_embeds_mask": ones(1, 7),
    "negative_prompt_embeds": normal(1, 5, 16, seed=3),
    "negative_prompt_embeds_mask": ones(1, 5),
    "true_cfg_scale": 4.0,
}

relative("Qwen-Image", "QwenImagePipeline", image_call(**QWEN_CALL), **QWEN)(qwen_parts)
relative("Qwen-Image img2img", "QwenImageImg2ImgPipeline", image_call(**QWEN_CALL, image=picture, strength=0.6), **QWEN)(
    qwen_parts
)
relative(
    "Qwen-Image inpaint",
    "QwenImageInpaintPipeline",
    image_call(**QWEN_CALL, image=picture, mask_image=mask, strength=0.7),
    **QWEN,
)(qwen_parts)


@relative("Qwen-Image ControlNet", "QwenImageControlNetPipeline", image_call(**QWEN_CALL, control_image=picture), **QWEN)
def qwen_controlnet() -> dict[str, Any]:
    from diffusers import QwenImageControlNetModel

    return {**qwen_parts(), "controlnet": QwenImageControlNetModel(**QWEN_SIZE)}


# Z-Image


def z_image_parts() -> dict[str, Any]:
    from diffusers import ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)  # diffusers leaves them as the memory was
    return {"transformer": transformer, "vae": vae(16, blocks=2)}


def z_image_call(**more: Any) -> Callable[[], dict[str, Any]]:
    embeds = {"prompt_embeds": lambda: [normal(8, 16)], "negative_prompt_embeds": lambda: [normal(8, 16, seed=3)]}
    return image_call(**embeds, **more)


relative("Z-Image", "ZImagePipeline", z_image_call(), note="passes -v; its time is 1 - sigma", shift=3.0)(z_image_parts)
relative("Z-Image img2img", "ZImageImg2ImgPipeline", z_image_call(image=picture, strength=0.6), note="passes -v", shift=3.0)(
    z_image_parts
)

relative("Z-Image inpaint", "ZImageInpaintPipeline", z_image_call(image=picture, mask_image=mask, strength=0.7), shift=3.0)(
    z_image_parts
)


@relative("Z-Image ControlNet", "ZImageControlNetPipeline", z_image_call(control_image=picture), note="passes -v", shift=3.0)
def z_image_controlnet() -> dict[str, Any]:
    from diffusers import ZImageControlNetModel

    parts = z_image_parts()
    controlnet = ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=16,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return {**parts, "controlnet": ZImageControlNetModel.from_transformer(controlnet, parts["transformer"])}

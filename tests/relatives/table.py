"""The flow pipelines of diffusers as tiny random models: for each the networks, a scheduler's configuration and a call.

Text encoders are left out wherever a pipeline takes embeddings instead of prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Relative:
    """A pipeline that FlowMatchEuler serves.

    Attributes:
        pipeline: class name in diffusers.
        networks: their name in networks.yaml, or a function that makes them; components that are not named are None.
        given: arguments of its call, or functions that make them; latents are drawn by the pipeline from a seeded generator.
        scheduler: configuration of its scheduler.
        note: what is special about it.
        only_euler: why other samplers are refused, if they are.
        divides: the pipeline divides by sigma, so that a call at 0 has no velocity.
    """

    pipeline: str
    networks: str | Callable[[], dict[str, Any]]
    given: dict[str, Any]
    scheduler: dict[str, Any]
    note: str = ""
    only_euler: str = ""
    divides: bool = False

    def parts(self) -> dict[str, Any]:
        """Its networks, with random weights."""
        return made(self.networks) if isinstance(self.networks, str) else self.networks()

    def call(self) -> dict[str, Any]:
        """The arguments of a call for a picture of 32 x 32."""
        return {"height": 32, "width": 32, **{k: v() if callable(v) else v for k, v in self.given.items()}}


RELATIVES: dict[str, Relative] = {}


def relative(name: str, pipeline: str, networks: Any, call: dict[str, Any], **more: Any) -> None:
    """Add a pipeline; what is no attribute of `Relative` configures its scheduler."""
    about = {k: more.pop(k) for k in ("note", "only_euler", "divides") if k in more}
    RELATIVES[name] = Relative(pipeline, networks, call, more, **about)


@cache
def configurations() -> dict[str, dict[str, Any]]:
    """What networks.yaml says."""
    return yaml.safe_load((Path(__file__).parent / "networks.yaml").read_text())


def made(networks: str) -> dict[str, Any]:
    """The parts of a pipeline, made in the order of the file."""
    parts: dict[str, Any] = {}
    for part, value in configurations()[networks].items():
        config = dict(value) if isinstance(value, dict) else {}
        parts[part] = resolve_name(f"diffusers.{config.pop('of')}")(**config) if config else value
    return parts


# Ingredients


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Embeddings of no prompt."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(*shape: int) -> Tensor:
    """A mask that hides nothing."""
    return torch.ones(*shape, dtype=torch.long)


def texts(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Embeddings by name, and negative ones; those whose name has a mask in it are ones."""
    return {
        prefix + name: ones(*shape) if "mask" in name else normal(*shape, seed=seed)
        for prefix, seed in (("", 1), ("negative_", 3))
        for name, shape in shapes.items()
    }


def boolean(call: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with boolean masks."""
    return {k: v.bool() if "mask" in k else v for k, v in call.items()}


def picture(side: int = 32) -> Image.Image:
    """An image to start from."""
    return Image.fromarray((normal(side, side, 3, seed=2).sigmoid() * 255).to(torch.uint8).numpy())


def mask(side: int = 32) -> Image.Image:
    """The right half is to be painted."""
    return Image.fromarray((torch.arange(side).expand(side, side) >= side // 2).mul(255).to(torch.uint8).numpy())


DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
DYNAMIC |= {"base_image_seq_len": 256, "max_image_seq_len": 4096}
MASKED = texts(prompt_embeds=(1, 7, 32), prompt_attention_mask=(1, 7))
"""Embeddings of a prompt and of a negative one, with their masks."""
EMBEDDED = texts(prompt_embeds=(1, 7, 32))
"""The same without masks."""
CONTROL = {"control_image": picture}
IMAGE = {"image": picture, "strength": 0.6}
INPAINT = {"image": picture, "mask_image": mask, "strength": 0.7}
UNSENT, NEGATED = {"note": "no sigmas passed"}, {"note": "passes -v"}

# FLUX.1

FLUX = {"prompt_embeds": normal(1, 7, 32), "pooled_prompt_embeds": normal(1, 32)}
CONTROLLED = {**FLUX, "image": picture, "control_image": picture, "strength": 0.7}
KONTEXT = {"image": picture, "max_area": 32 * 32, "_auto_resize": False}
relative("Flux", "FluxPipeline", "flux", FLUX, shift=3.0, **DYNAMIC)
relative("Flux img2img", "FluxImg2ImgPipeline", "flux", {**FLUX, **IMAGE}, shift=3.0, **DYNAMIC)
relative("Flux inpaint", "FluxInpaintPipeline", "flux", {**FLUX, **INPAINT}, shift=3.0, **DYNAMIC)
relative("Flux Kontext", "FluxKontextPipeline", "flux", {**FLUX, **KONTEXT}, **DYNAMIC)
relative("Flux Fill", "FluxFillPipeline", "flux fill", {**FLUX, "image": picture, "mask_image": mask}, **DYNAMIC)
relative("Flux Control", "FluxControlPipeline", "flux control", {**FLUX, **CONTROL}, **DYNAMIC)
relative("Flux Control img2img", "FluxControlImg2ImgPipeline", "flux control", CONTROLLED, **DYNAMIC)
relative("Flux Control inpaint", "FluxControlInpaintPipeline", "flux control", {**CONTROLLED, "mask_image": mask}, **DYNAMIC)
relative("Flux ControlNet", "FluxControlNetPipeline", "flux controlnet", {**FLUX, **CONTROL}, **DYNAMIC)
relative("Flux ControlNet img2img", "FluxControlNetImg2ImgPipeline", "flux controlnet", CONTROLLED, **DYNAMIC)
relative(
    "Flux ControlNet inpaint", "FluxControlNetInpaintPipeline", "flux controlnet", {**CONTROLLED, "mask_image": mask}, **DYNAMIC
)
relative("Flux Kontext inpaint", "FluxKontextInpaintPipeline", "flux", {**FLUX, **INPAINT, **KONTEXT}, **DYNAMIC)

# Stable Diffusion 3

SD3 = texts(prompt_embeds=(1, 7, 32), pooled_prompt_embeds=(1, 64))
relative("SD3", "StableDiffusion3Pipeline", "sd3", SD3, shift=3.0)
relative("SD3.5, dynamic shift", "StableDiffusion3Pipeline", "sd3", SD3, **DYNAMIC)
relative("SD3 img2img", "StableDiffusion3Img2ImgPipeline", "sd3", {**SD3, **IMAGE}, shift=3.0)
relative("SD3 inpaint", "StableDiffusion3InpaintPipeline", "sd3", {**SD3, **INPAINT}, shift=3.0)
relative("SD3 PAG", "StableDiffusion3PAGPipeline", "sd3 pag", SD3, shift=3.0)
relative("SD3 PAG img2img", "StableDiffusion3PAGImg2ImgPipeline", "sd3 pag", {**SD3, **IMAGE}, shift=3.0)
relative("SD3 ControlNet", "StableDiffusion3ControlNetPipeline", "sd3 controlnet", {**SD3, **CONTROL}, shift=3.0)
relative(
    "SD3 ControlNet inpaint",
    "StableDiffusion3ControlNetInpaintingPipeline",
    "sd3 controlnet inpaint",
    {**SD3, "control_image": picture, "control_mask": mask},
    shift=3.0,
)

# FLUX.2, Qwen-Image

QWEN = {**DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
QWEN_TEXT = {**texts(prompt_embeds=(1, 7, 16), prompt_embeds_mask=(1, 7)), "true_cfg_scale": 4.0}
QWEN_TEXT |= {"negative_prompt_embeds": normal(1, 5, 16, seed=3), "negative_prompt_embeds_mask": ones(1, 5)}
relative("FLUX.2", "Flux2Pipeline", "flux2", {"prompt_embeds": normal(1, 7, 16)}, **DYNAMIC)
relative("Qwen-Image", "QwenImagePipeline", "qwen", QWEN_TEXT, **QWEN)
relative("Qwen-Image img2img", "QwenImageImg2ImgPipeline", "qwen", {**QWEN_TEXT, **IMAGE}, **QWEN)
relative("Qwen-Image inpaint", "QwenImageInpaintPipeline", "qwen", {**QWEN_TEXT, **INPAINT}, **QWEN)
relative("Qwen-Image ControlNet", "QwenImageControlNetPipeline", "qwen controlnet", {**QWEN_TEXT, **CONTROL}, **QWEN)

# Z-Image


def z_image(networks: str = "z-image") -> dict[str, Any]:
    """The tokens of the padding are drawn here: diffusers leaves them as the memory was."""
    parts = made(networks)
    for token in (parts["transformer"].x_pad_token, parts["transformer"].cap_pad_token):
        torch.nn.init.normal_(token)
    if "controlnet" in parts:  # it shares parts of the transformer
        parts["controlnet"] = type(parts["controlnet"]).from_transformer(parts["controlnet"], parts["transformer"])
    return parts


Z_IMAGE = {"prompt_embeds": lambda: [normal(8, 16)], "negative_prompt_embeds": lambda: [normal(8, 16, seed=3)]}
relative("Z-Image", "ZImagePipeline", z_image, Z_IMAGE, note="passes -v; its time is 1 - sigma", shift=3.0)
relative("Z-Image img2img", "ZImageImg2ImgPipeline", z_image, {**Z_IMAGE, **IMAGE}, shift=3.0, **NEGATED)
relative("Z-Image inpaint", "ZImageInpaintPipeline", z_image, {**Z_IMAGE, **INPAINT}, shift=3.0)
relative(
    "Z-Image ControlNet",
    "ZImageControlNetPipeline",
    lambda: z_image("z-image controlnet"),
    {**Z_IMAGE, **CONTROL},
    shift=3.0,
    **NEGATED,
)

# More for images

COGVIEW_SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}
SANA = {**MASKED, "negative_prompt": None, "use_resolution_binning": False}
HIDREAM = texts(prompt_embeds_t5=(1, 6, 32), prompt_embeds_llama3=(2, 1, 6, 32), pooled_prompt_embeds=(1, 16))
HUNYUAN = texts(prompt_embeds=(1, 7, 32), prompt_embeds_mask=(1, 7), prompt_embeds_2=(1, 6, 32), prompt_embeds_mask_2=(1, 6))
KREA = boolean(texts(prompt_embeds=(1, 7, 2, 16), prompt_embeds_mask=(1, 7)))
KANDINSKY = texts(prompt_embeds_qwen=(1, 7, 16), prompt_embeds_clip=(1, 8))
KANDINSKY |= {f"{of}prompt_cu_seqlens": torch.tensor([0, 7], dtype=torch.int32) for of in ("", "negative_")}
relative("AuraFlow", "AuraFlowPipeline", "aura flow", MASKED, shift=1.73, **UNSENT)
relative("Lumina 2", "Lumina2Pipeline", "lumina 2", MASKED, note="passes -v; its time is 1 - sigma", shift=6.0)
relative("Lumina", "LuminaPipeline", "lumina", MASKED, note="its time is 1 - sigma")
relative("Chroma", "ChromaPipeline", "chroma", boolean(MASKED), note="beta sigmas", use_beta_sigmas=True)
relative(
    "Chroma img2img", "ChromaImg2ImgPipeline", "chroma", {**boolean(MASKED), **IMAGE, "strength": 0.7}, use_beta_sigmas=True
)
relative(
    "CogView4",
    "CogView4Pipeline",
    "cogview4",
    EMBEDDED,
    note="passes sigmas and timesteps; reads scheduler.sigmas; linear shift",
    **COGVIEW_SHIFT,
)
relative("CogView4 Control", "CogView4ControlPipeline", "cogview4 control", {**EMBEDDED, **CONTROL}, **COGVIEW_SHIFT)
relative("Sana", "SanaPipeline", "sana", SANA, shift=3.0)
relative("Sana PAG", "SanaPAGPipeline", "sana pag", SANA, shift=3.0)
relative("HiDream", "HiDreamImagePipeline", "hidream", HIDREAM, shift=3.0, **NEGATED)
relative("HunyuanImage", "HunyuanImagePipeline", "hunyuan image", HUNYUAN, shift=5.0)
relative("Kandinsky 5", "Kandinsky5T2IPipeline", "kandinsky5", KANDINSKY, shift=5.0, **UNSENT)
relative(
    "Kandinsky 5 img2img", "Kandinsky5I2IPipeline", "kandinsky5 pictured", {**KANDINSKY, "image": picture}, shift=5.0, **UNSENT
)
relative("Ovis-Image", "OvisImagePipeline", "ovis", {**EMBEDDED, "negative_prompt": None}, **DYNAMIC)
relative("Bria", "BriaPipeline", "bria", EMBEDDED, shift=3.0)
relative("PRX", "PRXPipeline", "prx", {**boolean(MASKED), "use_resolution_binning": False}, shift=3.0, **UNSENT)
relative("Krea 2", "Krea2Pipeline", "krea 2", KREA, **DYNAMIC)

# Videos

FRAMES = {"num_frames": 5}
WAN = {**EMBEDDED, **FRAMES}
relative("Wan", "WanPipeline", "wan", WAN, shift=5.0, **UNSENT)
relative("Wan 2.2, two experts", "WanPipeline", "wan, two experts", WAN, shift=5.0, **UNSENT)
relative(
    "Wan video to video",
    "WanVideoToVideoPipeline",
    "wan",
    {**EMBEDDED, "video": lambda: [picture()] * 5, "strength": 0.7},
    note="add_noise",
    shift=5.0,
)
relative("Wan image to video", "WanImageToVideoPipeline", "wan i2v", {**WAN, "image": picture}, shift=5.0, **UNSENT)
relative("Wan VACE", "WanVACEPipeline", "wan vace", WAN, shift=5.0, **UNSENT)


def ltx_video() -> dict[str, Any]:
    """Whole videos at once."""
    parts = made("ltx")
    parts["vae"].use_framewise_encoding = parts["vae"].use_framewise_decoding = False
    return parts


LTX = {**DYNAMIC, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "shift_terminal": 0.1}
LTX_CALL = {**MASKED, "num_frames": 9}
OWN_TIMES = {"note": "passes -v", "only_euler": "every token has a time of its own: per_token_timesteps"}
relative("LTX", "LTXPipeline", ltx_video, LTX_CALL, **LTX)
relative(
    "LTX image to video",
    "LTXImageToVideoPipeline",
    ltx_video,
    {**LTX_CALL, "image": picture},
    note="steps a slice of the latents",
    **LTX,
)
relative("LTX condition", "LTXConditionPipeline", ltx_video, LTX_CALL, **OWN_TIMES)
relative(
    "LTX condition, with an image",
    "LTXConditionPipeline",
    ltx_video,
    {**LTX_CALL, "image": picture, "strength": 0.9},
    **OWN_TIMES,
)
relative(  # video and sound, each with a copy of the scheduler
    "LTX 2",
    "LTX2Pipeline",
    "ltx 2",
    {
        **MASKED,
        **FRAMES,
        "frame_rate": 25.0,
        "output_type": "latent",
        **dict.fromkeys(("stg_scale", "audio_stg_scale"), 0.0),
        **dict.fromkeys(("modality_scale", "audio_modality_scale"), 1.0),
    },
    note="makes a data prediction of the velocity and divides by sigma again: no call may be at 0, see below",
    divides=True,
    **LTX,
)
relative("Sana Video", "SanaVideoPipeline", "sana video", {**SANA, "frames": 5}, shift=8.0)
relative("Sana image to video", "SanaImageToVideoPipeline", "sana video", {**SANA, "image": picture, "frames": 5}, shift=8.0)
relative(
    "HunyuanVideo",
    "HunyuanVideoPipeline",
    "hunyuan video",
    {"prompt_embeds": normal(1, 7, 16), "pooled_prompt_embeds": normal(1, 8), "prompt_attention_mask": ones(1, 7), **FRAMES},
    shift=7.0,
)
relative(
    "HunyuanVideo 1.5",
    "HunyuanVideo15Pipeline",
    "hunyuan video 1.5",
    {
        **texts(prompt_embeds=(1, 7, 16), prompt_embeds_mask=(1, 7), prompt_embeds_2=(1, 5, 8), prompt_embeds_mask_2=(1, 5)),
        **FRAMES,
    },
    shift=7.0,
)
relative(
    "Mochi",
    "MochiPipeline",
    "mochi",
    {**boolean(MASKED), "num_frames": 7},
    note="sigma rises from 0 to 1: invert_sigmas",
    invert_sigmas=True,
)
relative("Kandinsky 5 video", "Kandinsky5T2VPipeline", "kandinsky5 video", {**KANDINSKY, **FRAMES}, shift=10.0, **UNSENT)

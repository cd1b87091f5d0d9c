"""A real ComfyUI for the marked tests: the checkout that FLOWSAMPLERS_COMFYUI names, on the CPU, with tiny random models."""

import dataclasses
import datetime as dt
import importlib.machinery
import json
import os
import platform
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import torch

CHECKOUT = os.environ.get("FLOWSAMPLERS_COMFYUI", "")
LOOKED_FOR = ("torchvision", "torchaudio")
"""Packages that ComfyUI imports and that nothing here needs."""


class StandIn(types.ModuleType):
    """A module of which ComfyUI needs names at import time only."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class StandIns:
    """Finds a stand-in for every module of the packages that are not installed."""

    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in self.packages else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def start():
    """Import ComfyUI once."""
    import transformers  # noqa: F401  (it looks for the packages that get a stand-in)

    if CHECKOUT not in sys.path:
        sys.meta_path.append(StandIns([p for p in LOOKED_FOR if importlib.util.find_spec(p) is None]))
        sys.path.insert(0, CHECKOUT)
    before, sys.argv = sys.argv, ["comfyui", "--cpu", "--disable-xformers"]
    try:
        import comfy.options

        if hasattr(comfy.options, "enable_args_parsing"):
            comfy.options.enable_args_parsing()
        import comfy.sample
        import comfy.samplers
    finally:
        sys.argv = before
    return comfy


def version():
    """The version of the checkout."""
    return tomllib.loads((Path(CHECKOUT) / "pyproject.toml").read_text())["project"]["version"]


def commit():
    """The commit of the checkout; empty where it has no git."""
    found = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


FLUX = {
    "image_model": "flux", "in_channels": 16, "patch_size": 2, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 12,
    "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 10, 10],
    "theta": 10000, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = {
    "image_model": "flux2", "in_channels": 128, "patch_size": 1, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 12,
    "hidden_size": 48, "mlp_ratio": 3.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [6, 6, 6, 6],
    "theta": 2000, "qkv_bias": False, "guidance_embed": False, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
    "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3],
}  # fmt: skip
SD3 = {
    "in_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": 8, "num_patches": 64, "pos_embed_max_size": 8,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 12, "out_features": 64}},
}  # fmt: skip


def kinds():
    """The models that this ComfyUI has: FLUX.2 came after 0.3.64."""
    if not CHECKOUT:
        return ["flux"]
    text = (Path(CHECKOUT) / "comfy" / "supported_models.py").read_text()
    return ["flux", "sd3", *(["flux2"] if "class Flux2(" in text else [])]


def tiny(kind):
    """A model of ComfyUI with random weights, as MODEL, and its conditioning."""
    import comfy.model_patcher
    import comfy.supported_models as models

    torch.manual_seed(0)
    if kind == "sd3":
        config = models.SD3(dict(SD3))
    else:
        from comfy.ldm.flux.model import FluxParams  # newer ones have more fields

        given = FLUX if kind == "flux" else FLUX2
        known = {"image_model", *(f.name for f in dataclasses.fields(FluxParams))}
        config = (models.Flux if kind == "flux" else models.Flux2)({k: v for k, v in given.items() if k in known})
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    for tensor in (*model.parameters(), *model.diffusion_model.buffers()):  # some are made without values
        torch.nn.init.normal_(tensor, std=0.2)
    model.eval()
    cond = [[torch.randn(1, 5, 12), {"pooled_output": torch.randn(1, 8)}]]
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")), cond


class Draws:
    """One sequence of normal noise, whoever asks for it."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, like, *of):
        return torch.randn(like.shape, generator=self.generator)


def sampled(model, sampler, sigmas, latent=None, mask=None, seed=3, images=2):
    """What ComfyUI makes of a sampler; the sigmas are a copy, because some samplers write into them."""
    import comfy.sample

    patcher, cond = model
    channels = patcher.model.latent_format.latent_channels
    latent = torch.zeros(images, channels, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample_custom(
        patcher, noise, 1.0, sampler, sigmas.clone(), cond, cond, latent, noise_mask=mask, disable_pbar=True, seed=seed
    )


def sigmas_of(model, steps=6, denoise=1.0):
    """ComfyUI's own for this model."""
    import comfy.samplers

    total = int(steps / denoise)
    return comfy.samplers.calculate_sigmas(model[0].get_model_object("model_sampling"), "simple", total)[-(steps + 1) :]


def distance(x, y):
    """Of x from y, in units of y."""
    return float((x - y).norm() / y.norm())


def record(what, name, value):
    """Write a figure of this run into the file that FLOWSAMPLERS_COMFYUI_RECORD names, if it does."""
    file = os.environ.get("FLOWSAMPLERS_COMFYUI_RECORD")
    if not file:
        return
    data = json.loads(Path(file).read_text()) if Path(file).exists() else {}
    run = data.setdefault(version(), {})
    run |= {
        "commit": commit() or run.get("commit", ""),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    run.setdefault(what, {})[name] = value
    Path(file).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")

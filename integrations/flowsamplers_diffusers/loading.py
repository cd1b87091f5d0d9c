"""Load Klein pipelines by name: a bundled model, a folder, or a hub id."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from diffusers.utils import deprecation_utils

from flowsamplers._accepted import unknown
from flowsamplers._devices import usable_device

Offload = Literal["model", "sequential"]
_DTYPE = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"  # renamed in diffusers 0.42
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
BUNDLED = ("klein-digits", "klein-digits-distilled", "klein-emoji", "klein-emoji-distilled")
"""The models in this package."""


def load_klein(
    name_or_path: str | Path = "klein-digits",
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    offload: Offload | None = None,
    **kwargs: Any,
) -> Flux2KleinPipeline:
    """Load a FLUX.2 Klein pipeline.

    Args:
        name_or_path: a bundled model, a folder with a ``model_index.json``, or a hub id such as
            ``"black-forest-labs/FLUX.2-klein-base-4B"``. Bundled are ``"klein-digits"`` (16x16 pixels, 2.4 MB), ``"klein-emoji"``
            (64x64 pixels in color, 8.0 MB), and their distilled versions of the same sizes, ``"klein-digits-distilled"`` and
            ``"klein-emoji-distilled"``.
        dtype: dtype of the weights, a torch dtype or its name; by default float32 for the bundled models and bfloat16 for others.
        device: device of the weights; by default CUDA if available, else the CPU.
        offload: keep the weights on the CPU and move them to the device when needed, ``"model"`` by model or ``"sequential"``
            by layer.
        **kwargs: options of ``from_pretrained``, such as ``revision``. Weights are read only from safetensors files;
            ``use_safetensors=False`` also reads pickled ``.bin`` files.

    Returns:
        The stock diffusers pipeline.

    Raises:
        FileNotFoundError: the folder does not exist or holds no pipeline.
        ValueError: the name is no bundled model, folder or hub id. The dtype or offload is unknown. This machine has no such
            device. Sequential offloading goes to a CPU. Files are damaged.

    Examples:
        >>> pipe = load_klein("klein-digits")
        >>> pipe(prompt="a handwritten 3", num_inference_steps=2, max_sequence_length=32).images[0].size
        (16, 16)
        >>> pipe = load_klein("klein-emoji-distilled")
        >>> pipe(prompt="red heart", num_inference_steps=4, max_sequence_length=16).images[0].size
        (64, 64)
    """
    if offload not in (None, "model", "sequential"):
        raise unknown("offload", offload, ["model", "sequential"])
    device = usable_device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    source, bundled = _resolve(str(name_or_path))
    if not isinstance(dtype, torch.dtype | None):
        if str(dtype) not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        dtype = DTYPES[str(dtype)]
    dtype = dtype or (torch.float32 if bundled else torch.bfloat16)
    if offload == "sequential" and device.type == "cpu":
        raise ValueError(f"offload='sequential': device={str(device)!r} is where the weights are kept; it needs an accelerator")
    kwargs = {"use_safetensors": True, **kwargs}  # a pickle is read only when the caller asks for it
    with _opened(name_or_path, shows_progress=not Path(source).is_dir()):
        pipe: Any = Flux2KleinPipeline.from_pretrained(source, **{_DTYPE: dtype}, local_files_only=bundled, **kwargs)
    if bundled:
        pipe.set_progress_bar_config(disable=True)
        pipe.default_sample_size = pipe.vae.config.sample_size // pipe.vae_scale_factor
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


@contextmanager
def _opened(name: str | Path, *, shows_progress: bool) -> Generator[None]:
    """Make one kind of error of damaged files, on which diffusers and transformers fail each in its own way."""
    loggers = [m for m in (diffusers.utils.logging, transformers.utils.logging) if m.is_progress_bar_enabled()]
    for m in loggers:
        if not shows_progress:
            m.disable_progress_bar()
    try:
        yield
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):  # their messages say what is missing
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model {str(name)!r} cannot be loaded: {type(error).__name__}: {reason[:500]}") from error
    finally:
        for m in loggers:
            m.enable_progress_bar()


def _resolve(name: str) -> tuple[str, bool]:
    """Where a model is, and whether it is bundled; nothing is asked of the network for what looks like a path."""
    if name in BUNDLED:
        return str(files("flowsamplers_diffusers").joinpath(name.replace("-", "_"))), True
    accepted = [*BUNDLED, "a folder with a model_index.json", "a hub id owner/name"]
    if not name:
        raise unknown("model", name, accepted)
    path = Path(name).expanduser()
    if path.is_dir():
        index = path / "model_index.json"
        if not index.is_file():
            raise FileNotFoundError(f"model {name!r}: the folder has no model_index.json, so it holds no diffusers pipeline")
        try:
            found = str(json.loads(index.read_text())["_class_name"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"model {name!r}: its model_index.json does not say which pipeline it is") from None
        if "Klein" not in found:
            raise ValueError(f"model {name!r} is a {found}; a Flux2KleinPipeline is needed")
        return str(path), False
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/")):
        return name, False
    if "/" in name or name.startswith((".", "~")):
        raise FileNotFoundError(f"model {name!r}: no such folder")
    raise unknown("model", name, accepted)

"""FLUX.2 [klein] as a velocity field: load a pipeline, then integrate it with anything."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from diffusers.utils import deprecation_utils
from torch import Tensor

from flowsamplers._errors import unknown
from flowsamplers.noise import Seeds, row_seeds
from flowsamplers_diffusers.time_conditioning import full_precision_time

logger = logging.getLogger(__name__)

Offload = Literal["model", "sequential"]
_DTYPE = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"  # renamed in diffusers 0.42
BUNDLED = {"klein-digits": "klein_digits"}
"""Models that ship with this package, by name."""


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
        name_or_path: ``"klein-digits"`` (bundled, 2.4 MB), a folder with a ``model_index.json``, or a hub id such as
            ``"black-forest-labs/FLUX.2-klein-base-4B"``.
        dtype: of the weights, a torch dtype or its name; by default float32 for the bundled model and bfloat16 for others.
        device: by default CUDA where there is one, else the CPU.
        offload: keep the weights on the CPU and move them to the device when needed, ``"model"`` by model or ``"sequential"``
            by layer.
        **kwargs: given to ``from_pretrained``, such as ``revision``.

    Returns:
        The stock diffusers pipeline.

    Raises:
        FileNotFoundError: a folder that is not there or holds no pipeline.
        ValueError: a name that is neither bundled, nor a folder, nor a hub id; an unknown dtype or offload.

    Examples:
        >>> pipe = load_klein("klein-digits")
        >>> pipe(prompt="a handwritten 3", num_inference_steps=2, max_sequence_length=32).images[0].size
        (16, 16)
    """
    if offload not in (None, "model", "sequential"):
        raise unknown("offload", offload, ["model", "sequential"])
    source, bundled = _resolve(str(name_or_path))
    dtype = _dtype(dtype) or (torch.float32 if bundled else torch.bfloat16)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _quiet() if bundled else nullcontext():
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


class KleinFlow:
    r"""The velocity field of a Klein pipeline for one prompt, size and guidance.

    It calls the pipeline's own parts the way the pipeline does, so that Euler's method over this field gives the pipeline's own
    latents bit for bit (in float32; in bfloat16 with stock's rounding of the state).

    Args:
        pipe: a ``Flux2KleinPipeline``, distilled or base.
        prompt: what to draw.
        height: in pixels, a multiple of 16 for the real models; by default the autoencoder's sample size.
        width: likewise.
        guidance_scale: classifier-free guidance; above 1 each evaluation takes two forward passes. By default 4 for a base model
            and 1 for a distilled one, which ignores it.
        max_sequence_length: tokens of a prompt, padding included; by default the tokenizer's, at most 512.
        text_encoder_out_layers: which hidden states of the text encoder are read.
        full_time: time conditioning in full precision, see `full_precision_time`.
        batched_guidance: both passes of the guidance in one batch of twice the size.
        name: how studies call the model.

    Raises:
        ValueError: a size that does not fit the model, or a negative guidance.

    Examples:
        >>> import flowsamplers as fs
        >>> flow = KleinFlow.load("klein-digits", prompt="a handwritten 3")
        >>> x0 = fs.sample(flow.velocity, flow.noise([0]), fs.schedules.flux2(4, tokens=flow.tokens), "fireflow")
        >>> flow.decode(x0)[0].size, flow.forward_passes
        ((16, 16), 10)
    """

    def __init__(
        self,
        pipe: Flux2KleinPipeline,
        prompt: str = "",
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        max_sequence_length: int | None = None,
        text_encoder_out_layers: tuple[int, ...] = (9, 18, 27),
        full_time: bool = False,
        batched_guidance: bool = False,
        name: str | None = None,
    ) -> None:
        self.pipe: Any = pipe
        self.prompt = prompt
        multiple = self.pipe.vae_scale_factor * 2
        self.height, self.width = (side or self.pipe.vae.config.sample_size for side in (height, width))
        for argument, side in (("height", self.height), ("width", self.width)):
            if side < multiple or side % multiple:
                raise ValueError(f"{argument}={side}: this model draws sizes that are multiples of {multiple}")
        self.is_distilled = bool(self.pipe.config.is_distilled)
        self.guidance_scale = self._guidance(guidance_scale)
        self.max_sequence_length = max_sequence_length or min(512, self.pipe.tokenizer.model_max_length)
        self.text_encoder_out_layers = text_encoder_out_layers
        self.full_time = full_time
        self.batched_guidance = batched_guidance
        self.name = name or str(self.pipe.config.get("_name_or_path") or type(pipe).__name__)
        self.forward_passes = 0
        self._embeddings: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def load(cls, name: str = "klein-digits", **options: Any) -> KleinFlow:
        """`load_klein` and this class in one call; what opens ``--model NAME`` on the command line.

        Args:
            name: see `load_klein`.
            **options: of both.
        """
        given = {k: v for k, v in options.items() if v is not None}
        loading = {k: given.pop(k) for k in ("dtype", "device", "offload", "revision") if k in given}
        return cls(load_klein(name, **loading), name=name, **given)

    def _guidance(self, scale: float | None) -> float:
        if scale is None:
            return 1.0 if self.is_distilled else 4.0
        if scale < 0:
            raise ValueError(f"guidance_scale={scale}: must not be negative; 1 is no guidance")
        if scale > 1 and self.is_distilled:
            logger.warning("guidance_scale=%s is ignored: the model is distilled", scale)
            return 1.0
        return scale

    # What it is

    @property
    def tokens(self) -> int:
        """Latent tokens of an image."""
        multiple = self.pipe.vae_scale_factor * 2
        return (self.height // multiple) * (self.width // multiple)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one row of latents: (tokens, channels)."""
        return self.tokens, self.pipe.transformer.config.in_channels

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return self.pipe.transformer.dtype

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.pipe._execution_device

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on."""
        return self.guidance_scale > 1

    @property
    def passes_per_evaluation(self) -> int:
        """Forward passes of the network that one evaluation of one row takes."""
        return 2 if self.guided else 1

    def describe(self) -> dict[str, Any]:
        """What a study writes down of its model."""
        return {
            "model": self.name,
            "is_distilled": self.is_distilled,
            "height": self.height,
            "width": self.width,
            "tokens": self.tokens,
            "guidance_scale": self.guidance_scale,
            "max_sequence_length": self.max_sequence_length,
            "full_time": self.full_time,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def parts(self) -> list[tuple[str, str, int]]:
        """The parts of the pipeline: (name, class, number of parameters)."""
        modules = self.pipe.components.items()
        return [(k, type(m).__name__, sum(p.numel() for p in getattr(m, "parameters", list)())) for k, m in modules]

    # What it does

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[str | None] | None = None) -> Tensor:
        """The velocity of the network.

        Args:
            x: packed latents, ``(rows, tokens, channels)``; the network is given a cast to its own dtype.
            sigma: ``(rows,)``.
            condition: the prompt of each row; None for the flow's own.

        Returns:
            ``(rows, tokens, channels)`` in the network's dtype.

        Raises:
            ValueError: latents of another shape, or not one prompt a row.
        """
        rows = x.shape[0]
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x of shape {tuple(x.shape)}: this flow has rows of shape {self.shape}")
        prompts = [self.prompt if c is None else c for c in condition or [None] * rows]
        if len(prompts) != rows:
            raise ValueError(f"condition: {len(prompts)} prompts for {rows} rows; give one for each")
        # The pipeline's own order of roundings: time in float32, to the latents' dtype, then / 1000.
        time = sigma.to(torch.float32) * 1000
        time = sigma.to(torch.float32) if self.full_time else time.to(self.dtype) / 1000
        latents = x.to(self.dtype)
        if not self.guided:
            return self._forward(latents, time, prompts, "cond")
        if self.batched_guidance:
            both = self._forward(latents.repeat(2, 1, 1), time.repeat(2), [*prompts, *[""] * rows], "cond")
            conditional, unconditional = both.chunk(2)
        else:
            conditional = self._forward(latents, time, prompts, "cond")
            unconditional = self._forward(latents, time, [""] * rows, "uncond")
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _forward(self, latents: Tensor, time: Tensor, prompts: Sequence[str], cache: str) -> Tensor:
        self.forward_passes += len(prompts)
        embeddings = [self._encoded(p) for p in prompts]
        transformer = self.pipe.transformer
        with transformer.cache_context(cache), full_precision_time(transformer) if self.full_time else nullcontext():
            return transformer(
                hidden_states=latents,
                timestep=time,
                guidance=None,
                encoder_hidden_states=torch.cat([e for e, _ in embeddings]),
                txt_ids=torch.cat([ids for _, ids in embeddings]),
                img_ids=self._image_ids().expand(len(prompts), -1, -1),
                return_dict=False,
            )[0]

    def _encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        if prompt not in self._embeddings:
            self._embeddings[prompt] = self.pipe.encode_prompt(
                [prompt],
                device=self.device,
                max_sequence_length=self.max_sequence_length,
                text_encoder_out_layers=self.text_encoder_out_layers,
            )
        return self._embeddings[prompt]

    def _image_ids(self, rows: int = 1) -> Tensor:
        multiple = self.pipe.vae_scale_factor * 2
        grid = torch.empty(rows, 1, self.height // multiple, self.width // multiple, device="meta")
        return self.pipe._prepare_latent_ids(grid).to(self.device)

    def noise(self, seeds: Seeds, rows: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Starts of runs: row i is what the stock pipeline draws with ``torch.Generator("cpu").manual_seed(seeds[i])``.

        Args:
            seeds: a list with one seed for each row, or one int for ``rows`` rows.
            rows: how many, if ``seeds`` is an int; 1 by default.
            dtype: in which the noise is drawn; by default the network's, as the pipeline does. The draws of different dtypes
                differ.

        Returns:
            Packed latents, ``(rows, tokens, channels)``.
        """
        count = len(seeds) if isinstance(seeds, Sequence) else (rows or 1)
        generators = [torch.Generator("cpu").manual_seed(s) for s in row_seeds(seeds, count)]
        channels = self.pipe.transformer.config.in_channels // 4
        latents, _ = self.pipe.prepare_latents(
            count, channels, self.height, self.width, dtype or self.dtype, self.device, generators
        )
        return latents

    @torch.no_grad()
    def decode(self, x0: Tensor, output_type: str = "pil") -> Any:
        """Images of latents, as the pipeline makes them.

        Args:
            x0: packed latents, ``(rows, tokens, channels)``.
            output_type: ``"pil"``, ``"pt"`` for a tensor ``(rows, 3, height, width)`` in [0, 1], or ``"np"``.
        """
        pipe, multiple = self.pipe, self.pipe.vae_scale_factor * 2
        size = self.height // multiple, self.width // multiple
        latents = pipe._unpack_latents_with_ids(x0.to(self.device, self.dtype), self._image_ids(len(x0)), *size)
        mean, var = (s.view(1, -1, 1, 1).to(latents.device) for s in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var))
        std = torch.sqrt(var + pipe.vae.config.batch_norm_eps).to(latents.dtype)
        latents = pipe._unpatchify_latents(latents * std + mean.to(latents.dtype))
        images = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
        return pipe.image_processor.postprocess(images.detach(), output_type=output_type)


@contextmanager
def _quiet() -> Generator[None]:
    """No progress bars for a load that takes a tenth of a second."""
    loggers = [m for m in (diffusers.utils.logging, transformers.utils.logging) if m.is_progress_bar_enabled()]
    for m in loggers:
        m.disable_progress_bar()
    try:
        yield
    finally:
        for m in loggers:
            m.enable_progress_bar()


def _resolve(name: str) -> tuple[str, bool]:
    """Where a model is, and whether it is bundled; nothing is asked of the network for what looks like a path."""
    if name in BUNDLED:
        return str(files("flowsamplers_diffusers").joinpath(BUNDLED[name])), True
    path = Path(name).expanduser()
    if path.is_dir():
        index = path / "model_index.json"
        if not index.is_file():
            raise FileNotFoundError(f"model {name!r}: the folder has no model_index.json, so it holds no diffusers pipeline")
        found = json.loads(index.read_text()).get("_class_name", "")
        if "Klein" not in found:
            raise ValueError(f"model {name!r} is a {found}; a Flux2KleinPipeline is needed")
        return str(path), False
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/")):
        return name, False
    if "/" in name or name.startswith((".", "~")):
        raise FileNotFoundError(f"model {name!r}: no such folder")
    raise unknown("model", name, [*BUNDLED, "a folder with a model_index.json", "a hub id owner/name"])


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if dtype not in names:
        raise unknown("dtype", dtype, names)
    return names[dtype]

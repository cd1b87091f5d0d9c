"""FLUX.2 [klein] as a velocity field, for any sampler or study."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from torch import Tensor

from flowsamplers.noise import Seeds, row_seeds
from flowsamplers_diffusers.loading import load_klein
from flowsamplers_diffusers.time_conditioning import full_precision_time

logger = logging.getLogger(__name__)

GUIDANCE = {"klein-emoji": 2.5}
"""Default guidance scale of a bundled model, if it is not the pipelines' 4."""


class KleinFlow:
    r"""The velocity field of a Klein pipeline for one prompt, size and guidance.

    It calls the pipeline's parts in the same way as the pipeline. So Euler's method on this velocity field gives the pipeline's
    latents bit for bit (in float32; in bfloat16 with stock's rounding of the state).

    Args:
        pipe: a ``Flux2KleinPipeline``, distilled or base.
        prompt: the prompt.
        height: height in pixels, a multiple of 16 for the real models; by default the autoencoder's sample size.
        width: width in pixels, like ``height``.
        guidance_scale: classifier-free guidance; above 1 each evaluation takes two forward passes. By default 4 for a base model
            and 1 for a distilled one, which ignores it.
        max_sequence_length: tokens of a prompt, padding included; by default the tokenizer's, at most 512.
        text_encoder_out_layers: indices of the text encoder's hidden states to use.
        full_time: use time conditioning in full precision, see `full_precision_time`.
        batched_guidance: compute both passes of the guidance in one batch of twice the size; results are equal up to rounding.
        guidance_interval: apply guidance only if sigma is in this closed interval, such as ``(0.2, 0.8)``. Outside, an evaluation
            takes one forward pass with the prompt. By default guidance is applied at all sigmas, as in the pipeline. With an
            interval, evaluations wait for the device.
        name: the model's name in studies.

    Examples:
        >>> import flowsamplers as fs
        >>> flow = KleinFlow.load("klein-digits", prompt="a handwritten 3")
        >>> x0 = fs.sample(flow.velocity, flow.noise([0]), fs.schedules.flux2(4, tokens=flow.tokens), "fireflow")
        >>> flow.decode(x0)[0].size, flow.forward_passes
        ((16, 16), 10)

    Reference:
        https://arxiv.org/abs/2404.07724 for the interval.
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
        guidance_interval: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.pipe: Any = pipe
        self.prompt = prompt
        multiple = self.pipe.vae_scale_factor * 2
        self.height, self.width = (self.pipe.vae.config.sample_size if side is None else side for side in (height, width))
        for argument, side in (("height", self.height), ("width", self.width)):
            if side < multiple or side % multiple:
                raise ValueError(f"{argument}={side}: this model draws sizes that are multiples of {multiple}")
        self.is_distilled = bool(self.pipe.config.is_distilled)
        self.guidance_scale = self._guidance(guidance_scale)
        self.max_sequence_length = max_sequence_length or min(512, self.pipe.tokenizer.model_max_length)
        self.text_encoder_out_layers = text_encoder_out_layers
        self.full_time = full_time
        self.batched_guidance = batched_guidance
        interval = None if guidance_interval is None else tuple(float(s) for s in guidance_interval)
        if interval is not None and (len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1):
            raise ValueError(f"guidance_interval={guidance_interval}: give two sigmas in [0, 1], the lower one first")
        self.guidance_interval: tuple[float, float] | None = interval
        self.name = name or str(self.pipe.config.get("_name_or_path") or type(pipe).__name__)
        self.forward_passes = 0
        self._embeddings: dict[str, tuple[Tensor, Tensor]] = {}
        self._ids: dict[tuple[torch.device, int, int], Tensor] = {}

    @classmethod
    def load(cls, name: str = "klein-digits", **options: Any) -> KleinFlow:
        """Load a Klein model by name, as ``--model NAME`` on the command line does: `load_klein` and this class in one call.

        Args:
            name: see `load_klein`.
            **options: options of `load_klein` and of this class; ``guidance_scale`` is 2.5 by default for ``"klein-emoji"``.
        """
        given = {k: v for k, v in options.items() if v is not None}
        if name in GUIDANCE:
            given.setdefault("guidance_scale", GUIDANCE[name])
        loading = {k: given.pop(k) for k in ("dtype", "device", "offload", "revision") if k in given}
        return cls(load_klein(name, **loading), name=name, **given)

    def _guidance(self, scale: float | None) -> float:
        if scale is None:
            return 1.0 if self.is_distilled else 4.0
        if not 0 <= scale < math.inf:
            raise ValueError(f"guidance_scale={scale}: must be finite and not negative; 1 is no guidance")
        if scale > 1 and self.is_distilled:
            logger.warning("guidance_scale=%s is ignored: the model is distilled", scale)
            return 1.0
        return scale

    # What it is

    @property
    def _places(self) -> tuple[int, int]:
        """Rows and columns of the latent tokens of an image."""
        multiple = self.pipe.vae_scale_factor * 2
        return self.height // multiple, self.width // multiple

    @property
    def tokens(self) -> int:
        """Number of latent tokens of an image."""
        return math.prod(self._places)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one row of latents, (tokens, channels)."""
        return self.tokens, self.pipe.transformer.config.in_channels

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network."""
        return self.pipe.transformer.dtype

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.pipe._execution_device

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is used."""
        return self.guidance_scale > 1

    @property
    def passes_per_evaluation(self) -> int:
        """Largest number of forward passes in one evaluation of one row."""
        return 2 if self.guided else 1

    def passes(self, sigma: float) -> int:
        """Return the number of forward passes in one evaluation of one row at this sigma.

        Examples:
            >>> flow = KleinFlow.load("klein-digits", guidance_interval=(0.2, 0.8))
            >>> flow.passes(1.0), flow.passes(0.5)
            (1, 2)
        """
        return 2 if self.guided and bool(self._inside(torch.tensor(sigma))) else 1

    def _inside(self, sigma: Tensor) -> Tensor:
        """Where guidance is applied; in float32, in which the network gets sigma, so that counting and running agree."""
        low, high = self.guidance_interval or (-math.inf, math.inf)
        sigma = sigma.to(torch.float32)
        return (sigma >= low) & (sigma <= high)

    def describe(self) -> dict[str, Any]:
        """Describe the model for a study."""
        return {
            "model": self.name,
            "is_distilled": self.is_distilled,
            "height": self.height,
            "width": self.width,
            "tokens": self.tokens,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": self.guidance_interval and list(self.guidance_interval),
            "max_sequence_length": self.max_sequence_length,
            "full_time": self.full_time,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def parts(self) -> list[tuple[str, str, int]]:
        """List the parts of the pipeline: (name, class, number of parameters)."""
        modules = self.pipe.components.items()
        return [(k, type(m).__name__, sum(p.numel() for p in getattr(m, "parameters", list)())) for k, m in modules]

    # What it does

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: Tensor | float, condition: Sequence[str | None] | None = None) -> Tensor:
        """Compute the velocity with the network.

        Args:
            x: packed latents, ``(rows, tokens, channels)``; they are cast to the network's dtype.
            sigma: noise levels ``(rows,)``, or one for all rows.
            condition: the prompt of each row; None for the flow's own prompt.

        Returns:
            The velocity, ``(rows, tokens, channels)``, in the network's dtype.

        Raises:
            ValueError: latents have another shape, or there is not one sigma or prompt for each row.
        """
        rows = x.shape[0]
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x of shape {tuple(x.shape)}: this flow has rows of shape {self.shape}")
        prompts = [self.prompt if c is None else c for c in condition or [None] * rows]
        if len(prompts) != rows:
            raise ValueError(f"condition: {len(prompts)} prompts for {rows} rows; give one for each")
        sigma = torch.as_tensor(sigma)
        if sigma.shape not in ((), (1,), (rows,)):
            raise ValueError(f"sigma of shape {tuple(sigma.shape)}: give one number, or one for each of {rows} rows")
        sigma = sigma.to(x.device).expand(rows)
        # The pipeline's own order of roundings: time in float32, to the latents' dtype, then / 1000.
        time = sigma.to(torch.float32) * 1000
        time = sigma.to(torch.float32) if self.full_time else time.to(self.dtype) / 1000
        latents = x.to(self.dtype)
        if not self.guided:
            return self._forward(latents, time, prompts, "cond")
        # Only an interval waits for the device.
        guided = slice(None) if self.guidance_interval is None else self._inside(sigma).nonzero()[:, 0]
        x, t = latents[guided], time[guided]
        nothing = [""] * len(x)
        if self.batched_guidance and nothing:
            both = self._forward(torch.cat([latents, x]), torch.cat([time, t]), [*prompts, *nothing], "cond")
            conditional, unconditional = both.split([rows, len(x)])
        else:
            conditional = self._forward(latents, time, prompts, "cond")
            if not nothing:
                return conditional
            unconditional = self._forward(x, t, nothing, "uncond")
        v = conditional.clone()
        v[guided] = unconditional + self.guidance_scale * (conditional[guided] - unconditional)
        return v

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
                img_ids=self._image_ids(latents.device).expand(len(prompts), -1, -1),
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

    def _image_ids(self, device: torch.device) -> Tensor:
        """The places of the tokens of an image; kept, because each copy to a device waits for it."""
        key = device, *self._places
        if key not in self._ids:
            grid = torch.empty(1, 1, *self._places, device="meta")
            self._ids[key] = self.pipe._prepare_latent_ids(grid).to(device)
        return self._ids[key]

    def noise(self, seeds: Seeds, rows: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Draw starts of runs: row i is the pipeline's noise for ``torch.Generator("cpu").manual_seed(seeds[i])``.

        Args:
            seeds: a list with one seed for each row, or one int for ``rows`` rows.
            rows: number of rows if ``seeds`` is an int; 1 by default.
            dtype: dtype in which the noise is drawn; by default the network's, as in the pipeline. Draws in different dtypes
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
        """Decode latents to images, as the pipeline does.

        Args:
            x0: packed latents, ``(rows, tokens, channels)``.
            output_type: ``"pil"``, ``"pt"`` for a tensor ``(rows, 3, height, width)`` in [0, 1], or ``"np"``.
        """
        pipe = self.pipe
        latents = x0.to(self.device, self.dtype).mT.unflatten(
            2, self._places
        )  # the pipeline's own helper has changed its signature
        mean, var = (s.view(1, -1, 1, 1).to(latents.device) for s in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var))
        std = torch.sqrt(var + pipe.vae.config.batch_norm_eps).to(latents.dtype)
        latents = pipe._unpatchify_latents(latents * std + mean.to(latents.dtype))
        images = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
        return pipe.image_processor.postprocess(images.detach(), output_type=output_type)

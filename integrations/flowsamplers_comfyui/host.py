r"""A sampler function for ComfyUI that runs the samplers of this library.

ComfyUI calls ``f(model, x, sigmas, extra_args, callback, disable, **options)``. Its ``model(x, sigma)`` returns the denoised image
$x - \sigma v$. This file converts the model to a velocity, the sigmas to a `SigmaGrid` and the seed to noise, and calls
`flowsamplers.sample`. It does not import ComfyUI, and it contains no sampler.
"""

from __future__ import annotations

import hashlib
import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm.auto import tqdm

import flowsamplers as fs
from flowsamplers.noise import Interval, fold
from flowsamplers.sampler import SamplerLike

Model: TypeAlias = Callable[..., Tensor]
"""``model(x, sigma, **extra_args)`` of ComfyUI: the denoised latents."""
Callback: TypeAlias = Callable[[dict[str, Any]], None]

AUTO = "auto"
"""The last step is the sampler's own, unless that needs the velocity at sigma 0."""
OWN = "own"
"""The last step is the sampler's own; a run that needs the velocity at sigma 0 raises an error."""
ENDS = ("euler", "midpoint", "ralston3", "carpenter_kennedy4")
"""Last steps that never call the model at sigma 0, of orders 1 to 4, the cheapest first."""

log = logging.getLogger("flowsamplers.comfyui")


def flow_sampler(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,  # noqa: FBT001  (ComfyUI's signature)
    *,
    sampler: SamplerLike = "euler",
    last: str = AUTO,
    noise_seed: int | None = None,
) -> Tensor:
    """Run one of this library's samplers as a sampler function of ComfyUI.

    Args:
        model: ComfyUI's wrapped model; masks, guidance and patches act inside it.
        x: the start, ``(images, ...)`` of any number of dimensions.
        sigmas: the schedule with its end, one-dimensional; fewer than two sigmas leave ``x`` as it is.
        extra_args: given to every model call; its ``"seed"`` is the seed of a stochastic sampler.
        callback: called with ``x``, ``i``, ``sigma``, ``sigma_hat`` and ``denoised`` after every model call; ``i`` is the step.
        disable: whether to hide the progress bar on the console.
        sampler: a name, a configuration or a sampler.
        last: ``"auto"``, ``"own"`` or the name of the sampler for the last step, see `with_end`.
        noise_seed: seed of a stochastic sampler, in place of the one in ``extra_args``.

    Returns:
        The latents at the last sigma, like ``x``.

    Raises:
        ValueError: the model is no flow, or the sigmas are no schedule. The run needs the velocity at sigma 0. A stochastic
            sampler has no seed or rising sigmas.

    Examples:
        >>> def model(x, sigma):  # a flow whose only picture is 0
        ...     return torch.zeros_like(x)
        >>> flow_sampler(model, torch.ones(1, 2), torch.tensor([1.0, 0.5, 0.25]), sampler="heun", disable=True)
        tensor([[0.2500, 0.2500]])
    """
    if len(sigmas) < 2:
        return x
    check_flow(model)
    check_end(model, float(sigmas[-1]))
    grid, indices = grid_of(sigmas)
    extra_args = {} if extra_args is None else extra_args
    parts = with_end(sampler, grid, last)
    seed = extra_args.get("seed") if noise_seed is None else noise_seed
    noise = noise_of(parts[0][0], model, x, seed)
    with progress(parts, indices, callback, disable=disable) as on_call:
        velocity = Velocity(model, extra_args, on_call)
        for method, part in parts:
            x = fs.sample(velocity, x, part, method, seed=noise)
    return x


@dataclass(frozen=True)
class Velocity:
    r"""The velocity $(x - \mathrm{denoised}) / \sigma$ of ComfyUI's model.

    Attributes:
        model: ComfyUI's wrapped model.
        extra_args: given to every call.
        on_call: callback with x, sigma and denoised after every call.
    """

    model: Model
    extra_args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    on_call: Callable[[Tensor, Tensor, Tensor], None] | None = None

    def __call__(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the velocity at ``x``, ``(images, ...)``, and ``sigma``, ``(images,)``, which must be above 0."""
        denoised = self.model(x, sigma, **self.extra_args)
        if self.on_call is not None:
            self.on_call(x, sigma, denoised)
        return (x - denoised) / sigma.reshape(-1, *(1 for _ in x.shape[1:]))

    velocity = __call__
    """The same function under the name of `flowsamplers.Flow`."""


@dataclass(frozen=True)
class ImageNoise:
    """Noise that depends on the image and not on its position in the batch.

    Attributes:
        seeds: one for each image.
        scale: the standard deviation of the noise that the model was trained on.
    """

    seeds: tuple[int, ...]
    scale: float = 1.0

    def __call__(self, like: Tensor, step: int, draw: int, interval: Interval | None = None) -> Tensor:
        """See `flowsamplers.Noise`."""
        unit = fs.KeyedNoise(list(self.seeds))(like, step, draw, interval)
        return unit if self.scale == 1 else unit * self.scale


def noise_of(method: fs.Sampler, model: Any, x: Tensor, seed: int | None) -> ImageNoise | None:
    """Make the noise of a run; None for a sampler without noise, or without a seed."""
    if not method.stochastic or (seed is None and method.draws_noise):
        return None
    scale = getattr(model_sampling(model), "noise_scale", None) or 1.0
    return ImageNoise(seeds_of(model, x, int(seed or 0)), float(scale))


def seeds_of(model: Any, x: Tensor, seed: int) -> tuple[int, ...]:
    """Derive a seed for each image from the seed of the run and the image's starting noise.

    ComfyUI does not tell a sampler the batch index of an image. The starting noise of an image is the same in any batch, so it
    identifies the image. Without starting noise (node DisableNoise) the latents identify it. Equal images are numbered in their order.

    Args:
        model: ComfyUI's model; its attribute ``noise``, if present, is the starting noise.
        x: the latents at the start.
        seed: the seed of the run.

    Examples:
        >>> x = torch.tensor([[1.0], [2.0], [2.0]])
        >>> both = seeds_of(None, x, 7)
        >>> seeds_of(None, x[1:2], 7) == both[1:2], len(set(both))
        (True, 3)
    """
    noise = getattr(model, "noise", None)
    begun = noise if isinstance(noise, Tensor) and noise.shape == x.shape and bool(noise.any()) else x
    seen: Counter[int] = Counter()
    seeds: list[int] = []
    for row in begun.detach().to("cpu", torch.float32):
        name = int.from_bytes(hashlib.blake2b(row.contiguous().numpy().tobytes(), digest_size=7).digest(), "little")
        seeds.append(fold(seed, name, seen[name]))
        seen[name] += 1
    return tuple(seeds)


def check_flow(model: Any) -> None:
    """Check with its own methods that a model of ComfyUI is a rectified flow; a model without such methods is accepted.

    Raises:
        ValueError: the model is of another kind; the message names it.
    """
    sampling = model_sampling(model)
    half, one, three = torch.tensor(0.5), torch.ones(1, 1), 3 * torch.ones(1, 1)
    probes = {  # a method of the kind, what it is given, and what a rectified flow returns
        "calculate_input": ((half, three), 3.0),
        "calculate_denoised": ((half, one, three), 2.5),
        "noise_scaling": ((half, 0 * one, three), 1.5),
    }
    for method, (given, right) in probes.items():
        ask = getattr(sampling, method, None)
        if ask is not None and float(ask(*given)) != right:
            kinds = [c.__name__ for c in type(sampling).__mro__]
            kind = next((k for k in kinds if not k.startswith("ModelSampling")), kinds[0])
            raise ValueError(
                f"model of kind {kind}: this needs a rectified flow (kind CONST of ComfyUI), such as FLUX, SD3, Wan or Qwen-Image"
            )


def check_end(model: Any, end: float) -> None:
    """Check that ComfyUI can return a result at this end: it divides by 1 - sigma afterwards.

    Raises:
        ValueError: the model's ``inverse_noise_scaling`` gives an infinite number at this end.
    """
    inverse = getattr(model_sampling(model), "inverse_noise_scaling", None)
    if end >= 1 and inverse is not None and not bool(torch.isfinite(inverse(torch.tensor(end), torch.ones(1, 1))).all()):
        raise ValueError(
            f"sigmas end at {end}: ComfyUI divides the result by 1 - sigma, which is 0; end below 1, for example at 0.999, or leave out "
            "the last sigma"
        )


def model_sampling(model: Any) -> Any:
    """Find the object with a model's kind and shift below wrappers and guiders; None if there is none."""
    for _ in range(8):
        found = getattr(model, "model_sampling", None)
        if found is not None:
            return found
        model = getattr(model, "inner_model", None)
    return None


def grid_of(sigmas: Tensor) -> tuple[fs.SigmaGrid, tuple[int, ...]]:
    """Convert ComfyUI's sigmas to a schedule without repeated sigmas, with the original index of each step.

    Raises:
        ValueError: sigmas are outside [0, 1], or neither fall nor rise.

    Examples:
        >>> grid_of(torch.tensor([1.0, 0.5, 0.5, 0.0]))
        (SigmaGrid([1.0, 0.5, 0.0]), (0, 2))
    """
    nodes = [float(s) for s in sigmas.tolist()]
    kept = [i for i in range(len(nodes)) if i == 0 or nodes[i] != nodes[i - 1]]
    if len(kept) < 2:
        raise ValueError(f"sigmas={nodes}: all are the same, so there is nothing to do; give at least two different sigmas")
    grid = fs.SigmaGrid([nodes[i] for i in kept], rising=nodes[kept[1]] > nodes[0])
    return grid, tuple(i - 1 for i in kept[1:])


Part: TypeAlias = tuple[fs.Sampler, fs.SigmaGrid]
"""A sampler and its schedule. A run has one part, or two if the last step is separate."""


def with_end(sampler: SamplerLike, grid: fs.SigmaGrid, last: str = AUTO) -> list[Part]:
    """Give the sampler a last step that works in ComfyUI.

    ComfyUI's model returns its input at sigma 0, so the velocity there is 0/0. ``"auto"`` keeps the sampler's own last step if it does
    not call the model at sigma 0. Otherwise it takes the cheapest of `ENDS` that keeps the sampler's order. Many samplers end with an
    Euler step to sigma 0. On a schedule that ends above 0, such as the first part of a split one, they use their own method there. An
    adaptive sampler runs to the second-to-last sigma, and the midpoint rule takes the last step.

    Args:
        sampler: a name, a configuration or a sampler.
        grid: the schedule.
        last: ``"auto"``, ``"own"``, or the name of the sampler for the last step.

    Raises:
        ValueError: the run needs the velocity at sigma 0, or the sampler has no option for the last step.

    Examples:
        >>> with_end("heun", fs.SigmaGrid([1.0, 0.5, 0.0]))
        [(Heun(last='euler'), SigmaGrid([1.0, 0.5, 0.0]))]
        >>> with_end("heun", fs.SigmaGrid([1.0, 0.5, 0.1]))
        [(Heun(last='method'), SigmaGrid([1.0, 0.5, 0.1]))]
        >>> with_end("lms", fs.SigmaGrid([1.0, 0.5, 0.1]))[0][0].last
        'method'
    """
    method = fs.get_sampler(sampler)
    if method.adaptive:
        return _adaptive(method, grid, last)
    if last not in (AUTO, OWN):
        method = _ending(method, last)
    elif last == AUTO and grid.end > 0:
        method = _ending(method, "method") if _last_of(method) == "euler" else method
    elif last == AUTO and _last_of(method) and _asks_at_data(method, grid):
        ends = [end for end in (_ending(method, name) for name in ENDS) if not _asks_at_data(end, grid)]
        method = next((end for end in ends if end.order == method.order), [*ends, method][0])
    if _asks_at_data(method, grid):
        where = "begins" if grid.rising else "ends"
        raise ValueError(
            f"{type(method).__name__} asks for the velocity at sigma 0, where ComfyUI's model has none: set the last step to one of "
            f"{', '.join(ENDS)}, or take sigmas whose schedule {where} above 0"
        )
    return [(method, grid)]


def _adaptive(method: fs.Sampler, grid: fs.SigmaGrid, last: str) -> list[Part]:
    if min(grid.start, grid.end) > 0:
        return [(method, grid)]
    if last == OWN or grid.rising or grid.steps < 2:
        raise ValueError(
            f"{type(method).__name__} chooses its calls itself and may ask for the velocity at sigma 0, where ComfyUI's model has none: "
            "set the last step to auto, and give it falling sigmas of at least 2 steps"
        )
    high, low = grid.split(grid.steps - 1)
    return [(method, high), (fs.get_sampler("midpoint" if last == AUTO else last), low)]


def _ending(method: fs.Sampler, last: str) -> fs.Sampler:
    """The method with another last step; of a wrapper, the method that it wraps."""
    if "last" in method.options:
        return fs.get_sampler(method, last=last)
    if "base" in method.options:
        return fs.get_sampler(method, base=_ending(fs.get_sampler(method.options["base"]), last))
    raise ValueError(f"last step {last!r}: {type(method).__name__} has no such option; set it to auto")


def _last_of(method: fs.Sampler) -> str:
    """The option for the last step, of the method or of the one that it wraps; empty if there is none."""
    options = method.options
    return str(options["last"]) if "last" in options else _last_of(fs.get_sampler(options["base"])) if "base" in options else ""


def _asks_at_data(method: fs.Sampler, grid: fs.SigmaGrid) -> bool:
    return any(call.sigma <= 0 for call in fs.dry_run(method, grid))


def nfe(sampler: SamplerLike, grid: fs.SigmaGrid, last: str = AUTO) -> int:
    """Count the model calls of a run in ComfyUI.

    Raises:
        ValueError: the sampler is adaptive, or see `with_end`.
    """
    return sum(fs.nfe(method, part) for method, part in with_end(sampler, grid, last))


def largest_steps(sampler: SamplerLike, calls: int, grid_of: Callable[[int], fs.SigmaGrid], last: str = AUTO) -> int:
    """Find the largest number of steps that needs at most ``calls`` model calls; 0 if not even one step fits."""
    return next((steps for steps in range(calls, 0, -1) if nfe(sampler, grid_of(steps), last) <= calls), 0)


def description(sampler: SamplerLike, sigmas: Tensor, last: str = AUTO) -> str:
    """Describe a run in one line: its calls, and its last step if it was chosen here.

    Examples:
        >>> description("rk4", torch.tensor([1.0, 0.5, 0.0]))
        "rk4: 2 steps, 7 model calls; last step by ralston3, because ComfyUI's model has no velocity at sigma 0"
    """
    method, (grid, _) = fs.get_sampler(sampler), grid_of(sigmas)
    name = sampler if isinstance(sampler, str) else fs.to_config(method)["name"]
    parts = with_end(method, grid, last)
    known = sum(fs.nfe(m, g) for m, g in parts if not m.adaptive)
    count = f"model calls by tolerance, at least {known + 1}" if method.adaptive else f"{known} model calls"
    changed = parts[0][0] != method or len(parts) > 1
    end = fs.to_config(parts[-1][0])["name"] if len(parts) > 1 else _last_of(parts[0][0])
    why = f"; last step by {end}, because ComfyUI's model has no velocity at sigma 0" if changed and last == AUTO else ""
    return f"{name}: {grid.steps} steps, {count}{why}"


@contextmanager
def progress(
    parts: Sequence[Part], indices: Sequence[int], callback: Callback | None, *, disable: bool | None
) -> Generator[Callable[[Tensor, Tensor, Tensor], None]]:
    """Update a progress bar on the console and ComfyUI's callback after every model call."""
    (method, first), *_ = parts
    nodes = [s if first.rising else -s for _, grid in parts for s in grid.sigmas[:-1]]
    steps = [] if method.adaptive else [call.step for call in fs.dry_run(method, first)]
    upcoming = iter(steps)
    with tqdm(total=len(steps) or None, disable=disable) as bar:

        def on_call(x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
            bar.update()
            if callback is None:
                return
            step = next(upcoming, None)
            if step is None:  # the calls of an adaptive method are not known beforehand
                step = max(bisect_right(nodes, math.copysign(float(sigma[0]), nodes[-1])) - 1, 0)
            callback({"x": x, "i": indices[step], "sigma": sigma[0], "sigma_hat": sigma[0], "denoised": denoised})

        yield on_call

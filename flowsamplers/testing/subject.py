"""Describe a sampler of any origin for the laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from flowsamplers.engine import Velocity, nfe, sample
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import KeyedNoise, Seeds
from flowsamplers.registry import get_sampler
from flowsamplers.sampler import Sampler, SamplerLike, State, Step, StepGenerator, converted


class Runs(Protocol):
    """The function of a subject that runs it."""

    def __call__(
        self, velocity: Velocity, x1: Tensor, grid: SigmaGrid, *, seed: Seeds | None = None, grad: bool = False
    ) -> Tensor:
        """Return the state at the end of the grid."""
        ...


@dataclass(frozen=True)
class Subject:
    r"""A sampler of this or any other library, with its declared properties.

    Attributes:
        name: its name in messages.
        run: integrates ``velocity(x, sigma)`` from ``x1`` over a grid.
        order: order of the global error.
        stochastic: whether it draws noise.
        keeps_marginals: whether the distribution at each sigma tends to the flow's as the steps shrink.
        keeps_noise_level: whether a step from a noised data point ends at that point with noise of the new level.
        multistep: whether its first steps are of lower order.
        affine: whether an affine change of sigma changes nothing.
        data_form: whether it receives the data prediction $x - \sigma v$ and divides by sigma, which loses digits at small sigma.
        deterministic_twin: the same sampler without noise; itself for an ODE sampler, None if there is none.
        sampler: the flowsamplers sampler, for the laws of the generator protocol; None for samplers of other libraries.
        evaluations: declared number of model calls on a grid; None if it is not declared.
    """

    name: str
    run: Runs
    order: int = 1
    stochastic: bool = False
    keeps_marginals: bool = True
    keeps_noise_level: bool = True
    multistep: bool = False
    affine: bool = True
    data_form: bool = False
    deterministic_twin: Subject | None = None
    sampler: Sampler | None = None
    evaluations: Callable[[SigmaGrid], int] | None = None

    @property
    def without_noise(self) -> Subject | None:
        """The deterministic version of the subject, as a subject."""
        return self.deterministic_twin if self.stochastic else self


def subject_of(sampler: SamplerLike | Subject) -> Subject:
    """Make a subject from a sampler, given as an object, a name or a configuration.

    Raises:
        TypeError: it is a class or a function; the message says how to make a subject from it.
        ValueError: the name is unknown.

    Examples:
        >>> subject_of("heun").order
        2
    """
    if isinstance(sampler, Subject):
        return sampler
    if isinstance(sampler, type):
        raise TypeError(f"{sampler.__name__} is a class: give an object, {sampler.__name__}(...)")
    if callable(sampler):
        name = getattr(sampler, "__name__", "it")
        raise TypeError(
            f"{name} is a function: from_k_diffusion({name}, order=...) makes a subject of sample_x(model, x, sigmas)"
        )
    method = get_sampler(sampler)

    def run(velocity: Velocity, x1: Tensor, grid: SigmaGrid, *, seed: Seeds | None = None, grad: bool = False) -> Tensor:
        return sample(velocity, x1, grid, method, seed=seed, grad=grad)

    twin = None
    if method.stochastic and method.noise_option in method.options:
        twin = subject_of(_at_zero(method))
    claims = {k: v for k, v in asdict(method.claims).items() if k in Subject.__annotations__}
    return Subject(
        name=type(method).__name__,
        run=run,
        **claims,
        deterministic_twin=twin,
        sampler=method,
        evaluations=None if method.adaptive else lambda grid: nfe(method, grid),
    )


def _at_zero(method: Sampler) -> Sampler:
    """A stochastic sampler with its noise option at 0, as an ODE sampler: it may ask for noise, which must not matter."""
    kind: type[Sampler] = type(method)

    class AtZero(kind):
        stochastic = False

        def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
            return super().step(x, replace(at, source=KeyedNoise(0)), state)

    return converted(method, AtZero, **{method.noise_option: 0})


def from_k_diffusion(
    function: Callable[..., Tensor], *, order: int = 1, stochastic: bool = False, affine: bool = False, **options: Any
) -> Subject:
    r"""Make a subject from a function ``sample_x(model, x, sigmas, ...)`` of k-diffusion's form.

    The function's model returns the denoised $D = x - \sigma v$, and ``sigmas`` is a tensor that ends in 0.

    Args:
        function: the function, such as ``k_diffusion.sampling.sample_heun``.
        order: its declared order.
        stochastic: whether it draws noise; it must then take ``noise_sampler(sigma, sigma_next)``.
        affine: whether an affine change of sigma changes nothing.
        **options: given to the function.

    Examples:
        >>> def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        ...     for s, t in zip(sigmas, sigmas[1:]):
        ...         x = x + (t - s) * (x - model(x, s * x.new_ones([len(x)]))) / s
        ...     return x
        >>> from_k_diffusion(sample_euler).name
        'sample_euler'
    """

    def run(velocity: Velocity, x1: Tensor, grid: SigmaGrid, *, seed: Seeds | None = None, grad: bool = False) -> Tensor:
        carry = torch.promote_types(x1.dtype, torch.float32)

        def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            return x - sigma.reshape(-1, *[1] * (x.ndim - 1)) * velocity(x.to(x1.dtype, copy=True), sigma).to(x.dtype)

        sigmas = torch.tensor(grid.sigmas, dtype=carry, device=x1.device)
        given = dict(options)
        if stochastic:
            noise, asked = KeyedNoise(0 if seed is None else seed), iter(range(10**9))
            given["noise_sampler"] = lambda sigma, sigma_next: noise(x1, next(asked), 0)  # pyright: ignore[reportUnknownLambdaType]
        with torch.set_grad_enabled(grad):
            return function(model, x1.to(carry), sigmas, **given).to(x1.dtype)

    name = getattr(function, "__name__", "sample")
    return Subject(name=name, run=run, order=order, stochastic=stochastic, affine=affine, data_form=True)

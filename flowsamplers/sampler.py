"""The one idea: a sampler is written once, as a generator for one step.

``step`` yields `Evaluate` requests, is sent the velocities, and returns the new ``x`` and its state. It knows nothing
of who evaluates the model, when, or in which batch: that is a driver's business (`engine`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Clock, Noise


class Evaluate(NamedTuple):
    """A request: please give me the velocity here. Read-only for both sides."""

    x: Tensor
    sigma: float


State: TypeAlias = Any
"""What a sampler remembers between steps: tensors in tuples, never a live object."""

StepGenerator: TypeAlias = Generator[Evaluate, Tensor, tuple[Tensor, State]]
"""Yields requests, is sent velocities, returns ``(x, state)``."""


_R = TypeVar("_R", bound=tuple[Any, ...])
_T = TypeVar("_T")


class Running(Generic[_R, _T]):
    """A generator on its way: what it asks for, and at the end what it returned.

    Attributes:
        request: what it asks for; None when it has ended.
        result: what it returned, when it has ended.
    """

    request: _R | None
    result: _T

    def __init__(self, work: Generator[_R, Tensor, _T]) -> None:
        self._work = work
        self.tell(None)

    def tell(self, velocity: Tensor | None) -> None:
        """Send the velocity that was asked for, and go on to the next request or the end."""
        try:
            self.request = next(self._work) if velocity is None else self._work.send(velocity)
        except StopIteration as done:
            self.request, self.result = None, done.value


@dataclass(frozen=True)
class Step:
    """Where a step stands: all that a sampler may know.

    Attributes:
        s0: sigma at the start.
        s1: sigma at the end.
        index: which step of the run, from 0.
        count: how many steps the run has.
        grid: the whole schedule, for methods that look ahead.
    """

    s0: float
    s1: float
    index: int
    count: int
    grid: SigmaGrid
    source: Noise | None = dataclasses.field(default=None, repr=False)

    @property
    def h(self) -> float:
        """The signed step length ``s1 - s0``, negative on the way to data."""
        return self.s1 - self.s0

    @property
    def first(self) -> bool:
        """Whether this is the first step of the run."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether this is the last step of the run, wherever it ends."""
        return self.index == self.count - 1

    def noise(self, like: Tensor, draw: int = 0, *, clock: Clock | None = None) -> Tensor:
        r"""Unit normal noise with the shape, dtype and device of ``like``.

        Args:
            like: the state.
            draw: numbers the draws of this step; each is a noise of its own.
            clock: ``(T0, T1)``, the interval of a Brownian motion whose increment, divided by its size, this noise is: $T = e^{2G}$ for an
                exact step, see `flowsamplers.samplers.stochastic`. By default the motion runs in sigma, $T = 1 - \sigma$.

        Raises:
            ValueError: the run was started without a seed.
        """
        if self.source is None:
            raise ValueError("seed=None: this sampler draws noise; pass seed=<int>, a list with one int per row, or a Noise")
        noise = self.source(like, self.index, draw, (1 - self.s0, 1 - self.s1) if clock is None else clock)
        if not isinstance(noise, Tensor) or noise.shape != like.shape or noise.is_complex():
            what = f"{tuple(noise.shape)}, {noise.dtype}" if isinstance(noise, Tensor) else type(noise).__name__
            raise ValueError(f"seed: the Noise returned {what} for a state of shape {tuple(like.shape)}, {like.dtype}")
        return noise


def steps_of(grid: SigmaGrid, source: Noise | None = None) -> Iterator[Step]:
    """The steps of a grid in order."""
    for i in range(grid.steps):
        yield Step(grid.sigmas[i], grid.sigmas[i + 1], i, grid.steps, grid, source)


@dataclass(frozen=True)
class Claims:
    """What a sampler claims of itself, with the options that it has: the one place where anybody reads it.

    Attributes:
        order: see `Sampler`, as all others.
        order_to_data: the order of complete runs, from 1 to 0; never above ``order``.
        literature: the order that the literature claims; ``order`` where it claims no other.
        stochastic: see `Sampler`.
        adaptive: see `Sampler`.
        keeps_marginals: see `Sampler`.
        keeps_noise_level: see `Sampler`.
        weak_order: see `Sampler`.
        strong_order: see `Sampler`.
        multistep: see `Sampler`.
        affine: see `Sampler`.
        any_steps: see `Sampler`.
    """

    order: int
    order_to_data: int
    literature: int
    stochastic: bool
    adaptive: bool
    keeps_marginals: bool
    keeps_noise_level: bool
    weak_order: int
    strong_order: float
    multistep: bool
    affine: bool
    any_steps: bool

    @classmethod
    def of(cls, sampler: Sampler | type[Sampler]) -> Claims:
        """Of a sampler; of a class only where there is no object of it without an option."""
        stated = {f.name: getattr(sampler, f.name) for f in dataclasses.fields(cls)}
        predictions: int = getattr(sampler, "memory", sampler.literature)  # k of them give order k at most
        stated["order_to_data"] = min(sampler.order, sampler.order_to_data)
        stated["literature"] = max(sampler.order, min(sampler.literature, predictions))
        return cls(**stated)


class Sampler:
    r"""Base of all samplers: an immutable value that holds options only.

    Subclass it as a frozen dataclass, say what the method claims in the class attributes, and write `step`. Options that change a
    claim set it on the object in ``__post_init__``. Read `claims`.

    Attributes:
        order: the order of the global error $O(h^p)$ that the method has on a rectified flow, strictly inside (0, 1).
        order_to_data: the order on complete runs, from 1 to 0, where that is lower: many last steps are Euler's.
        literature: the order that the literature claims, if the method does not have it on a rectified flow.
        stochastic: whether it draws noise.
        noise_option: the option of a stochastic sampler that scales its noise: at 0 it is deterministic, and has the orders above.
        adaptive: whether its evaluations depend on the data; a host with fixed timesteps refuses such a sampler.
        keeps_marginals: whether the law of ``x`` at each sigma tends to the flow's as the steps shrink.
        keeps_noise_level: whether a data point under noise of level sigma is, after any step, the point under noise of the new level.
        weak_order: of a stochastic sampler: of means over its results, strictly inside (0, 1); 0 if they do not converge to the flow's.
        strong_order: of a stochastic sampler: of its path, to that of the equation driven by the same Brownian motion; 0 if there is
            none in the limit.
        multistep: whether it remembers earlier steps, so that its first steps are of lower order.
        affine: whether it knows sigma through step lengths alone, so that scaling sigma changes nothing.
        any_steps: whether its order holds when neighbouring steps have different lengths.
        look_ahead: how many intervals beyond its step it may ask in.
        look_back: how many before it.

    Examples:
        >>> @dataclass(frozen=True)
        ... class MyMidpoint(Sampler):
        ...     order = 2
        ...     def step(self, x, at, state):
        ...         k1 = yield Evaluate(x, at.s0)
        ...         k2 = yield Evaluate(x + at.h / 2 * k1, at.s0 + at.h / 2)
        ...         return x + at.h * k2, state
    """

    registered_as: ClassVar[str]
    """The registered name; set by `flowsamplers.register`."""
    order: ClassVar[int] = 1
    order_to_data: ClassVar[int] = 99
    literature: ClassVar[int] = 0
    stochastic: ClassVar[bool] = False
    noise_option: ClassVar[str] = "eta"
    adaptive: ClassVar[bool] = False
    keeps_marginals: ClassVar[bool] = True
    keeps_noise_level: ClassVar[bool] = True
    weak_order: ClassVar[int] = 1
    strong_order: ClassVar[float] = 1
    multistep: ClassVar[bool] = False
    affine: ClassVar[bool] = True
    any_steps: ClassVar[bool] = True
    look_ahead: ClassVar[int] = 0
    look_back: ClassVar[int] = 0

    def init(self, x: Tensor) -> State:
        """The state before the first step, for a run that starts at ``x``."""
        return None

    def resume(self, velocity: Tensor) -> State:
        """The state for a run that begins in the middle of a schedule, after an Euler move with ``velocity``.

        By default the method starts afresh.
        """
        return self.init(velocity)

    def moved(self, state: State, by: Tensor) -> State:
        """The state after a host has moved ``x`` by ``by``: what is remembered as a place in space moves along.

        By default nothing does: velocities and differences stay as they are.
        """
        return state

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """One step from ``at.s0`` to ``at.s1``.

        Args:
            x: latents, ``(rows, ...)``, in the carry dtype; never edit it, nor anything yielded or received.
            at: where the step stands.
            state: what the previous step returned, or ``init(x)``.

        Returns:
            A generator that yields requests, is sent velocities, and returns ``(new x, new state)``.
        """
        raise NotImplementedError

    @property
    def claims(self) -> Claims:
        """What it claims with these options.

        Examples:
            >>> import flowsamplers as fs
            >>> fs.get_sampler("ab3").claims.order, fs.get_sampler("ab3:startup=ramp").claims.order
            (3, 2)
        """
        return Claims.of(self)

    @property
    def noisy(self) -> bool:
        """Whether it adds noise: it is stochastic, and its `noise_option` is not 0."""
        return self.stochastic and getattr(self, self.noise_option, None) != 0

    @property
    def without_noise(self) -> Sampler | None:
        """The ODE sampler that a stochastic one is when its `noise_option` is 0, where that one is registered."""
        return None

    @property
    def own_grid(self) -> SigmaGrid | None:
        """The schedule that the sampler was fitted to and brings along; None for one that runs on any."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        """The options as JSON values; a nested sampler is ``{"name": ..., "options": ...}``."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        values = {f.name: getattr(self, f.name) for f in fields}
        return {k: configuration(v) if isinstance(v, Sampler) else v for k, v in values.items()}


SamplerLike: TypeAlias = Sampler | str | Mapping[str, Any]
"""A sampler, its name or specification ``"name:option=value"``, or ``{"name": ..., "options": {...}}``."""


def configuration(sampler: Sampler) -> dict[str, Any]:
    """The sampler as JSON values, see `flowsamplers.registry.to_config`.

    Raises:
        ValueError: its class is not registered.
    """
    name = vars(type(sampler)).get("registered_as")
    if name is None:
        raise ValueError(f"{type(sampler).__qualname__} is not registered; decorate it with @flowsamplers.register(name)")
    return {"name": name, "options": sampler.options}


if TYPE_CHECKING:
    pass


def __getattr__(name: str) -> Any:
    """The registry's names, where they used to be."""
    if name in {"SamplerInfo", "get_sampler", "list_samplers", "name_of", "register", "sampler_info", "to_config"}:
        return getattr(import_module("flowsamplers.registry"), name)
    raise AttributeError(name)

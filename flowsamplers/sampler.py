"""The sampler protocol: a sampler is a generator for one step.

``step`` yields `Evaluate` requests, receives the velocities, and returns the new ``x`` and its state. The sampler does not
know who evaluates the model, when, or in which batch. The drivers decide that, see `flowsamplers.engine`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeAlias, TypeVar

from flowsamplers._accepted import as_declared, literal, refused
from flowsamplers.grid import SigmaGrid

if TYPE_CHECKING:  # schedules, and the names and options of samplers, are read without torch
    from torch import Tensor

    from flowsamplers.noise import Interval, Noise
else:
    Tensor = Interval = Any


class Evaluate(NamedTuple):
    """Ask for the velocity at ``(x, sigma)``: what a sampler's ``step`` yields for each model call.

    Neither the sampler nor the driver may edit ``x``.

    Attributes:
        x: latents, ``(rows, ...)``, in the carry dtype.
        sigma: noise level, from 1 (noise) to 0 (data).
    """

    x: Tensor
    sigma: float


State: TypeAlias = Any
"""The values that a sampler keeps between steps: nested tuples of tensors."""

StepGenerator: TypeAlias = Generator[Evaluate, "Tensor", "tuple[Tensor, State]"]
"""The type of one step: it yields `Evaluate`, receives velocities, and returns ``(x, state)``."""


_R = TypeVar("_R", bound=tuple[Any, ...])
_T = TypeVar("_T")
_S = TypeVar("_S", bound="Sampler")


class Running(Generic[_R, _T]):
    """A started generator, with its current request or its result.

    Attributes:
        request: what the generator asks for; None after its end.
        result: what the generator returned; None before its end.
    """

    request: _R | None
    result: _T

    def __init__(self, work: Generator[_R, Tensor, _T]) -> None:
        self._work = work
        self.send(None)

    def send(self, velocity: Tensor | None) -> None:
        """Send the requested velocity, and run to the next request or to the end."""
        try:
            self.request = next(self._work) if velocity is None else self._work.send(velocity)
        except StopIteration as done:
            self.request, self.result = None, done.value


@dataclass(frozen=True)
class Step:
    """One step of a run: its two noise levels, its index, and the whole schedule.

    A sampler's ``step`` gets it as ``at``. Methods may read nothing else about the run.

    Attributes:
        s0: sigma at the start.
        s1: sigma at the end.
        index: index of the step in the run, from 0.
        count: number of steps in the run.
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
        """Whether this is the last step of the run, at any final sigma."""
        return self.index == self.count - 1

    def noise(self, like: Tensor, draw: int = 0, *, interval: Interval | None = None) -> Tensor:
        r"""Draw standard normal noise with the shape, dtype and device of ``like``.

        Args:
            like: the state.
            draw: index of the draw within this step; draws with different indices are independent.
            interval: ``(T0, T1)``, the times of a Brownian motion whose increment, divided by its size, this noise is: $T = e^{2G}$ for an
                exact step, see `flowsamplers.samplers.stochastic`. By default the motion runs in sigma, $T = 1 - \sigma$.

        Raises:
            ValueError: the run was started without a seed.
        """
        if self.source is None:
            raise ValueError("seed=None: this sampler draws noise; pass seed=<int>, a list with one int per row, or a Noise")
        noise = self.source(like, self.index, draw, (1 - self.s0, 1 - self.s1) if interval is None else interval)
        tensor = hasattr(noise, "is_complex")
        if not tensor or noise.shape != like.shape or noise.is_complex():
            what = f"{tuple(noise.shape)}, {noise.dtype}" if tensor else type(noise).__name__
            raise ValueError(f"seed: the Noise returned {what} for a state of shape {tuple(like.shape)}, {like.dtype}")
        return noise


def steps_of(grid: SigmaGrid, source: Noise | None = None) -> Iterator[Step]:
    """List the steps of a grid in order."""
    for i in range(grid.steps):
        yield Step(grid.sigmas[i], grid.sigmas[i + 1], i, grid.steps, grid, source)


@dataclass(frozen=True)
class Claims:
    """The properties of a sampler with its options: orders, randomness, and what it assumes of the schedule.

    `Sampler.claims` computes them. All other parts of the library read them from there.

    Attributes:
        order: order of the global error $O(h^p)$ on runs strictly inside (0, 1).
        order_to_data: order on complete runs, from sigma 1 to 0; at most ``order``.
        literature: order that the literature states; ``order`` if it states no other.
        stochastic: whether the sampler draws noise.
        adaptive: whether its model calls depend on the data.
        keeps_marginals: whether the distribution at each sigma tends to the flow's as the steps shrink.
        keeps_noise_level: whether a step from a noised data point ends at that point with noise of the new level.
        weak_order: of a stochastic sampler, the order of means over its results; 0 if they do not converge.
        strong_order: of a stochastic sampler, the order of each path; 0 if paths do not converge.
        multistep: whether it uses velocities of earlier steps.
        affine: whether its result depends on sigma only through step lengths.
        any_steps: whether its order holds when neighboring steps have different lengths.
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
        """Compute the claims of a sampler.

        Args:
            sampler: an object; or a class, for samplers that cannot be built without an option.
        """
        stated = {f.name: getattr(sampler, f.name) for f in dataclasses.fields(cls)}
        predictions: int = getattr(sampler, "memory", sampler.literature)  # k of them give order k at most
        stated["order_to_data"] = min(sampler.order, sampler.order_to_data)
        stated["literature"] = max(sampler.order, min(sampler.literature, predictions))
        return cls(**stated)


class Sampler:
    r"""Base class of all samplers: an immutable object that holds only options.

    To write a sampler, subclass it as a frozen dataclass, set the class attributes below, and write `step`. An option that changes
    one of these values sets it on the object in ``__post_init__``. To read the values, use `claims`.

    Attributes:
        order: order of the global error $O(h^p)$ on a rectified flow, for runs strictly inside (0, 1).
        order_to_data: order on complete runs, from sigma 1 to 0, if that is lower. Many methods end with an Euler step.
        literature: order that the literature states, if the method does not reach it on a rectified flow.
        stochastic: whether the sampler draws noise.
        noise_option: option of a stochastic sampler that scales its noise. At 0 the sampler is deterministic and has the orders above.
        adaptive: whether the sampler's model calls depend on the data. A host with fixed timesteps refuses such a sampler.
        keeps_marginals: whether the distribution of ``x`` at each sigma tends to the flow's as the steps shrink.
        keeps_noise_level: whether a step from a noised data point ends at that point with noise of the new level.
        weak_order: of a stochastic sampler, the order of means over its results, for runs strictly inside (0, 1). It is 0 if
            these means do not converge to the flow's.
        strong_order: of a stochastic sampler, the order of its path, compared with the exact path for the same Brownian motion.
            It is 0 if there is no limit.
        multistep: whether the sampler uses velocities of earlier steps. Its first steps then have lower order.
        affine: whether the sampler uses sigma only through step lengths. Scaling sigma then changes nothing.
        any_steps: whether its order holds when neighboring steps have different lengths.
        look_ahead: how many intervals after the current one may contain its model calls.
        look_back: how many intervals before the current one may contain them.

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

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Check the kinds of the options before the class compares them.

        Raises:
            ValueError: an option that is declared as a number is none or not finite; one that is a name by default is no text; or one
                that is declared as a ``Literal`` is not in it.
        """
        if dataclasses.is_dataclass(cls):
            declared = [f for f in dataclasses.fields(cls) if f.init]
            values = dict(zip((f.name for f in declared), args, strict=False)) | given
            for field in declared:
                if field.name in values:
                    _check_option(field, values[field.name], _declared(cls)[field.name])
        return super().__new__(cls)

    def init(self, x: Tensor) -> State:
        """Return the state before the first step of a run that starts at ``x``."""
        return None

    def resume(self, velocity: Tensor) -> State:
        """Return the state for a run that begins in the middle of a schedule, after an Euler move with ``velocity``.

        By default the sampler starts without memory of earlier steps.
        """
        return self.init(velocity)

    def translate(self, state: State, by: Tensor) -> State:
        """Translate the state after the caller has edited ``x``.

        Override this if the state holds latents: add ``by`` to each of them. By default nothing changes, which is correct for
        states that hold only velocities and differences.

        Args:
            state: what `step` returned.
            by: the edit, new ``x`` minus old ``x``, ``(rows, ...)``.
        """
        return state

    def step(self, x: Tensor, at: Step, state: State) -> StepGenerator:
        """Take one step from ``at.s0`` to ``at.s1``.

        Args:
            x: latents, ``(rows, ...)``, in the carry dtype. Do not edit it in place, nor any tensor yielded or received.
            at: the step's noise levels, index and schedule.
            state: what the previous step returned, or ``init(x)``.

        Returns:
            A generator that yields `Evaluate` requests, receives velocities, and returns ``(new x, new state)``.
        """
        raise NotImplementedError

    @property
    def claims(self) -> Claims:
        """The sampler's properties with its current options: orders, randomness, assumptions.

        Examples:
            >>> import flowsamplers as fs
            >>> fs.get_sampler("ab3").claims.order, fs.get_sampler("ab3:startup=ramp").claims.order
            (3, 2)
        """
        return Claims.of(self)

    def _set(self, **values: Any) -> None:
        """Set values on the frozen object, in ``__post_init__``: claims that the options change, and options in their final form."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def draws_noise(self) -> bool:
        """Whether the sampler adds noise: it is stochastic, and its `noise_option` is not 0."""
        return self.stochastic and getattr(self, self.noise_option, None) != 0

    @property
    def without_noise(self) -> Sampler | None:
        """The registered ODE sampler that equals this one at `noise_option` 0; None if there is none."""
        return None

    @property
    def own_grid(self) -> SigmaGrid | None:
        """The schedule that the sampler was fitted to; None for a sampler that runs on any schedule."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        """The sampler's options as JSON values; a nested sampler is ``{"name": ..., "options": ...}``."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        values = {f.name: getattr(self, f.name) for f in fields}
        return {k: configuration(v) if isinstance(v, Sampler) else v for k, v in values.items()}


POLICIES = ("SamplerLike", "Sampler")
"""Declared types of options that hold another sampler."""


@cache
def _declared(cls: type) -> dict[str, Any]:
    """The annotations of a class; a ``Literal`` may have a name in the module of the class that uses it."""
    found: dict[str, Any] = {}
    for kind in reversed(cls.__mro__):
        names = getattr(sys.modules.get(kind.__module__), "__dict__", {})
        found |= {name: literal(declared, names) for name, declared in inspect.get_annotations(kind).items()}
    return found


def _check_option(field: dataclasses.Field[Any], value: Any, declared: Any) -> None:
    """See `Sampler`."""
    if isinstance(field.default, str) and field.type not in POLICIES and not isinstance(value, str):
        raise refused(field.name, value, "a name")
    as_declared(field.name, value, declared)


def grid_from_noise(sampler: Sampler) -> SigmaGrid | None:
    """The schedule that a sampler brings along, for a run from pure noise.

    Raises:
        ValueError: it begins below sigma 1, for image-to-image.
    """
    own = sampler.own_grid
    if own is not None and own.start != 1:
        raise ValueError(
            f"this solver was fitted for image-to-image from sigma {own.start:g}; a run from noise needs one from 1"
        )
    return own


SamplerLike: TypeAlias = Sampler | str | Mapping[str, Any]
"""A sampler, its name or specification ``"name:option=value"``, or ``{"name": ..., "options": {...}}``."""


def converted(sampler: Sampler, kind: type[_S], **options: Any) -> _S:
    """A sampler of another kind, with the options that both have.

    Args:
        sampler: a frozen dataclass, as ``kind`` is.
        kind: the class of the new one.
        **options: of the new one, instead of those of the old one.
    """
    own, theirs = ({f.name for f in dataclasses.fields(k)} for k in (type(sampler), kind))  # pyright: ignore[reportArgumentType]
    return kind(**{**{name: getattr(sampler, name) for name in own & theirs}, **options})


def configuration(sampler: Sampler) -> dict[str, Any]:
    """Convert a sampler to JSON values, see `flowsamplers.registry.to_config`.

    Raises:
        ValueError: the sampler's class is not registered.
    """
    name = vars(type(sampler)).get("registered_as")
    if name is None:
        raise ValueError(f"{type(sampler).__qualname__} is not registered; decorate it with @flowsamplers.register(name)")
    return {"name": name, "options": sampler.options}

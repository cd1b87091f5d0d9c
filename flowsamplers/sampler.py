"""The one idea: a sampler is written once, as a generator for one step.

``step`` yields `Evaluate` requests, is sent the velocities, and returns the new ``x`` and its state. It knows nothing
of who evaluates the model, when, or in which batch: that is a driver's business (`engine`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from flowsamplers._elsewhere import sampler_elsewhere
from flowsamplers._errors import unknown
from flowsamplers.grid import SigmaGrid
from flowsamplers.noise import Clock, Noise

ENTRY_POINTS = "flowsamplers.samplers"
"""Entry-point group through which other packages add samplers, found by name like the built-in ones."""


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


class Sampler:
    r"""Base of all samplers: an immutable value that holds options only.

    Subclass it as a frozen dataclass, say what the method claims in the class attributes, and write `step`.

    Attributes:
        order: the order of the global error $O(h^p)$ that the method has on a rectified flow, strictly inside (0, 1).
        order_to_data: the order on complete runs, from 1 to 0, where that is lower: many last steps are Euler's.
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

    order: ClassVar[int] = 1
    order_to_data: ClassVar[int] = 99
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
    def noisy(self) -> bool:
        """Whether it adds noise: it is stochastic, and its `noise_option` is not 0."""
        return self.stochastic and getattr(self, self.noise_option, None) != 0

    @property
    def without_noise(self) -> Sampler | None:
        """The ODE sampler that a stochastic one is when its `noise_option` is 0, where that one is registered."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        """The options as JSON values; a nested sampler is ``{"name": ..., "options": ...}``."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        values = {f.name: getattr(self, f.name) for f in fields}
        return {k: to_config(v) if isinstance(v, Sampler) else v for k, v in values.items()}


@dataclass(frozen=True)
class SamplerInfo:
    """What the registry knows of a sampler.

    Attributes:
        name: the name under which it is found.
        aliases: other names of the same map.
        presets: names of the method with other options, and these.
        family: the family it belongs to, which is the module it lives in.
        order: order of the global error strictly inside (0, 1).
        order_to_data: order of the global error on complete runs.
        literature: the order that the literature claims, where it is another.
        stochastic: whether it draws noise, and so needs a seed.
        adaptive: whether its evaluations depend on the data.
        keeps_marginals: whether it keeps the flow's marginals in the limit of small steps.
        keeps_noise_level: whether it keeps the noise level of a data point at any step size.
        weak_order: of means over the results of a stochastic sampler.
        strong_order: of the paths of a stochastic sampler.
        reference: where it comes from.
        advice: when to use it, in one line.
        factory: the class; called with the options.
        origin: the package that registered it.
        needs: the option without which there is no such sampler; empty for one that runs as it is.
    """

    name: str
    aliases: tuple[str, ...]
    presets: Mapping[str, Mapping[str, Any]]
    family: str
    order: int
    order_to_data: int
    literature: int
    stochastic: bool
    adaptive: bool
    keeps_marginals: bool
    keeps_noise_level: bool
    weak_order: int
    strong_order: float
    reference: str
    advice: str
    factory: type[Sampler]
    origin: str
    needs: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which it is found."""
        return (self.name, *self.aliases, *self.presets)

    @property
    def options(self) -> dict[str, Any]:
        """The options it takes, with their defaults."""
        return self.factory().options

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.factory.__doc__ or "").strip().split("\n")[0]


SamplerLike: TypeAlias = Sampler | str | Mapping[str, Any]
"""A sampler, its name, or ``{"name": ..., "options": {...}}``."""

_S = TypeVar("_S", bound=type[Sampler])
_registry: dict[str, SamplerInfo] = {}


def register(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    reference: str = "",
    advice: str = "",
    literature: int | None = None,
    needs: str = "",
) -> Callable[[_S], _S]:
    """Class decorator: make a sampler findable by name.

    Args:
        name: lower case, as users know the method (``"dpmpp_2m"``).
        aliases: other names of the very same map.
        presets: names that users know for this method with other options.
        reference: paper or code it comes from.
        advice: when to use it, in one line.
        literature: the order that the literature claims, if the method does not have it on a rectified flow.
        needs: an option without which there is no such sampler; `list_samplers` leaves it out then.

    Raises:
        ValueError: a name that is taken.
    """

    def add(cls: _S) -> _S:
        info = SamplerInfo(
            name=name,
            aliases=aliases,
            presets=dict(presets or {}),
            family=cls.__module__.rpartition(".")[2],
            order=cls.order,
            order_to_data=min(cls.order, cls.order_to_data),
            literature=cls.order if literature is None else literature,
            stochastic=cls.stochastic,
            adaptive=cls.adaptive,
            keeps_marginals=cls.keeps_marginals,
            keeps_noise_level=cls.keeps_noise_level,
            weak_order=cls.weak_order,
            strong_order=cls.strong_order,
            reference=reference,
            advice=advice,
            factory=cls,
            origin=cls.__module__.partition(".")[0],
            needs=needs,
        )
        taken = _names()
        for key in info.names:
            if key in taken and taken[key].factory is not cls:
                raise ValueError(f"sampler name {key!r} is taken by {taken[key].factory.__qualname__}")
        _registry[name] = info
        return cls

    return add


def list_samplers(*, needing: bool = False) -> list[SamplerInfo]:
    """All registered samplers that run as they are, in the order of registration, those of other packages last.

    Args:
        needing: also those that are nothing without an option of theirs, such as a table.
    """
    _load()
    return [info for info in _registry.values() if needing or not info.needs]


def sampler_info(name: str) -> SamplerInfo:
    """What is known of the sampler with this name or alias.

    Raises:
        ValueError: no such sampler; the message suggests the nearest name.
    """
    _load()
    names = _names()
    if name not in names:
        raise unknown("sampler", name, names, sampler_elsewhere(name))
    return names[name]


def get_sampler(sampler: SamplerLike, **options: Any) -> Sampler:
    """A sampler by name, as a configuration, or as an object.

    Args:
        sampler: a name or alias, ``{"name": ..., "options": {...}}``, or a sampler.
        **options: options of the method; they override those of a configuration or object.

    Raises:
        ValueError: unknown name or option; the message suggests the nearest.

    Examples:
        >>> get_sampler("ab2", last="midpoint")
        AdamsBashforth2(last='midpoint', startup='ramp')
        >>> get_sampler("lms")  # a preset: what k-diffusion means by this name
        AdamsBashforth4(last='euler', startup='ramp')
    """
    if isinstance(sampler, Sampler):
        return dataclasses.replace(sampler, **_known(type(sampler), options)) if options else sampler  # type: ignore[type-var]
    if isinstance(sampler, Mapping):
        if "name" not in sampler:
            raise ValueError(f"sampler={dict(sampler)}: a configuration is {{'name': ..., 'options': {{...}}}}")
        return get_sampler(sampler["name"], **{**sampler.get("options", {}), **options})
    info = sampler_info(sampler)
    return info.factory(**{**info.presets.get(sampler, {}), **_known(info.factory, options)})


def to_config(sampler: Sampler) -> dict[str, Any]:
    """The sampler as JSON values, ``{"name": ..., "options": {...}}``, which `get_sampler` takes back.

    Raises:
        ValueError: the sampler's class is not registered.

    Examples:
        >>> to_config(get_sampler("ab2", last="midpoint"))
        {'name': 'ab2', 'options': {'last': 'midpoint', 'startup': 'ramp'}}
    """
    return {"name": name_of(sampler), "options": sampler.options}


def name_of(sampler: Sampler) -> str:
    """The registered name of a sampler.

    Raises:
        ValueError: its class is not registered.
    """
    _load()
    for info in _registry.values():
        if info.factory is type(sampler):
            return info.name
    raise ValueError(f"{type(sampler).__qualname__} is not registered; decorate it with @flowsamplers.register(name)")


def _names() -> dict[str, SamplerInfo]:
    return {key: info for info in _registry.values() for key in info.names}


def _known(factory: type[Sampler], options: Mapping[str, Any]) -> dict[str, Any]:
    accepted = [f.name for f in dataclasses.fields(factory)] if dataclasses.is_dataclass(factory) else []
    for option in options:
        if option not in accepted:
            raise unknown(f"option of {factory.__name__}", option, accepted)
    return dict(options)


@cache
def _load() -> None:
    """Import the built-in samplers and those of other packages, once."""
    import_module("flowsamplers.samplers")  # the registry is below its entries

    for entry in entry_points(group=ENTRY_POINTS):
        loaded = entry.load()
        if isinstance(loaded, type) and issubclass(loaded, Sampler) and entry.name not in _names():
            register(entry.name)(loaded)

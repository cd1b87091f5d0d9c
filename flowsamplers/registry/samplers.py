"""Find samplers by name, and register your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

from flowsamplers._accepted import flag, text
from flowsamplers._elsewhere import sampler_elsewhere
from flowsamplers.registry.names import Description, Registered, Registry, described
from flowsamplers.registry.specifications import options_of, parse_specification
from flowsamplers.sampler import Claims, Sampler, SamplerLike, configuration

__all__ = ["SAMPLERS", "SamplerInfo", "get_sampler", "list_samplers", "register", "sampler_info", "to_config"]


_S = TypeVar("_S", bound=type[Sampler])
_T = TypeVar("_T")


def _claim(read: Callable[[Claims], _T]) -> _T:
    """A property of `SamplerInfo` that reads one of its claims."""
    return cast(_T, property(lambda info: read(info.claims), doc="See `Claims`."))


@dataclass(frozen=True)
class SamplerInfo(Description):
    """The description of a registered sampler.

    Attributes:
        factory: the class; called with the options.
        needs: the option that must be given; empty for a sampler that runs without options.
        preset: the requested preset, whose properties and options these are; empty for the method with its defaults.
    """

    factory: type[Sampler]
    needs: str = ""
    preset: str = ""

    @cached_property
    def claims(self) -> Claims:
        """The sampler's properties: orders, randomness, assumptions."""
        return Claims.of(self.factory) if self.needs else self._sampler.claims

    @property
    def _sampler(self) -> Sampler:
        return self.factory(**self.presets.get(self.preset, {}))

    order = _claim(lambda claims: claims.order)
    """Order of the global error on runs strictly inside (0, 1)."""
    order_to_data = _claim(lambda claims: claims.order_to_data)
    """Order on complete runs, from sigma 1 to 0."""
    literature = _claim(lambda claims: claims.literature)
    """Order that the literature states."""
    stochastic = _claim(lambda claims: claims.stochastic)
    """Whether the sampler draws noise."""
    adaptive = _claim(lambda claims: claims.adaptive)
    """Whether its model calls depend on the data."""
    keeps_marginals = _claim(lambda claims: claims.keeps_marginals)
    """Whether the distribution at each sigma tends to the flow's as the steps shrink."""
    keeps_noise_level = _claim(lambda claims: claims.keeps_noise_level)
    """Whether a step from a noised data point ends at that point with noise of the new level."""
    weak_order = _claim(lambda claims: claims.weak_order)
    """Order of means over the results of a stochastic sampler; 0 if they do not converge."""
    strong_order = _claim(lambda claims: claims.strong_order)
    """Order of each path of a stochastic sampler; 0 if paths do not converge."""

    @property
    def options(self) -> dict[str, Any]:
        """The sampler's options with their defaults, or with the values of the preset."""
        if self.needs:
            fields = dataclasses.fields(self.factory) if dataclasses.is_dataclass(self.factory) else ()
            return {f.name: f.default for f in fields if f.name != self.needs}
        return self._sampler.options

    @property
    def summary(self) -> str:
        """The first line of the sampler's docstring."""
        return (self.factory.__doc__ or "").strip().split("\n")[0]


def register(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    reference: str = "",
    advice: str = "",
    needs: str = "",
) -> Callable[[_S], _S]:
    """Register a sampler class under a name; use it as a class decorator.

    Args:
        name: lower case, as users know the method (``"dpmpp_2m"``).
        aliases: other names of exactly the same method.
        presets: names that users know for this method with other options.
        reference: paper or program it comes from.
        advice: when to use it, in one line.
        needs: an option that must be given. `list_samplers` then omits the sampler.

    Raises:
        ValueError: a name is taken.
    """
    text("name", name)

    def add(cls: _S) -> _S:
        common = described(cls, name, presets)
        info = SamplerInfo(**common, aliases=aliases, reference=reference, advice=advice, factory=cls, needs=needs)
        SAMPLERS.add(Registered(info.names, cls, info, info.origin))
        cls.registered_as = name
        return cls

    return add


def _add_sampler(name: str, loaded: Any) -> None:
    if not (isinstance(loaded, type) and issubclass(loaded, Sampler)):
        raise TypeError(f"{loaded!r} is no subclass of flowsamplers.Sampler")
    register(name)(loaded)


SAMPLERS: Registry[SamplerInfo] = Registry(
    "sampler", "flowsamplers.samplers", _add_sampler, "flowsamplers.samplers", sampler_elsewhere
)
"""The registry of samplers, including those of other packages."""


def list_samplers(*, needing: bool = False) -> list[SamplerInfo]:
    """List all registered samplers in the order of registration, other packages last.

    Args:
        needing: include samplers that need an option, such as a table of coefficients.

    Warns:
        UserWarning: a sampler of another package cannot be loaded, or uses a name that is taken; the list omits it.
    """
    flag("needing", needing)
    return [thing.info for thing in SAMPLERS.all() if needing or not thing.info.needs]


def sampler_info(name: str) -> SamplerInfo:
    """Describe the sampler with this name, alias or preset.

    Raises:
        ValueError: there is no such sampler; the message suggests the nearest name.
        ImportError: the sampler belongs to another package, which cannot be loaded.

    Examples:
        >>> sampler_info("ab4").order, sampler_info("lms").order  # lms starts with steps of orders 1, 2, ...
        (4, 2)
    """
    info = SAMPLERS.find(name).info
    return dataclasses.replace(info, preset=name) if name in info.presets else info


def get_sampler(sampler: SamplerLike, **options: Any) -> Sampler:
    """Make a sampler from a name, a specification, a configuration, or another sampler.

    Args:
        sampler: a name or alias, ``"name:option=value,option=value"``, ``{"name": ..., "options": {...}}``, or a sampler.
        **options: options of the sampler; they override those of a specification, configuration or object.

    Raises:
        ValueError: a name or option is unknown; the message suggests the nearest.
        TypeError: ``sampler`` is none of these.
        ImportError: the sampler belongs to another package, which cannot be loaded.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.get_sampler("ab2", last="midpoint")
        AdamsBashforth2(last='midpoint', startup='ramp')
        >>> fs.get_sampler("ab2:last=midpoint") == fs.get_sampler({"name": "ab2", "options": {"last": "midpoint"}})
        True
        >>> fs.get_sampler("lms")  # a preset: what k-diffusion means by this name
        AdamsBashforth4(last='euler', startup='ramp')
    """
    if isinstance(made := getattr(sampler, "as_sampler", None), Sampler):  # a `Solver`
        return get_sampler(made, **options)
    if isinstance(sampler, Sampler):
        return dataclasses.replace(sampler, **options_of(type(sampler), options)) if options else sampler  # type: ignore[type-var]
    if isinstance(sampler, Mapping):
        name, given = _configured(sampler)
        return get_sampler(name, **{**given, **options})
    if not isinstance(sampler, str):
        raise TypeError(_no_sampler(sampler))
    name, given = parse_specification(sampler)
    info = sampler_info(name)
    return info.factory(**{**info.presets.get(name, {}), **options_of(info.factory, {**given, **options})})


def _configured(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    name, options = config.get("name"), config.get("options", {})
    if not isinstance(name, str) or not isinstance(options, Mapping) or not set(config) <= {"name", "options"}:
        raise ValueError(f"sampler={dict(config)}: a configuration is {{'name': ..., 'options': {{...}}}}")
    return name, options


def _no_sampler(value: Any) -> str:
    accepted = "accepted are a name, 'name:option=value', {'name': ..., 'options': {...}}, and a sampler"
    if isinstance(value, type):
        return f"sampler={value.__qualname__}: this is a class, give an object such as {value.__name__}(); {accepted}"
    return f"sampler={value!r}: this is no sampler; {accepted}"


def to_config(sampler: Sampler) -> dict[str, Any]:
    """Convert a sampler to JSON values, ``{"name": ..., "options": ...}``; `get_sampler` is the inverse.

    Raises:
        ValueError: the sampler's class is not registered.

    Examples:
        >>> import flowsamplers as fs
        >>> fs.to_config(fs.get_sampler("ab2", last="midpoint"))
        {'name': 'ab2', 'options': {'last': 'midpoint', 'startup': 'ramp'}}
    """
    SAMPLERS.of(type(sampler))  # it may be a plug-in's that was never asked for by name
    return configuration(sampler)

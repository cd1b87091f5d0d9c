"""The class behind the registries of samplers, schedules, flows and metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from flowsamplers._accepted import refused, unknown

__all__ = ["Registered", "Registry"]

T = TypeVar("T")


@dataclass(frozen=True)
class Description:
    """Base of the descriptions of samplers and of schedules.

    Attributes:
        name: its name.
        aliases: other names of exactly the same.
        presets: names of the same with other options, and these options.
        family: its family, which is the module that contains it.
        reference: the paper or program it comes from.
        advice: when to use it, in one line.
        origin: the package that registered it.
    """

    name: str
    aliases: tuple[str, ...]
    presets: Mapping[str, Mapping[str, Any]]
    family: str
    reference: str
    advice: str
    origin: str

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, aliases and presets."""
        return (self.name, *self.aliases, *self.presets)


def described(target: Any, name: str, presets: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """The attributes of a `Description` that follow from where a class or function is defined."""
    module: str = target.__module__
    origin, family = module.partition(".")[0], module.rpartition(".")[2]
    return {"name": name, "presets": dict(presets or {}), "family": family, "origin": origin}


@dataclass(frozen=True)
class Registered(Generic[T]):
    """One entry of a registry.

    Attributes:
        names: its name and its aliases.
        target: the registered class or function.
        info: its description, such as a `SamplerInfo`.
        package: the package that registered it.
    """

    names: tuple[str, ...]
    target: Any
    info: T
    package: str

    def __str__(self) -> str:
        """For messages: where it is defined."""
        where = f"{getattr(self.target, '__module__', '?')}.{getattr(self.target, '__qualname__', self.names[0])}"
        return f"{where} of package {self.package!r}"


class Registry(Generic[T]):
    """A registry: classes or functions of one kind by name.

    Args:
        what: the kind, such as "sampler", for error messages.
        group: the entry-point group through which other packages add theirs.
        register: registers the object that an entry point loads, under the entry point's name; by default it is its own description.
        built_in: the module that registers this library's own entries when it is imported.
        elsewhere: returns a hint for a name that another program uses.
    """

    def __init__(
        self,
        what: str,
        group: str,
        register: Callable[[str, Any], object] | None = None,
        built_in: str = "",
        elsewhere: Callable[[str], str] = lambda name: "",
    ) -> None:
        self.what, self.group = what, group
        self._register, self._built_in, self._elsewhere = register or self._add_itself, built_in, elsewhere
        self._things: dict[str, Registered[T]] = {}
        self._names: dict[str, Registered[T]] = {}

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name, not loaded."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=self.group):
            found.setdefault(entry.name, []).append(entry)
        return found

    def add(self, thing: Registered[T]) -> None:
        """Add an entry under its names.

        Raises:
            ValueError: one of the names belongs to another entry; the message names both.
        """
        if thing.package != "flowsamplers":
            self._import_built_in()
        for name in thing.names:
            other = self._names.get(name, thing)
            if other.target != thing.target:
                raise self._claimed_twice(name, other, thing)
        self._things[thing.names[0]] = thing
        self._names.update(dict.fromkeys(thing.names, thing))

    def find(self, name: str) -> Registered[T]:
        """Look up an entry by name or alias.

        Raises:
            TypeError: it is no name.
            ValueError: there is no such name (the message suggests the nearest), or two packages use the name.
            ImportError: the package behind the name cannot be loaded; the message names package, entry and reason.
        """
        if not isinstance(name, str):
            raise TypeError(str(refused(self.what, name, "a name")))
        self._import_built_in()
        for entry in self._plugins.get(name, ()):
            self._load(entry)
        if name not in self._names:
            self.all()  # an alias that a plug-in gives itself
        if name not in self._names:
            raise unknown(self.what, name, self.names(), self._elsewhere(name))
        return self._names[name]

    def all(self) -> list[Registered[T]]:
        """List all entries in the order of registration, other packages last; warn about those that cannot be loaded."""
        self._import_built_in()
        for entry in (e for same in self._plugins.values() for e in same):
            try:
                self._load(entry)
            except (ImportError, ValueError) as error:
                warnings.warn(f"left out: {error}", stacklevel=3)
        return list(self._things.values())

    def names(self) -> list[str]:
        """List all names without importing other packages."""
        self._import_built_in()
        return list(dict.fromkeys([*self._names, *self._plugins]))

    def of(self, target: Any) -> Registered[T] | None:
        """Look up the entry of a registered class or function."""
        for look in (self._things.values, self.all):
            for thing in look():
                if thing.target is target:
                    return thing
        return None

    def _add_itself(self, name: str, target: Any) -> None:
        self.add(Registered((name,), target, target, getattr(target, "__module__", "?").partition(".")[0]))

    def _import_built_in(self) -> None:
        if self._built_in:
            module, self._built_in = self._built_in, ""
            import_module(module)

    def _load(self, entry: EntryPoint) -> None:
        package = entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
        try:
            target = entry.load()
            other = self._names.get(entry.name)
            if other is None:
                self._register(entry.name, target)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ImportError(
                f"{self.what} {entry.name!r} of package {package!r} (entry point {entry.value!r}) cannot be loaded: {reason}"
            ) from error
        if other is not None and other.target != target:  # two bound methods of one class are equal and not the same
            raise self._claimed_twice(entry.name, other, f"{entry.value} of package {package!r}")

    def _claimed_twice(self, name: str, one: object, another: object) -> ValueError:
        return ValueError(f"{self.what} name {name!r} is claimed twice: by {one} and by {another}; one needs another name")

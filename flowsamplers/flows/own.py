"""Use your own velocity field in studies, with defaults for everything but the velocity."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from flowsamplers._accepted import listed, refused, shown, text
from flowsamplers.engine import check_velocity
from flowsamplers.noise import normal

__all__ = ["OwnFlow", "check_flow", "completed"]

OPTIONAL = ("noise", "tokens", "passes_per_evaluation", "describe")
"""The optional attributes and methods of a flow; `OwnFlow` has a default for each."""


class OwnFlow:
    """Complete your velocity field with the defaults that a study needs.

    Only the velocity and the shape of a row are required. If your object has one of the attributes below, its own is used.

    Args:
        flow: an object with ``velocity(x, sigma, condition=None)`` or ``velocity(x, sigma)``, or such a function itself. ``x`` is
            ``(rows, *shape)``, ``sigma`` is ``(rows,)`` with 1 for noise and 0 for data, ``condition`` a list with one entry for each
            row. The result is shaped like ``x``.
        shape: shape of one row; by default the object's ``shape``.
        name: by default the object's ``name``, or the name of its class or function.
        condition: a valid condition, for one model call that describes the model.

    Attributes:
        name: the model's name in rows and reports.
        shape: shape of one row.
        dtype: dtype of the noise. By default that of the object's parameters, or float32.
        device: device of the noise. By default that of the object's parameters, or the CPU.
        tokens: number of tokens, for schedules that depend on the size of an image. The default is the first entry of the
            shape. For three or more entries, such as channels, height and width, it is the product of all but the first.
        passes_per_evaluation: forward passes of the network in one evaluation, by default 1.

    Raises:
        TypeError: there is no velocity; the message says what is missing.
        ValueError: there is no shape, or it is no list of positive whole numbers.

    Examples:
        >>> flow = OwnFlow(lambda x, sigma: x, shape=(2,), name="growth")
        >>> flow.noise([0, 1]).shape, flow.tokens, flow.passes_per_evaluation
        (torch.Size([2, 2]), 2, 1)
    """

    def __init__(self, flow: Any, shape: Sequence[int] | None = None, name: str | None = None, condition: Any = None) -> None:
        self.own, self._condition = flow, condition
        self._velocity = _velocity_of(flow)
        self._takes = _takes_condition(self._velocity)
        self.name = (
            text("name", name)
            if name is not None
            else str(getattr(flow, "name", "") or getattr(flow, "__name__", "") or type(flow).__name__)
        )
        given = getattr(flow, "shape", None) if shape is None else shape
        if given is None and hasattr(flow, "noise"):
            given = flow.noise([0]).shape[1:]
        self.shape: tuple[int, ...] = _shape(given, self.name)
        parameter = next(iter(_tensors(flow)), torch.empty(0))
        self.dtype: torch.dtype = getattr(flow, "dtype", parameter.dtype)
        self.device: torch.device = torch.device(getattr(flow, "device", parameter.device))
        first, *others = self.shape
        wide = math.prod(others) if len(others) > 1 else first
        self.tokens: int = getattr(flow, "tokens", wide)
        self.passes_per_evaluation: int = getattr(flow, "passes_per_evaluation", 1)

    def __getattr__(self, name: str) -> Any:
        """What else the object has, such as ``decode`` and ``passes``."""
        if name in ("own", "describe", "noise") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.own, name)

    def velocity(self, x: Tensor, sigma: Tensor, condition: Sequence[Any] | None = None) -> Tensor:
        """Return the object's velocity, shaped like ``x``, without gradients.

        Raises:
            ValueError: a condition is given to an object that takes none.
        """
        with torch.no_grad():
            if self._takes:
                return self._velocity(x, sigma, condition=condition)
            if any(c is not None for c in condition or ()):
                raise ValueError(f"flow {self.name}: its velocity(x, sigma) takes no condition; leave the prompts out")
            return self._velocity(x, sigma)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Draw starts at ``sigma = 1``, one row for each seed: the object's own, or standard normal noise."""
        if hasattr(self.own, "noise"):
            return self.own.noise(seeds)
        return torch.stack([normal(seed, self.shape, self.dtype, self.device) for seed in seeds])

    def describe(self) -> Mapping[str, Any]:
        """Describe the model for a study: the object's description, or its name, shape, dtype and three numbers of a velocity."""
        return self.own.describe() if hasattr(self.own, "describe") else self._described

    @cached_property
    def _described(self) -> dict[str, Any]:
        x1 = self.noise([0])
        v = self.velocity(x1, x1.new_full((1,), 0.5), [self._condition]).double()
        numbers = " ".join(f"{n:.3g}" for n in (v.norm().item(), v.flatten()[0].item(), v.flatten()[-1].item()))
        return {
            "model": self.name,
            "shape": list(self.shape),
            "dtype": str(x1.dtype).removeprefix("torch."),
            "velocity": numbers,
        }


def completed(flow: Any, shape: Sequence[int] | None = None, name: str | None = None, condition: Any = None) -> Any:
    """Return a flow with everything that a study needs: the flow itself if it is complete, else an `OwnFlow` around it.

    Args:
        flow: see `OwnFlow`.
        shape: shape of one row, if the object has none.
        name: the model's name.
        condition: a condition that the flow accepts.

    Raises:
        TypeError: there is no velocity.
        ValueError: there is no shape.
    """
    whole = all(hasattr(flow, n) for n in OPTIONAL) and _takes_condition(_velocity_of(flow)) and not isinstance(flow, type)
    return flow if whole and shape is None else OwnFlow(flow, shape, name, condition)


def check_flow(flow: Any, condition: Any = None) -> None:
    """Check a flow with one model call on two rows.

    Args:
        flow: see `completed`.
        condition: the condition of both rows.

    Raises:
        TypeError: there is no velocity or noise.
        ValueError: the velocity is no tensor, has another shape, or has numbers that are integer or not finite.
    """
    if not callable(getattr(flow, "noise", None)) or not callable(getattr(flow, "velocity", None)):
        raise TypeError(str(refused("flow", flow, "an object with velocity and noise, see completed")))
    x = flow.noise([0, 1])
    v = flow.velocity(x, x.new_full((2,), 0.5, dtype=torch.promote_types(x.dtype, torch.float32)), [condition] * 2)
    check_velocity(v, x)
    if not v.is_floating_point():
        raise ValueError(f"velocity returned {v.dtype}: a velocity is a floating tensor")
    if not bool(torch.isfinite(v).all()):
        raise ValueError("flow: its velocity at the noise and sigma = 0.5 is not finite")


def _velocity_of(flow: Any) -> Any:
    what = getattr(flow, "__name__", type(flow).__name__)
    needed = "a flow needs velocity(x, sigma, condition=None)"
    if isinstance(flow, type):
        raise TypeError(f"flow={what}: this is a class; give an object, such as {what}()")
    found = getattr(flow, "velocity", flow)
    if not callable(found):
        raise TypeError(f"flow={what}: it has no velocity; {needed}, or must be such a function")
    return found


def _takes_condition(velocity: Any) -> bool:
    """Whether a velocity function has an argument for the condition."""
    target = velocity.forward if isinstance(velocity, torch.nn.Module) else velocity
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
    return "condition" in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _shape(given: Any, name: str) -> tuple[int, ...]:
    if given is None:
        raise ValueError(f"flow {name}: the shape of a row is missing; give it an attribute shape, or Study(shape=(2,))")
    try:
        sizes = listed("shape", given, "")
    except TypeError:
        sizes = []
    if not sizes or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in sizes):
        raise ValueError(f"shape={shown(given)}: give the shape of one row, such as (2,) or (3, 32, 32)")
    return tuple(int(n) for n in sizes)


def _tensors(flow: Any) -> list[Tensor]:
    """Parameters of the flow, or of the networks that are its attributes."""
    owner = getattr(flow, "__self__", flow)  # of a method
    parts = [owner] if isinstance(owner, torch.nn.Module) else list(getattr(owner, "__dict__", {}).values())
    return [p for part in parts if isinstance(part, torch.nn.Module) for p in part.parameters() if p.is_floating_point()]

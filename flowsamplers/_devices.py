"""Devices by name, checked where the name is given and not at the first tensor; and the way of a tensor to one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def usable_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it.

    Args:
        device: such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ValueError: a name that is none, or a device that is not here; says which are.

    Examples:
        >>> usable_device("cpu")
        device(type='cpu')
        >>> usable_device("meta")
        Traceback (most recent call last):
        ValueError: device='meta': this machine does not have it; it has cpu...
    """
    here = {"cpu": 1} | {name: getattr(torch, name).device_count() for name in ("cuda", "mps", "xpu")}
    known = ", ".join(f"{name}:{i}" if i else name for name, count in here.items() for i in range(count))
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"device={device!r}: this is not the name of a device; this machine has {known}") from None
    if (found.index or 0) >= here.get(found.type, 0):
        raise ValueError(f"device={str(device)!r}: this machine does not have it; it has {known}")
    return found


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on a device; the host does not wait for what the device is doing.

    CUDA copies in the background from pinned memory alone; any other copy waits until all work before it is done.

    Examples:
        >>> sent(torch.ones(2), "cpu")
        tensor([1., 1.])
    """
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True).copy_(x).to(device, non_blocking=True)


def digest(x: Tensor) -> str:
    """Names a tensor by its content."""
    data = x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode() + data).hexdigest()

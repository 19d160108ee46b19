"""Properties of the device in use."""

from __future__ import annotations

from typing import Any

from ..runtime import device, torch_device_fn


def get_device_properties(device_index: int = 0) -> Any:
    """What torch says of a device: name, processors, memory in bytes."""
    return torch_device_fn.get_device_properties(device_index)


def get_device_capability() -> tuple[int, int]:
    """Compute capability (major, minor) of the current GPU; (0, 0) on a CPU."""
    return torch_device_fn.get_device_capability() if device.name == "cuda" else (0, 0)

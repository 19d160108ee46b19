"""The device that the kernels run on, under the names that FlagGems' users know.

`device` describes it, `torch_device_fn` is torch.cuda or its like on a CPU, `torch_backend_device` is
torch.backends.cuda or its like.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

VENDORS = ("nvidia", "cpu")


def choose_vendor() -> str:
    """The vendor whose device is used: GEMS_VENDOR or FLAGGEMS_VENDOR, else nvidia where a GPU is, else cpu.

    Raises
    ------
    RuntimeError
        When the environment names a vendor that is not known.
    """
    wanted = os.environ.get("GEMS_VENDOR") or os.environ.get("FLAGGEMS_VENDOR")
    if wanted and wanted not in VENDORS:
        raise RuntimeError(f"unknown vendor {wanted!r} in GEMS_VENDOR; known are {', '.join(VENDORS)}")
    return wanted or ("nvidia" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class DeviceInfo:
    """What kind of device the kernels run on."""

    vendor_name: str
    name: str = field(init=False)
    vendor: str = field(init=False)
    dispatch_key: str = field(init=False)
    device_count: int = field(init=False)
    support_fp64: bool = True
    support_bf16: bool = True
    support_int64: bool = True

    def __post_init__(self) -> None:
        cuda = self.vendor_name == "nvidia"
        values = {
            "name": "cuda" if cuda else "cpu",
            "vendor": self.vendor_name,
            "dispatch_key": "CUDA" if cuda else "CPU",
            "device_count": torch.cuda.device_count() if cuda else 1,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)


class CpuDeviceFunctions:
    """torch.cuda's functions for a machine without a GPU: everything has happened when a call returns."""

    @property
    def default_generators(self) -> tuple[torch.Generator, ...]:
        return (torch.default_generator,)

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def is_available(self) -> bool:
        return True

    def synchronize(self, device: Any = None) -> None:
        """Returns at once."""

    def empty_cache(self) -> None:
        """Returns at once: the CPU allocator keeps nothing back."""

    def device(self, context: Any) -> contextlib.AbstractContextManager[None]:
        """A context that changes nothing: there is one device."""
        return contextlib.nullcontext()

    def get_device_properties(self, device: Any = 0) -> SimpleNamespace:
        """`name`, `multi_processor_count` (threads), `total_memory` in bytes, `major` and `minor` (0)."""
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return SimpleNamespace(
            name="cpu", multi_processor_count=torch.get_num_threads(), total_memory=pages * size, major=0, minor=0
        )


device = DeviceInfo(choose_vendor())
torch_device_fn: Any = torch.cuda if device.name == "cuda" else CpuDeviceFunctions()
torch_backend_device: Any = (
    torch.backends.cuda if device.name == "cuda" else SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False))
)
backend = SimpleNamespace(
    vendor_module=SimpleNamespace(vendor_info=SimpleNamespace(vendor_name=device.vendor_name, device_name=device.name))
)


def get_tuned_config(op: str) -> list[dict[str, Any]]:
    """Configurations to measure for an operator: none, since shapes choose them without measuring."""
    return []


def get_heuristic_config(op: str) -> dict[str, Any]:
    """Launch heuristics by name for an operator: none in Python, they are part of the kernels' host code."""
    return {}


def stats() -> dict[str, dict[str, int]]:
    """Calls since the last reset by qualified name: `{"native": {"aten::mm": 3}, "fallback": {...}}`."""
    from .observe import stats as by_operator

    calls = by_operator()

    def named(kind: str) -> dict[str, int]:
        return {name if "::" in name else f"aten::{name}": c[kind] for name, c in calls.items() if c[kind]}

    return {"native": named("kernel"), "fallback": named("fallback")}

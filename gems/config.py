"""What this package can do and which operators it takes, under the names that FlagGems' users know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import _C

if TYPE_CHECKING:
    from .overrides import Names

has_c_extension: bool = True
"""There is no form of this package without the extension."""

use_c_extension: bool = True
"""Calls always go through the extension; setting it to False changes nothing."""

aten_patch_list: list[str] = sorted({entry["schema"].split("(")[0].split(".")[0] for entry in _C.entries()})
"""Base names of the aten operators that the extension has kernels for: "add", "add_", "mm"."""


def resolve_user_setting(setting: Names, kind: str) -> list[str]:
    """The names that a setting of `enable` or `use_gems` means.

    Parameters
    ----------
    setting : list of str, str, path or None
        Names, one name, or a YAML file with a list under the key `kind`; None means no names.
    kind : str
        "include" or "exclude".

    Raises
    ------
    ValueError
        When `kind` is neither, or a line of the file is not understood.
    OSError
        When the file cannot be read.
    """
    if kind not in ("include", "exclude"):
        raise ValueError(f"kind is 'include' or 'exclude', not {kind!r}")
    from .overrides import _read_names

    return _read_names(setting, kind)


def get_default_enable_config(vendor: str, arch: str | os.PathLike[str] | None = None) -> list[Path]:
    """YAML files with the operators that `enable` takes by default on a vendor's arch, the most particular first.

    None is needed: a case that a kernel does not cover runs ATen's kernel by itself, so the list is empty for every
    vendor that is known.

    Raises
    ------
    RuntimeError
        When the vendor is not known.
    """
    from .runtime import VENDORS

    if vendor not in VENDORS:
        raise RuntimeError(f"unknown vendor {vendor!r}; known are {', '.join(VENDORS)}")
    return []

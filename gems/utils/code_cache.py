"""Where compiled kernels are kept on disk."""

from __future__ import annotations

from pathlib import Path

from .. import _C


def cache_dir() -> Path:
    """The directory of the disk cache (FLAGGEMS_CACHE_DIR, else below XDG_CACHE_HOME, else below the home directory).

    Raises
    ------
    RuntimeError
        When it cannot be used: kernels are then kept in memory only, and a warning said why.
    """
    directory = _C.cache_directory()
    if directory is None:
        raise RuntimeError("no directory for compiled kernels can be used; FLAGGEMS_CACHE_DIR names another")
    return Path(directory)


def code_cache_dir() -> Path:
    """The same directory: compiled kernels are all there is in it."""
    return cache_dir()


def config_cache_dir() -> Path:
    """The same directory: no configuration is measured, so none is kept."""
    return cache_dir()


def clear_cache() -> None:
    """Removes all compiled kernels from the disk; what this process has loaded stays."""
    _C.cache_clear()

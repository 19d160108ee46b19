"""Log records of calls: Python's logging, one record a call.

The logger is `flag_gems.ops.<module>`, the level DEBUG, funcName the function, the message "GEMS <NAME>". The extension
tells of calls only while some logger below `flag_gems.ops` is enabled for DEBUG: setting a level anywhere is noticed.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from . import _C, observe

ROOT = "flag_gems.ops"
_CALL_SITES = (os.path.dirname(os.path.abspath(__file__)) + os.sep,)


class _Watched(dict[int, bool]):
    """The cache of a logger's levels. Python clears it whenever any level changes: then we look again."""

    def clear(self) -> None:
        super().clear()
        _look()


def _names(index: int) -> tuple[str, str, str]:
    """Module, function and message of an overload."""
    entry = _C.entry(index)
    function = min(entry["functions"], key=len) if entry["functions"] else entry["name"]
    base = entry["schema"].split("(")[0].split("::")[-1].split(".")[0]
    function = base if base in entry["functions"] else f"{base}_out" if entry["variant"] == "out" else function
    function = function.split("::")[-1]
    module = base.rstrip("_") or base
    return module, function, f"GEMS {function.upper()}"


_entries: dict[int, tuple[str, str, str]] = {}
_once: set[tuple[str, str, int]] | None = None
_listening = False


def _call_site() -> tuple[str, int]:
    """File and line of the user's call."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_CALL_SITES):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)


def _log(entry: int, status: int, reason: str | None, *unused: Any) -> None:
    if status != 0:
        return
    if entry not in _entries:
        _entries[entry] = _names(entry)
    module, function, message = _entries[entry]
    logger = logging.getLogger(f"{ROOT}.{module}")
    if not logger.isEnabledFor(logging.DEBUG):
        return
    file, line = _call_site()
    if _once is not None:
        if (function, file, line) in _once:
            return
        _once.add((function, file, line))
    logger.handle(logger.makeRecord(logger.name, logging.DEBUG, file, line, message, (), None, function))


def _look() -> None:
    """Listens to calls exactly while some logger of operators is enabled."""
    global _listening
    loggers = logging.Logger.manager.loggerDict
    names = [name for name in list(loggers) if name == ROOT or name.startswith(ROOT + ".")]
    wanted = any(
        isinstance(loggers.get(name), logging.Logger) and loggers[name].getEffectiveLevel() <= logging.DEBUG  # type: ignore[union-attr]
        for name in names
    )
    if wanted and not _listening:
        observe.listen(_log)
    elif _listening and not wanted:
        observe.unlisten(_log)
    _listening = wanted


def _watch() -> None:
    logging.getLogger(ROOT)._cache = _Watched()  # type: ignore[attr-defined]
    _look()


class Recording:
    """A file that records of calls go to, and the level that was set before."""

    def __init__(self, path: str | os.PathLike[str] | None, once: bool) -> None:
        self.path = Path(path) if path is not None else Path.home() / ".flaggems" / "oplist.log"
        self.once = once
        self.level = logging.NOTSET
        self.before: set[tuple[str, str, int]] | None = None
        self.handler: logging.Handler | None = None

    def start(self) -> None:
        global _once
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.handler = logging.FileHandler(self.path, mode="w")
        self.handler.setFormatter(logging.Formatter("[%(levelname)s] %(name)s.%(funcName)s: %(message)s"))
        logger = logging.getLogger(ROOT)
        self.level, self.before = logger.level, _once
        _once = set() if self.once else None
        logger.addHandler(self.handler)
        logger.setLevel(logging.DEBUG)

    def stop(self) -> None:
        global _once
        if self.handler is None:
            return
        logger = logging.getLogger(ROOT)
        logger.removeHandler(self.handler)
        self.handler.close()
        self.handler = None
        logger.setLevel(self.level)
        _once = self.before


def start(path: str | os.PathLike[str] | None, once: bool) -> Recording:
    """Opens a file of records."""
    recording = Recording(path, once)
    recording.start()
    return recording


def stop(recording: Recording) -> None:
    """Closes it and restores the level that was set before."""
    recording.stop()


_setup: list[Recording] = []


def setup_flaggems_logging(path: str | os.PathLike[str] | None = None, record: bool = True, once: bool = False) -> None:
    """Writes one line a call (once: one a call site) to a file.

    Parameters
    ----------
    path : path
        The file, overwritten; `~/.flaggems/oplist.log` when None.
    record : bool
        False: does nothing.
    once : bool
        One line a call site.
    """
    teardown_flaggems_logging()
    if record:
        _setup.append(start(path, once))


def teardown_flaggems_logging(*unused: Any) -> None:
    """Closes what `setup_flaggems_logging` opened."""
    while _setup:
        stop(_setup.pop())


_watch()

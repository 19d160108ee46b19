"""Puts operators behind `torch.*`, for a scope or for good.

Registration and use are two things. Registering replaces torch's kernel of an overload on the backend's dispatch key by
ours; each overload has a gate, and while that is closed ours passes every call on to ATen's kernel. Taking a
registration back while another thread calls the operator would crash torch, so scopes open and close gates, and
registrations are taken back only when no other Python thread is alive.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from . import _C
from .runtime import device

log = logging.getLogger("flag_gems")

Names = Iterable[str] | str | os.PathLike[str] | None

_lock = threading.RLock()


# ---- names ----


class _Table:
    """The table's overloads by all names that a user may mean one by."""

    def __init__(self) -> None:
        self.entries = _C.entries()
        self.by_name: dict[str, set[int]] = {}
        for entry in self.entries:
            for name in {entry["name"], "aten::" + entry["name"], *entry["functions"]}:
                self.by_name.setdefault(name, set()).add(entry["index"])

    def select(self, names: Iterable[str], where: str) -> set[int]:
        """The indexes of the overloads that names mean.

        Raises
        ------
        ValueError
            When a name means none.
        """
        names = list(names)
        unknown = [name for name in names if name not in self.by_name]
        if unknown:
            raise ValueError(f"{where}: no such operator: {', '.join(map(str, unknown))}")
        return set().union(*(self.by_name[name] for name in names))


_tables: list[_Table] = []


def _table() -> _Table:
    if not _tables:
        _tables.append(_Table())
    return _tables[0]


def _read_names(names: Names, key: str) -> list[str]:
    """Names from a list, from a single name, or from the list `key` of a YAML file."""
    if names is None:
        return []
    if isinstance(names, os.PathLike) or (isinstance(names, str) and names.endswith((".yaml", ".yml"))):
        return _read_yaml(Path(names), key)
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _read_yaml(path: Path, key: str) -> list[str]:
    """The list under a key of a YAML file; empty when the file has no such key.

    Raises
    ------
    ValueError
        When the file is no YAML, is no mapping, or has something else under the key than a list of names.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys such as '{key}:', found {type(content).__name__}")
    names = (content or {}).get(key)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{path}: expected a list of names under '{key}:'")
    return names or []


def _choose(include: Names, exclude: Names) -> set[int]:
    """The overloads of a scope: all, or those included, without those excluded or named in GEMS_DISABLE."""
    table = _table()
    chosen = {entry["index"] for entry in table.entries}
    if include is not None:
        chosen = table.select(_read_names(include, "include"), "include")
    chosen -= table.select(_read_names(exclude, "exclude"), "exclude")
    disabled = [name.strip() for name in os.environ.get("GEMS_DISABLE", "").split(",") if name.strip()]
    return chosen - table.select(disabled, "GEMS_DISABLE")


# ---- registration ----


def _schema_of_torch(name: str) -> str | None:
    base, _, overload = name.partition(".")
    try:
        return str(torch._C._get_schema("aten::" + base, overload))
    except RuntimeError:
        return None


def _without_types_of_ints(schema: str) -> str:
    """A schema's text as it is compared: spaces and the written form of defaults do not count."""
    text = schema.removeprefix("aten::").replace(" ", "").replace("SymInt", "int").replace('"', "'")
    return text.replace("(a)", "").replace("(b)", "").replace("(c)", "")


def _arguments_and_results(schema: str) -> str:
    """The text without the names that a schema gives its results."""
    head, _, tail = schema.rpartition("->")
    results = [part.split("Tensor")[0] + "Tensor" + ("[]" if "[]" in part else "") for part in tail.split(",")]
    return head + "->" + ",".join(results)


def why_not(name: str, schema: str, key: str) -> str | None:
    """Why an overload cannot be registered with this torch; None when it can.

    Parameters
    ----------
    name : str
        "add.Tensor"
    schema : str
        The table's text, without "aten::".
    key : str
        The dispatch key, "CPU" or "CUDA".
    """
    theirs = _schema_of_torch(name)
    if theirs is None:
        return "this torch has no such operator"
    ours, wanted = (_arguments_and_results(_without_types_of_ints(s)) for s in (schema, theirs))
    if _comparable(ours) != _comparable(wanted):
        return f"this torch's schema differs: {theirs}"
    qualified = "aten::" + name
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if has(qualified, "CompositeImplicitAutograd") and not has(qualified, "Autograd"):
        return "it is a composite operator: a kernel on a backend key would cut its gradient"
    return None


def shortened(name: str, schema: str) -> tuple[str, int]:
    """A schema without the last arguments that an older torch does not have, and how many arguments are left.

    Those are keyword arguments that are None when left out; a schema that differs otherwise stays as it is.
    """
    arguments, arrow, results = schema.rpartition(") -> ")
    head, _, arguments = arguments.partition("(")
    ours = arguments.split(", ")
    theirs = (_schema_of_torch(name) or "").rpartition(") -> ")[0].count(", ") + 1
    given = [argument for argument in ours if argument != "*"]
    if "*" in ours[:theirs] and theirs < len(ours) and all(part.endswith("=None") for part in ours[theirs:]):
        schema = f"{head}({', '.join(ours[:theirs])}{arrow}{results}"
        return schema, len(given) - len(ours) + theirs
    return schema, len(given)


def has_kernel(name: str, key: str) -> bool:
    """Whether torch itself runs an overload on a backend; where it does not, it is to go on saying so."""
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key("aten::" + name, key)


def _comparable(text: str) -> str:
    """Numbers as one form: 1. and 1.0, 1e-05 and 1e-5."""
    import re

    def number(match: re.Match[str]) -> str:
        return repr(float(match.group()))

    return re.sub(r"(?<=[=,\[])-?\d[\d.]*(?:e-?\d+)?", number, text)


class _Registrations:
    """Which overloads are registered with torch, and by which open libraries."""

    def __init__(self) -> None:
        self.key = device.dispatch_key
        self.refused: dict[int, str] = {}
        self.registered: set[int] = set()
        self.libraries: list[tuple[set[int], bool, Callable[[], None]]] = []
        self.prepared = False

    def hand_over(self) -> None:
        """Gives the extension what must be had before anything is registered.

        That is the key set that ATen's kernels are called with, and ATen's kernel that draws seeds.
        """
        key_set = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, self.key))
        kernel = torch._C._dispatch_get_computed_kernel_for_dispatch_key("aten::random_", torch._C.DispatchKey.CPU)
        _C.set_hooks(keyset=key_set, random_kernel=kernel.call_boxed)
        _C.set_default_dtype(torch.get_default_dtype())

    def prepare(self) -> None:
        """Lets torch give the warning it has for the first override in a process, which comes from C++, in silence."""
        if self.prepared:
            return
        self.prepared = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = torch._C._dispatch_library("IMPL", "aten", self.key, __file__, 1)
            library.impl("_cummax_helper", getattr(torch._C.DispatchKey, self.key), max, False)
            library.reset()

    def usable(self, entries: Iterable[int]) -> list[int]:
        """Those that this torch can have registered; the others are logged once."""
        table = _table()
        good = []
        for index in sorted(entries):
            if index not in self.refused:
                entry = table.entries[index]
                schema, count = shortened(entry["name"], entry["schema"])
                reason = why_not(entry["name"], schema, self.key)
                if reason is None and schema != entry["schema"] and not _C.shorten(index, count):
                    reason = "this torch's schema has fewer arguments"
                # functional ones may stand in where torch has none: gradients of our own forward kernels
                if reason is None and entry["variant"] == "out" and not has_kernel(entry["name"], self.key):
                    reason = "torch has no kernel of it on this backend"
                self.refused[index] = reason or ""
                if reason:
                    log.info("aten::%s is not registered: %s", entry["name"], reason)
            if not self.refused[index]:
                good.append(index)
        return good

    def register(self, entries: Iterable[int], keep: bool) -> None:
        """Registers what is not registered yet; keep: it is never taken back."""
        wanted = self.usable(set(entries))
        new = [index for index in wanted if index not in self.registered]
        if keep:
            self.libraries = [
                (owned, kept or bool(owned.intersection(wanted)), close) for owned, kept, close in self.libraries
            ]
        if not new:
            return
        self.prepare()
        names = _table().entries
        kernel = torch._C._dispatch_get_computed_kernel_for_dispatch_key
        key = getattr(torch._C.DispatchKey, self.key)
        for index in new:
            try:
                _C.set_kernel(index, kernel("aten::" + names[index]["name"], key).call_boxed)
            except RuntimeError:  # torch has none of its own on this key, so that ours runs whatever the gates say:
                _C.set_kernel(index, None)  # autograd calls it for a forward that ran while it was registered
        by_shim = [index for index in new if _C.shim_carries(index)]
        by_library = [index for index in new if not _C.shim_carries(index)]
        self._register_library(by_library, key, keep)
        self._register_shim(by_shim, keep)
        self.registered.update(new)

    def _register_library(self, entries: list[int], key: Any, keep: bool) -> None:
        if not entries:
            return
        library = torch._C._dispatch_library("IMPL", "aten", self.key, __file__, 1)
        for index in entries:
            library.impl(_table().entries[index]["name"], key, _C.library_function(index), False)
        self.libraries.append((set(entries), keep, library.reset))

    def _register_shim(self, entries: list[int], keep: bool) -> None:
        if not entries:
            return
        library = _C.register_shim(self.key, entries)
        self.libraries.append((set(entries), keep, lambda: _C.close_shim(library)))

    def take_back(self) -> None:
        """Takes back what is not to be kept, when nobody else can be calling it."""
        if threading.active_count() > 1:
            return
        for owned, kept, close in reversed(self.libraries):
            if not kept:
                close()
                self.registered -= owned
        self.libraries = [item for item in self.libraries if item[1]]


_registrations = _Registrations()
_registrations.hand_over()


def register_for_good(entries: list[int]) -> None:
    """Called by explicit functions whose call goes through torch's dispatcher."""
    with _lock:
        _registrations.register(entries, keep=True)


_C.set_hooks(register_entries=register_for_good)


# ---- scopes ----


class _Scope:
    """A set of open overloads. The innermost scope that is alive decides."""

    def __init__(self, entries: set[int], record: bool, once: bool, path: str | os.PathLike[str] | None) -> None:
        self.entries = entries
        self.record, self.once, self.path = record, once, path
        self.logging: Any = None


_scopes: list[_Scope] = []


def _apply() -> None:
    open_entries = _scopes[-1].entries if _scopes else set()
    _C.set_gates(bytes(index in open_entries for index in range(len(_table().entries))))


def _enter(scope: _Scope, keep: bool) -> None:
    with _lock:
        _registrations.register(scope.entries, keep)
        scope.entries = scope.entries & _registrations.registered
        _scopes.append(scope)
        _apply()
        if scope.record:
            from . import logging_utils

            scope.logging = logging_utils.start(scope.path, scope.once)


def _leave(scope: _Scope) -> None:
    with _lock:
        if scope not in _scopes:
            return
        _scopes.remove(scope)
        _apply()
        if scope.logging is not None:
            from . import logging_utils

            logging_utils.stop(scope.logging)
        if not _scopes:
            _registrations.take_back()


_enabled: list[_Scope] = []


def _enable(scope: _Scope) -> None:
    with _lock:
        for old in list(_enabled):
            _leave_enabled(old)
        _enter(scope, keep=True)
        _enabled.append(scope)


def _leave_enabled(scope: _Scope) -> None:
    _enabled.remove(scope)
    _leave(scope)


def _both(first: Names, second: Names) -> Names:
    """Two lists of names as one."""
    if first is None or second is None:
        return second if first is None else first
    return [*_read_names(first, "exclude"), *_read_names(second, "exclude")]


def enable(
    lib: Any = None,
    unused: Names = None,
    registrar: Any = None,
    record: bool = False,
    once: bool = False,
    path: str | os.PathLike[str] | None = None,
    *,
    include: Names = None,
    exclude: Names = None,
) -> None:
    """Puts all operators behind `torch.*`, until `disable`.

    Parameters
    ----------
    lib, registrar
        Accepted for compatibility; not used.
    unused, exclude : list of str, str or path
        Function names ("mm") or aten names ("mm.out") to leave out, or a YAML file with a list `exclude:`.
    record, once, path
        Log every call, or one a call site, to a file (logging_utils).
    include : list of str, str or path
        Only these.

    Raises
    ------
    ValueError
        When a name is not known.
    """
    _enable(_Scope(_choose(include, _both(unused, exclude)), record, once, path))


def only_enable(
    lib: Any = None,
    include: Names = None,
    registrar: Any = None,
    record: bool = False,
    once: bool = False,
    path: str | os.PathLike[str] | None = None,
) -> None:
    """Puts only the operators in `include` (names, or a YAML file with a list `include:`) behind `torch.*`.

    Raises
    ------
    ValueError
        When a name is not known.
    """
    _enable(_Scope(_choose([] if include is None else include, None), record, once, path))


def disable() -> None:
    """Undoes `enable` and `only_enable`."""
    with _lock:
        for scope in list(_enabled):
            _leave_enabled(scope)


class use_gems:
    """A scope in which `torch.*` runs these kernels. Scopes nest: the innermost decides; leaving restores what was.

    Parameters
    ----------
    exclude, unused : list of str, str or path
        Names to leave out, or a YAML file with a list `exclude:`.
    include : list of str, str or path
        Only these, or a YAML file with a list `include:`.
    record, once, path
        Log every call, or one a call site, to a file (logging_utils).

    Raises
    ------
    ValueError
        On entering, when a name is not known.
    """

    def __init__(
        self,
        exclude: Names = None,
        include: Names = None,
        record: bool = False,
        once: bool = False,
        path: str | os.PathLike[str] | None = None,
        *,
        unused: Names = None,
    ) -> None:
        self._arguments = (include, _both(exclude, unused))
        self._record = (record, once, path)
        self._active: list[_Scope] = []

    def __enter__(self) -> use_gems:
        scope = _Scope(_choose(*self._arguments), *self._record)
        _enter(scope, keep=False)
        self._active.append(scope)
        return self

    def __exit__(self, *exception: object) -> None:
        _leave(self._active.pop())


# ---- lists ----


def _active_entries() -> list[dict[str, Any]]:
    """Overloads whose gate is open; without a scope those that `enable()` would open."""
    with _lock:
        table = _table()
        chosen = _scopes[-1].entries if _scopes else set(_registrations.usable(_choose(None, None)))
        return [table.entries[index] for index in sorted(chosen)]


def all_ops() -> list[str]:
    """Aten names that are registered, or would be by `enable()`: "add.Tensor"."""
    return [entry["name"] for entry in _active_entries()]


def all_registered_keys() -> list[str]:
    """The same as `all_ops`."""
    return all_ops()


def all_registered_ops() -> list[str]:
    """Names of the functions behind them: "add"."""
    return sorted({name for entry in _active_entries() for name in entry["functions"]})


class _Registrar:
    """The registrar of the program, under the names that FlagGems' users know."""

    def get_all_keys(self) -> list[str]:
        return all_registered_keys()

    def get_all_ops(self) -> list[str]:
        return all_registered_ops()


current_work_registrar = _Registrar()

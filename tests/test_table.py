"""The operator table against torch: what it names exists, is said once, and loses no gradient."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import _C, overrides

from opinfo import of_this_torch

ROWS: list[dict[str, Any]] = _C.rows()
ENTRIES: list[dict[str, Any]] = [entry for entry in _C.entries() if of_this_torch(entry)]


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)


def test_identifiers_and_overloads_are_said_once() -> None:
    for names in ([row["id"] for row in ROWS], [entry["name"] for entry in ENTRIES]):
        assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_every_overload_is_torchs_own(entry: dict[str, Any]) -> None:
    """torch.library takes a name without its overload and never calls it: the schema must be the very one."""
    assert overrides.why_not(entry["name"], entry["schema"], flag_gems.runtime.device.dispatch_key) is None
    base, _, overload = entry["name"].partition(".")
    assert (overload or "default") in getattr(torch.ops.aten, base).overloads()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_no_composite_operator_on_a_backend_key(entry: dict[str, Any]) -> None:
    composite = has_kernel(entry["name"], "CompositeImplicitAutograd")
    assert not composite or has_kernel(entry["name"], "Autograd")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_formula_is_there_where_the_row_says_so(row: dict[str, Any]) -> None:
    if row["gradient"] == "formula":
        assert has_kernel(row["entries"][0]["name"], "Autograd")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_variants_write_what_they_say(row: dict[str, Any]) -> None:
    for entry in filter(of_this_torch, row["entries"]):
        written = [argument for argument in schema_of(entry["name"]).arguments if argument.is_write]
        if entry["variant"] == "functional":
            assert not written
        elif entry["variant"] == "inplace":
            assert [argument.name for argument in written] == [schema_of(entry["name"]).arguments[0].name]
        else:
            assert written and all(argument.is_out for argument in written)
        assert entry["functions"], "no explicit function reaches it"


def schema_of(name: str) -> Any:
    base, _, overload = name.partition(".")
    return torch._C._get_schema(f"aten::{base}", overload)


def test_every_function_is_there_and_has_a_text() -> None:
    for entry in ENTRIES:
        for name in entry["functions"]:
            function = getattr(flag_gems.ops, name)
            assert getattr(flag_gems, name) is function
            assert function.__name__ == name and f"aten::{entry['schema']}" in function.__doc__
            composite = inspect.isfunction(function)  # a name of a composite operator too, whose function is Python's
            assert composite or function.__text_signature__.startswith("(")


def test_dtypes_and_words_are_known() -> None:
    for row in ROWS:
        assert row["dtypes"], row["id"]
        assert all(isinstance(getattr(torch, dtype), torch.dtype) for dtype in row["dtypes"])
        assert row["doc"], row["id"]

"""docs/promises.md tells the truth: thirty promises, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = re.findall(r"^\| (\d+) \|(.*)$", (ROOT / "docs" / "promises.md").read_text(), re.MULTILINE)
NAMED = sorted({name for _, row in ROWS for name in re.findall(r"`(test_\w+\.py::\w+)`", row)})


def test_all_thirty_are_there() -> None:
    assert sorted(int(number) for number, _ in ROWS) == list(range(1, 31))


def test_each_names_a_test_or_says_that_it_is_not_kept() -> None:
    silent = [number for number, row in ROWS if "::" not in row and "Not kept yet" not in row]
    assert not silent


@pytest.mark.parametrize("name", NAMED)
def test_named_test_exists(name: str) -> None:
    file, function = name.split("::")
    assert re.search(rf"^def {function}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), name


def test_named_files_exist() -> None:
    text = "".join(row for _, row in ROWS)
    named = set(re.findall(r"`((?:csrc|benchmarks|docs)/[\w/.]+)`", text))
    assert named and all((ROOT / name).is_file() for name in named), named

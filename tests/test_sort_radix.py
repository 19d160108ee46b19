"""The radix sort of long rows where every thread of a block exists: tiles that wait for each other, passes left out."""

from __future__ import annotations

import pytest

from cpu_modes import run_in_mode

# Rows of several tiles, of small and of large ones; digits that all elements share; all elements the same.
SORTS = """
import flag_gems, torch
from test_sort import check
from sorting import values

with flag_gems.use_gems():
    for dtype, shape, kind, descending in (
        (torch.float32, (1, 5000), "special", False),
        (torch.float32, (20000,), "ties", True),
        (torch.bfloat16, (1, 20000), "special", True),
        (torch.int64, (2, 10000), "plain", False),
        (torch.float64, (5000,), "special", True),
        (torch.uint8, (3, 8192), "plain", False),
        (torch.int32, (5000,), "constant", False),
        (torch.bool, (9000,), "ties", True),
    ):
        check(values(shape, dtype, kind, "cpu"), -1, descending)
    check(values((5000, 2), torch.int16, "plain", "cpu").t().contiguous().t(), 0, False)
"""

PAIRS = """
import flag_gems, torch

generator = torch.Generator().manual_seed(3)
with flag_gems.use_gems():
    for n, rows in ((9000, 70000), (5000, 300), (4100, 7)):
        at = torch.randint(rows, (n,), generator=generator)
        source = torch.randint(-9, 9, (n, 2), generator=generator).float()
        ours = torch.zeros(rows, 2).index_add_(0, at, source)
        with flag_gems.use_gems(include=[]):
            assert torch.equal(ours, torch.zeros(rows, 2).index_add_(0, at, source))
        weights = source[:, 0].double()
        sums = torch.zeros(rows).double().index_add_(0, at, weights)
        assert torch.equal(torch.bincount(at, weights), sums[: at.max() + 1])
    assert torch.equal(torch.randperm(9000).sort().values, torch.arange(9000))
"""


@pytest.mark.parametrize("program", [SORTS, PAIRS], ids=["sort", "pairs"])
@pytest.mark.parametrize(
    ("mode", "order"),
    [("checked", "forward"), *(pytest.param("faithful", o, marks=pytest.mark.slow) for o in ("reverse", "random:5"))],
)
def test_tiles_that_wait(mode: str, order: str, program: str) -> None:
    run_in_mode(mode, order, "-c", program)

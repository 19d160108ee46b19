"""scatter along a dim whose lines fit shared memory, where every thread of a block exists: in order, and all of it."""

from __future__ import annotations

import pytest

from cpu_modes import run_in_mode

# Lines one by one and side by side, more places than a chunk, fewer lines than self has; places that all go to two.
PROGRAM = """
import warnings

import flag_gems, torch

warnings.simplefilter("ignore")
generator = torch.Generator().manual_seed(1)


def check(dtype, shape, index_shape, dim, hot):
    x = torch.randint(-9, 9, shape, generator=generator).to(dtype)
    at = torch.randint(2 if hot else shape[dim], index_shape, generator=generator)
    src = torch.randint(-9, 9, index_shape, generator=generator).to(dtype)
    calls = {
        "scatter.src": lambda: torch.scatter(x, dim, at, src),
        "scatter.value": lambda: torch.scatter(x, dim, at, 3),
        "scatter_add": lambda: torch.scatter_add(x, dim, at, src),
        "scatter.reduce": lambda: torch.scatter(x, dim, at, src, reduce="add"),
    }
    for include in (True, False):
        for word in ("sum", "amax", "mean"):
            calls[f"scatter_reduce.two {word} {include}"] = lambda w=word, i=include: torch.scatter_reduce(
                x, dim, at, src, w, include_self=i
            )
    for name, call in calls.items():
        before = flag_gems.stats().get(name.split()[0], {"kernel": 0})["kernel"]
        ours = call()
        assert flag_gems.stats()[name.split()[0]]["kernel"] == before + 1, name
        with flag_gems.use_gems(include=[]):
            assert torch.equal(ours, call()), (name, dtype, shape, dim, hot)


with flag_gems.use_gems():
    for hot in (False, True):
        check(torch.float32, (4, 300), (3, 130), 1, hot)
        check(torch.float32, (60, 70), (60, 70), 0, hot)
        check(torch.int64, (2, 64, 40), (2, 70, 33), 1, hot)
    check(torch.bfloat16, (2, 1500), (2, 5000), -1, False)
    x = torch.zeros(2, 100)
    try:
        torch.scatter_add(x, 1, torch.full((2, 50), 100), torch.ones(2, 50))
    except (RuntimeError, IndexError):
        pass
    else:
        raise AssertionError("an index out of range")
"""


@pytest.mark.parametrize(
    ("mode", "order"),
    [("checked", "forward"), *(pytest.param("faithful", o, marks=pytest.mark.slow) for o in ("reverse", "random:5"))],
)
def test_lines_in_shared_memory(mode: str, order: str) -> None:
    run_in_mode(mode, order, "-c", PROGRAM)

"""How often our kernels run on torch's own samples: rows that move, make or compute elements leave few to ATen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import flag_gems
import pytest
import torch

from compare import outcome, tensors
from opinfo import infos_of, rows, samples

pytestmark = pytest.mark.usefixtures("registered")

FAMILIES = ("elementwise", "copy", "index_map", "factory", "random")
DTYPES = [
    torch.float32,
    pytest.param(torch.bfloat16, marks=pytest.mark.slow),
    pytest.param(torch.int64, marks=pytest.mark.slow),
]
# A GPU cannot look at numbers that lie on it (ends of a range, probabilities), and some samples name a device.
SHARE = 0.95 if flag_gems.device == "cpu" else 0.7


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nearly_all_calls_run_in_kernels(family: str, dtype: torch.dtype) -> None:
    """Of the calls of a family's overloads that the samples of its rows make."""
    own = [row for row in rows() if row["family"] == family]
    names = {entry["name"] for row in own for entry in row["entries"]}
    entries = {entry["index"]: entry["name"] for row in own for entry in row["entries"]}
    declined: Counter[tuple[str, str | None]] = Counter()

    def see(entry: int, status: int, reason: str | None, *_: Any) -> None:
        if status == 1 and entry in entries:
            declined[entries[entry], reason] += 1

    infos = {
        id(info): info for row in own for info in infos_of(row) if dtype in info.supported_dtypes(flag_gems.device)
    }
    flag_gems.reset_stats()
    flag_gems.observe.listen(see)
    try:
        for info in infos.values():
            for sample in samples(info, flag_gems.device, dtype, False, 6):
                if any(t.numel() == 0 for t in tensors((sample.input, sample.args))):
                    continue  # nothing to compute
                with flag_gems.use_gems():
                    outcome(lambda i=info, s=sample: i.op(s.input, *s.args, **s.kwargs))
    finally:
        flag_gems.observe.unlisten(see)
    counts = [count for name, count in flag_gems.stats().items() if name in names]
    ran, passed_on = (sum(count[kind] for count in counts) for kind in ("kernel", "fallback"))
    assert ran + passed_on, "no sample reaches the family"
    share = ran / (ran + passed_on)
    print(
        f"{family} {dtype}: {ran} of {ran + passed_on} calls in kernels ({100 * share:.1f}%)",
        *declined.items(),
        sep="\n  ",
    )
    assert share >= SHARE, declined.most_common(12)

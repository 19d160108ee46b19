"""How far running sums are from float64, beside ATen's: the largest and the mean square error, in units of the result.

python benchmarks/accuracy_scan.py [elements ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import flag_gems
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


def error_of(result: Tensor, exact: Tensor) -> tuple[float, float]:
    """Largest and mean square error, each relative to the largest exact value."""
    off = (result.double() - exact) / exact.abs().max()
    return off.abs().max().item(), off.square().mean().sqrt().item()


def scan_errors(sizes: Iterable[int]) -> Iterator[tuple[str, tuple[float, float], tuple[float, float]]]:
    """What was added, our error, ATen's error; for each size, dtype and kind of numbers."""
    for n in sizes:
        for dtype in DTYPES:
            for make in (torch.randn, torch.rand):
                torch.manual_seed(0)
                x = make(n, device=flag_gems.device).to(dtype)
                exact = x.double().cumsum(0)
                ours, theirs = flag_gems.ops.cumsum(x, 0), torch.cumsum(x, 0)
                yield f"{n} {make.__name__} {str(dtype)[6:]}", error_of(ours, exact), error_of(theirs, exact)


def main() -> None:
    sizes = [int(n) for n in sys.argv[1:]] or [1 << 10, 1 << 16, 1 << 20, 1 << 24]
    print(f"{'cumsum of':<26}{'ours: largest, rms':>24}{'ATen: largest, rms':>24}")
    for what, ours, theirs in scan_errors(sizes):
        print(f"{what:<26}{ours[0]:>12.2e}{ours[1]:>12.2e}{theirs[0]:>12.2e}{theirs[1]:>12.2e}")


if __name__ == "__main__":
    main()

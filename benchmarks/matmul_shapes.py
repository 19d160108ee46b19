"""Matrix products of 16-bit floats beside ATen's, shape by shape: squares, layers, decoding, batches, layouts.

    python benchmarks/matmul_shapes.py            # all
    python benchmarks/matmul_shapes.py square decode

A ratio above 1 means that ours is faster. Operands of a shape are taken in turn from copies that together
exceed the second-level cache, so that decoding reads its weights from memory. Calls are timed as graphs:
what the host does is not in the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import flag_gems
import torch
from flag_gems import ops
from flag_gems.bench import harness
from torch import Tensor

# Rows, columns, depth, layouts of A and B: n, rows contiguous; t, transposed.
GROUPS: dict[str, list[tuple[int, int, int, str]]] = {
    "square": [(n, n, n, both) for n in (1024, 2048, 4096, 8192) for both in ("nn", "nt", "tn", "tt")],
    "layers": [
        (m, n, k, "nt")
        for m in (128, 256, 512, 2048, 8192)
        for n, k in ((4096, 4096), (14336, 4096), (4096, 14336), (6144, 4096))
    ],
    "decode": [
        (m, n, k, both)
        for m in (1, 8, 16, 32, 64)
        for n, k in ((4096, 4096), (14336, 4096), (4096, 14336), (1024, 8192), (128256, 4096))
        for both in ("nt", "nn")
    ],
    "odd": [(4095, 4096, 4096, "nt"), (4096, 4104, 4104, "nn"), (1000, 1000, 1000, "nt"), (4096, 4100, 4096, "nt")],
}
BATCHES = [(32, 512, 512, 512), (64, 1024, 1024, 64), (64, 1024, 64, 1024), (8, 2048, 2048, 2048), (256, 128, 128, 128)]
ADDED = [(16, 4096, 4096), (2048, 4096, 4096), (8192, 4096, 4096)]
CACHE = 128 << 20
Operator = Callable[..., Tensor]


def randn(*size: int, layout: str = "n", dtype: torch.dtype = torch.bfloat16) -> Tensor:
    if layout == "t":
        return torch.randn(*size[:-2], size[-1], size[-2], device=flag_gems.device).to(dtype).mT
    return torch.randn(*size, device=flag_gems.device).to(dtype)


def milliseconds(operator: Operator, sets: list[tuple[Tensor, ...]]) -> float:
    """The median of some rounds, each a graph of one call or more with each set of operands."""
    for operands in sets:
        operator(*operands)
    torch.cuda.synchronize()
    repeat = max(1, 20 // len(sets))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for operands in sets * repeat:
            operator(*operands)
    graph.replay()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(5):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2] / (repeat * len(sets))


def compare(name: str, operator: str, sets: list[tuple[Tensor, ...]], flops: float) -> None:
    aten, ours = getattr(torch, operator), getattr(ops, operator)
    expected = aten(*sets[0]).float()
    flag_gems.reset_stats()
    result = ours(*sets[0]).float()
    taken = flag_gems.stats().get(operator, {}).get("kernel", 0)
    off = (expected - result).abs().max().item() / expected.abs().max().item()
    rounds = [(milliseconds(aten, sets), milliseconds(ours, sets)) for _ in range(2)]
    theirs, mine = (min(pair[i] for pair in rounds) for i in range(2))
    moved = sum(t.numel() * t.element_size() for t in sets[0]) + expected.numel() * 2
    print(
        f"{name:40} ATen {theirs * 1e3:9.1f} us  ours {mine * 1e3:9.1f} us  ratio {theirs / mine:5.2f}"
        f"  {flops / mine / 1e9:6.1f} TFLOPS {moved / mine / 1e6:6.0f} GB/s  off {off:.1e}"
        f"{'' if taken else '  (ATen ran)'}{'' if off < 0.02 else '  WRONG'}",
        flush=True,
    )


def cases(group: str, dtype: torch.dtype) -> Iterator[tuple[str, str, list[tuple[Tensor, ...]], float]]:
    """Name, operator, sets of operands and operations of each case of a group."""
    short = str(dtype).removeprefix("torch.")
    for m, n, k, both in GROUPS.get(group, []):
        count = max(1, min(8, CACHE // (2 * (m * k + k * n + m * n)) + 1))
        sets = [
            (randn(m, k, layout=both[0], dtype=dtype), randn(k, n, layout=both[1], dtype=dtype)) for _ in range(count)
        ]
        yield f"mm {short} {m}x{n}x{k} {both}", "mm", sets, 2.0 * m * n * k
    for batch, m, n, k in BATCHES if group == "batches" else []:
        operands = (randn(batch, m, k, dtype=dtype), randn(batch, k, n, dtype=dtype))
        yield f"bmm {short} {batch}x{m}x{n}x{k}", "bmm", [operands], 2.0 * batch * m * n * k
    for m, n, k in ADDED if group == "addmm" else []:
        a, b = randn(m, k, dtype=dtype), randn(k, n, layout="t", dtype=dtype)
        for c in (randn(n, dtype=dtype), randn(m, n, dtype=dtype)):
            yield f"addmm {short} {m}x{n}x{k} C {tuple(c.shape)}", "addmm", [(c, a, b)], 2.0 * m * n * k


def main() -> None:
    wanted = sys.argv[1:] or [*GROUPS, "batches", "addmm"]
    print(harness.chip(flag_gems.device))
    for dtype in (torch.bfloat16, torch.float16):
        for group in wanted if dtype == torch.bfloat16 else [name for name in wanted if name == "square"]:
            for case in cases(group, dtype):
                compare(*case)


if __name__ == "__main__":
    main()

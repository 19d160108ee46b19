"""Attention of 16-bit floats beside torch's own kernels, shape by shape, forward and the gradients alone.

    python benchmarks/attention_shapes.py                     # all
    python benchmarks/attention_shapes.py long packed
    python benchmarks/attention_shapes.py gradients

`flash` and `cudnn` are torch's kernels of those names; ours stands behind the first, as
`aten::_flash_attention_forward` and `aten::_flash_attention_backward`. A ratio above 1 means that ours is faster.
Calls are timed as graphs: what the host does is not in the figures.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flag_gems
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

# Batch, heads, queries, keys, head dimension.
GROUPS: dict[str, list[tuple[int, int, int, int, int]]] = {
    "long": [(4, 16, n, n, d) for d in (64, 128, 256) for n in (1024, 2048, 4096, 16384)],
    "few": [
        (1, 8, 64, 64, 128),
        (1, 8, 256, 256, 64),
        (1, 32, 128, 128, 128),
        (2, 12, 197, 197, 64),
        (64, 16, 64, 64, 64),
        (1, 8, 64, 1024, 128),
        (1, 8, 512, 512, 64),
        (1, 16, 1024, 1024, 64),
        (1, 8, 2048, 2048, 256),
        (1, 32, 512, 8192, 128),
    ],
    "heads": [(4, 16, 2048, 2048, d) for d in (8, 32, 40, 80, 96, 160, 192)],
}
GRADIENTS = [(1, 8, 512, 512, 64), (1, 8, 1024, 1024, 128), (2, 12, 197, 197, 64), (4, 16, 2048, 2048, 96)]
GRADIENTS += [(16384 // n, 2048 // d, n, n, d) for n in (256, 512, 1024, 2048, 4096, 16384) for d in (64, 128)]
LENGTHS = [300, 70, 1000, 128, 2000, 4000, 512, 90]


def microseconds(call: Callable[[], Any]) -> float:
    """The median of some rounds, each a graph of some calls."""
    call()
    torch.cuda.synchronize()
    graph, repeat = torch.cuda.CUDAGraph(), 4
    with torch.cuda.graph(graph):
        for _ in range(repeat):
            call()
    graph.replay()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(3):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[1] / repeat * 1e3


Made = Tensor | tuple[Tensor, ...]


def compare(name: str, calls: dict[SDPBackend, Callable[[], Made]], row: str, flops: float) -> None:
    """Torch's kernels, each by its call, and ours behind the flash kernel's, in `row`."""
    times = {}
    for kernel, call in calls.items():
        try:
            with sdpa_kernel(kernel):
                times[kernel.name.lower().removesuffix("_attention")] = microseconds(call)
        except RuntimeError:  # torch has it not for this case
            pass
    call = calls[SDPBackend.FLASH_ATTENTION]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        expected = tree_leaves(call())
        flag_gems.reset_stats()
        with flag_gems.use_gems():
            found = tree_leaves(call())
            mine = microseconds(call)
        taken = flag_gems.stats().get(row, {}).get("kernel", 0)
    off = max((a.float() - b.float()).abs().max().item() for a, b in zip(found, expected, strict=True))
    beside = "".join(f"  {other} {time:8.1f} us ratio {time / mine:5.2f}" for other, time in times.items())
    print(
        f"{name:38} ours {mine:8.1f} us {flops / mine / 1e6:5.0f} TFLOPS{beside}  off {off:.1e}"
        f"{'' if taken else '  (ATen ran)'}",
        flush=True,
    )


def gradients_of(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> dict[SDPBackend, Callable[[], Made]]:
    """The backward operators, of a forward pass that torch's kernels have made."""
    aten, calls, grad = torch.ops.aten, {}, torch.randn_like(q)
    *flash, _ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)
    args = (grad, q, k, v, *flash[:6], 0.0, causal, *flash[6:])
    calls[SDPBackend.FLASH_ATTENTION] = lambda: aten._scaled_dot_product_flash_attention_backward(*args)
    try:
        cudnn = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal)
        beside = (grad, q, k, v, *cudnn[:2], *cudnn[6:8], None, *cudnn[2:6], 0.0, causal)
        calls[SDPBackend.CUDNN_ATTENTION] = lambda: aten._scaled_dot_product_cudnn_attention_backward(*beside)
    except RuntimeError:  # torch has it not for this case
        pass
    return calls


Case = tuple[str, dict[SDPBackend, Callable[[], Made]], str, float]


def cases(group: str, dtype: torch.dtype) -> Iterator[Case]:
    def randn(*size: int) -> Tensor:
        return torch.randn(*size, device=flag_gems.device).to(dtype)

    if group == "packed":
        starts = torch.tensor([0, *itertools.accumulate(LENGTHS)], device=flag_gems.device, dtype=torch.int32)
        q, most = randn(sum(LENGTHS), 16, 128), max(LENGTHS)
        for causal in (False, True):
            flops = sum(4 * n * n * 16 * 128 / (1 + causal) for n in LENGTHS)

            def packed(causal: bool = causal) -> Tensor:
                args = (starts, starts, most, most, 0.0, causal, False)
                return torch.ops.aten._flash_attention_forward(q, q, q, *args)[0]

            calls = {SDPBackend.FLASH_ATTENTION: packed}
            yield f"packed {len(LENGTHS)}{' causal' if causal else ''}", calls, "_flash_attention_forward", flops
        return
    back = group == "gradients"
    for batch, heads, queries, keys, dim in GRADIENTS if back else GROUPS[group]:
        q, k, v = (randn(batch, heads, n, dim) for n in (queries, keys, keys))
        for causal in (False, True) if queries == keys else (False,):
            name = f"{batch}x{heads}x{queries}x{keys} d={dim}{' causal' if causal else ''}"
            flops = (10 if back else 4) * batch * heads * queries * keys * dim / (1 + causal)
            if back:
                yield name + " gradients", gradients_of(q, k, v, causal), "_flash_attention_backward", flops
                continue

            def forward(q: Tensor = q, k: Tensor = k, v: Tensor = v, causal: bool = causal) -> Tensor:
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

            calls = dict.fromkeys((SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION), forward)
            yield name, calls, "_flash_attention_forward", flops


@torch.no_grad()
def main() -> None:
    dtype = torch.bfloat16
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {str(dtype)[6:]}: attention")
    for group in sys.argv[1:] or [*GROUPS, "packed", "gradients"]:
        for case in cases(group, dtype):
            compare(*case)


if __name__ == "__main__":
    main()

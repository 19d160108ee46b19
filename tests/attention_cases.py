"""Attention in plain torch and float64; as a program, small cases in the cpu mode that the environment names."""

from __future__ import annotations

import sys
from typing import Any

import flag_gems
import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DEVICE = flag_gems.device


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, causal: bool = False, scale: Any = None) -> Any:
    """softmax(scale Q K^T + mask) V in float64, rows without a key 0; and the logsumexp."""
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    s = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        s = s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1), -torch.inf)
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask.double()
    lse = s.logsumexp(-1)
    weights = (s - torch.where(lse.isinf(), 0, lse)[..., None]).exp()
    return weights @ v, lse


def of_sequence(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: Any, cap: float, slopes: Any, scale: Any = None
) -> Any:
    """The same of one packed sequence [length, heads, dim], with the last query at the last key."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    s = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap:
        s = cap * torch.tanh(s / cap)
    queries, keys = q.shape[0], k.shape[0]
    place = torch.arange(queries, device=q.device)[:, None] + keys - queries
    away = torch.arange(keys, device=q.device)[None] - place
    if slopes is not None:
        s = s - slopes.double()[:, None, None] * away.abs()
    left, right = window[0], 0 if causal else window[1]
    if right >= 0:
        s = s.masked_fill(away > right, -torch.inf)
    if left >= 0:
        s = s.masked_fill(away < -left, -torch.inf)
    lse = s.logsumexp(-1)
    weights = (s - torch.where(lse.isinf(), 0, lse)[..., None]).exp()
    return torch.einsum("hqk,khd->qhd", weights, v), torch.where(lse == -torch.inf, torch.inf, lse)


def close(result: Tensor, exact: Tensor, slack: float = 1.0) -> None:
    """Within the tolerance of the result's dtype; infinities are the same."""
    assert result.shape == exact.shape
    tolerance = TOLERANCE[result.dtype] * slack
    torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=tolerance)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def operands(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, dim: int, dim_v: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """A query that lies as [batch, length, heads, dim], key and value as [batch, heads, length, dim]."""
    q = draw(batch, queries, heads, dim, dtype=dtype).transpose(1, 2)
    return (
        q,
        draw(batch, kv_heads, keys, dim, dtype=dtype, seed=1),
        draw(batch, kv_heads, keys, dim_v, dtype=dtype, seed=2),
    )


def mask_of(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    if kind == "bool":
        mask = draw(*shape, seed=5) > -0.5
        mask[..., 0, :] = shape[-2] == 1  # a row that sees nothing
        return mask
    return draw(*shape, dtype=dtype, seed=5) if kind == "added" else None


def check(sizes: tuple[int, ...], dtype: torch.dtype, kind: str, backward: bool) -> None:
    """Result, logsumexp and gradients of one case."""
    q, k, v = operands(*sizes, dtype)
    mask = mask_of(kind, (sizes[1], sizes[3], sizes[4]), dtype)
    options = {"attn_mask": mask, "is_causal": kind == "causal", "enable_gqa": True}
    out, lse = flag_gems.scaled_dot_product_attention_forward(q, k, v, **options)
    exact, logs = reference(q, k, v, mask, kind == "causal")
    close(out, exact)
    close(lse, logs, 1 if dtype == torch.float64 else 20)
    assert out.stride() == (sizes[1] * sizes[3] * sizes[6], sizes[6], sizes[1] * sizes[6], 1) or min(sizes[1:4:2]) == 1
    if not backward:
        return
    grad = draw(*out.shape, dtype=dtype, seed=7)
    found = flag_gems.scaled_dot_product_attention_backward(grad, q, k, v, out, lse, **options)
    wide = [t.double().clone().requires_grad_() for t in (q, k, v)]
    expected = torch.autograd.grad(reference(*wide, mask, kind == "causal")[0], wide, grad.double())
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs, 4 if dtype != torch.float64 else 1)


def pages_of(parts: list[Tensor], size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences in pages of a cache, out of order, with NaN where nothing is; and the table."""
    counts = [-(-len(part) // size) for part in parts]
    order = torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(seed)).tolist()
    cache = torch.full((len(order), size, *parts[0].shape[1:]), torch.nan, device=DEVICE).to(parts[0].dtype)
    table = torch.zeros(len(parts), max(*counts, 1), dtype=torch.int32)
    for i, part in enumerate(parts):
        for j in range(counts[i]):
            table[i, j] = order.pop()
            rows = part[j * size : (j + 1) * size]
            cache[table[i, j], : len(rows)] = rows
    return cache, table.to(DEVICE)


def check_packed(
    dtype: torch.dtype,
    heads: tuple[int, int],
    dims: tuple[int, int],
    queries: list[int],
    keys: list[int],
    page: int = 0,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi: bool = False,
    **options: Any,
) -> None:
    """Packed sequences, their keys packed too or in pages."""
    q = draw(sum(queries), heads[0], dims[0], dtype=dtype)
    ks = [draw(n, heads[1], dims[0], dtype=dtype, seed=10 + i) for i, n in enumerate(keys)]
    vs = [draw(n, heads[1], dims[1], dtype=dtype, seed=30 + i) for i, n in enumerate(keys)]
    slopes = draw(heads[0]).abs() / 3 if alibi else None
    starts = torch.tensor([0, *queries], device=DEVICE).cumsum(0).int()
    where: dict[str, Any] = {"cu_seqlens_k": torch.tensor([0, *keys], device=DEVICE).cumsum(0).int()}
    k, v = torch.cat(ks), torch.cat(vs)
    if page:
        (k, table), (v, _) = pages_of(ks, page, 3), pages_of(vs, page, 3)
        where = {"seqused_k": torch.tensor(keys, device=DEVICE).int(), "block_table": table}
    out, lse = flag_gems.flash_attn_varlen_func(
        q, k, v, max(queries), starts, max(keys), causal=causal, window_size=window, softcap=softcap,
        alibi_slopes=slopes, return_softmax_lse=True, **where, **options,
    )  # fmt: skip
    at = 0
    for n, key, value in zip(queries, ks, vs, strict=True):
        exact, logs = of_sequence(q[at : at + n], key, value, causal, window, softcap, slopes)
        close(out[at : at + n], exact)
        close(lse[:, at : at + n], logs, 20)
        at += n


def check_latent(
    dtype: torch.dtype, queries: int, heads: int, keys: list[int], dim: int = 576, dim_v: int = 512
) -> None:
    """flash_mla over pages of 16 keys."""
    parts = [draw(n, 1, dim, dtype=dtype, seed=i) for i, n in enumerate(keys)]
    cache, table = pages_of(parts, 16, 1)
    q = draw(len(keys), queries, heads, dim, dtype=dtype, seed=9)
    used = torch.tensor(keys, device=DEVICE).int()
    out = flag_gems.flash_mla(
        q, table, cache, table.shape[1] * 16, 16, len(keys), queries, used, heads, 1, dim, dim_v, True
    )
    for i, key in enumerate(parts):
        close(out[i], of_sequence(q[i], key, key[..., :dim_v], True, (-1, -1), 0, None)[0])


def main() -> int:
    """Small cases of every kernel that has all threads of a block."""
    bf16, f32 = torch.bfloat16, torch.float32
    check((1, 4, 2, 19, 70, 24, 40), bf16, "causal", True)
    check((1, 4, 2, 19, 70, 24, 40), f32, "bool", True)
    check_packed(bf16, (8, 1), (64, 64), [3, 0, 1], [70, 5, 300], page=16, causal=True, num_splits=3)
    if "all" in sys.argv:
        check((1, 2, 1, 17, 9, 5, 3), bf16, "added", True)
        check_packed(bf16, (4, 2), (64, 64), [3, 0, 20], [70, 5, 33], page=16, causal=True, window=(40, -1))
        check_packed(f32, (2, 1), (16, 16), [1, 18], [40, 20], page=8, softcap=2.0, alibi=True)
        for sizes in ((1, 2, 1, 65, 70, 128, 128), (1, 1, 1, 40, 35, 256, 192), (1, 1, 1, 129, 64, 96, 64)):
            for dtype in (bf16, torch.float16, f32, torch.float64):
                check(sizes, dtype, "causal", dtype != torch.float64 or sizes[5] < 256)  # shared memory
        check_latent(bf16, 1, 16, [40, 3])
    print(flag_gems.stats())
    return 0


if __name__ == "__main__":
    sys.exit(main())

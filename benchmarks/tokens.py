"""What serves tokens, beside the plain torch code that it replaces: rotary embeddings, caches, fp8 groups, attention.

    python benchmarks/tokens.py                 # all, one thread on a CPU
    python benchmarks/tokens.py rope cache      # those whose name begins so
    python benchmarks/tokens.py attention --threads 0

The plain code is what programs have in the place of these functions: a rotation as transformers' Llama has it, an
indexed assignment to the cache's slots, divide-clamp-convert for fp8, torch's own scaled_dot_product_attention (its
flash kernel on a CPU). A ratio above 1 means that ours is faster. `decode` has 16 tokens, `prefill` 512; a GPU's calls
are timed as graphs, so that what the host does is not in the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flag_gems
import torch
import torch.nn.functional as F
from flag_gems.bench import harness
from rich.console import Console
from rich.table import Table
from torch import Tensor

DEVICE = flag_gems.device
HEADS, KV_HEADS, DIM, BLOCK, BLOCKS = 32, 8, 128, 16, 128
LATENT, TURNED = 512, 64
FP8 = torch.float8_e4m3fn
TOKENS = {"decode": 16, "prefill": 512}
Run = Callable[[], Any]


@dataclass
class Case:
    name: str
    ours: Run
    plain: Run
    # Whether both write the same tensors, or give the same results.
    results: Callable[[], list[Tensor]] | None = None


def randn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


def rope_cases(tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    q, k = randn(tokens, HEADS, DIM, dtype=dtype), randn(tokens, KV_HEADS, DIM, dtype=dtype)
    angles = torch.outer(torch.arange(2048.0), 10000.0 ** (-torch.arange(0, DIM, 2) / DIM)).to(DEVICE)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    places = torch.arange(tokens, device=DEVICE) + 100

    def halves() -> tuple[Tensor, Tensor]:
        c, s = (torch.cat((t[places], t[places]), -1).unsqueeze(1) for t in (cos, sin))
        return q * c + rotate_half(q) * s, k * c + rotate_half(k) * s

    def pairs() -> tuple[Tensor, ...]:
        c, s = cos[places].unsqueeze(1), sin[places].unsqueeze(1)
        return tuple(
            torch.stack((x[..., ::2] * c - x[..., 1::2] * s, x[..., 1::2] * c + x[..., ::2] * s), -1).flatten(-2)
            for x in (q, k)
        )

    turn = flag_gems.apply_rotary_pos_emb
    yield Case("rope", lambda: turn(q, k, cos, sin, places), halves)
    yield Case("rope in pairs", lambda: turn(q, k, cos, sin, places, True), pairs)
    # Both turn copies of their own, time and again.
    mine, theirs = ((q.clone(), k.clone()) for _ in range(2))

    def in_place() -> None:
        c, s = (torch.cat((t[places], t[places]), -1).unsqueeze(1) for t in (cos, sin))
        for x in theirs:
            x.copy_(x * c + rotate_half(x) * s)

    yield Case("rope in place", lambda: turn(*mine, cos, sin, places, inplace=True), in_place)


def stored(x: Tensor, dtype: torch.dtype, scale: Tensor) -> Tensor:
    if dtype != FP8:
        return x
    most = torch.finfo(FP8).max
    return (x.float() / scale).clamp(-most, most).to(FP8)


def cache_cases(tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    k, v = (randn(tokens, KV_HEADS, DIM, dtype=dtype) for _ in range(2))
    latent, turned = randn(tokens, LATENT, dtype=dtype), randn(tokens, TURNED, dtype=dtype)
    slots = torch.randperm(BLOCK * BLOCKS, device=DEVICE)[:tokens]
    one = torch.ones((), device=DEVICE)
    for kept, word in ((dtype, "auto"), (FP8, "fp8")):
        size = kept.itemsize

        def zeros(*shape: int, kept: torch.dtype = kept) -> tuple[Tensor, Tensor]:
            return torch.zeros(shape, device=DEVICE, dtype=kept), torch.zeros(shape, device=DEVICE, dtype=kept)

        label = "cache" if word == "auto" else "cache of fp8"
        rows, plain_rows = zeros(BLOCKS, BLOCK, KV_HEADS, DIM), zeros(BLOCKS, BLOCK, KV_HEADS, DIM)

        def put_rows(to: tuple[Tensor, Tensor] = plain_rows, kept: torch.dtype = kept) -> None:
            for cache, x in zip(to, (k, v), strict=True):
                bits(cache).flatten(0, 1)[slots] = bits(stored(x, kept, one))

        yield Case(
            f"{label}, rows",
            lambda rows=rows, word=word: flag_gems.reshape_and_cache_flash(k, v, *rows, slots, word, one, one),
            put_rows,
            lambda a=rows, b=plain_rows: [*a, *b],
        )
        x = 16 // size
        made = [(zeros(BLOCKS, KV_HEADS, DIM // x, BLOCK, x)[0], zeros(BLOCKS, KV_HEADS, DIM, BLOCK)[0]) for _ in "ab"]

        def put_pages(to: tuple[Tensor, Tensor] = made[1], kept: torch.dtype = kept, x: int = x) -> None:
            block, place = slots // BLOCK, slots % BLOCK
            bits(to[0])[block, :, :, place] = bits(stored(k, kept, one)).view(-1, KV_HEADS, DIM // x, x)
            bits(to[1])[block, :, :, place] = bits(stored(v, kept, one))

        yield Case(
            f"{label}, pages",
            lambda to=made[0], word=word: flag_gems.reshape_and_cache(k, v, *to, slots, word, one, one),
            put_pages,
            lambda made=made: [*made[0], *made[1]],
        )
        both = zeros(BLOCKS, BLOCK, LATENT + TURNED)

        def put_latent(to: Tensor = both[1], kept: torch.dtype = kept) -> None:
            bits(to).flatten(0, 1)[slots] = bits(stored(torch.cat((latent, turned), -1), kept, one))

        yield Case(
            f"{label}, latent",
            lambda to=both[0], word=word: flag_gems.concat_and_cache_mla(latent, turned, to, slots, word, one),
            put_latent,
            lambda both=both: list(both),
        )


def bits(t: Tensor) -> Tensor:
    """fp8 as bytes: torch indexes no fp8 on a CPU."""
    return t.view(torch.uint8) if t.dtype == FP8 else t


def quant_cases(tokens: int, dtype: torch.dtype) -> Iterator[Case]:
    x = randn(tokens, HEADS * DIM, dtype=dtype)

    def plain() -> tuple[Tensor, Tensor]:
        groups, most = x.float().unflatten(-1, (-1, 128)), torch.finfo(FP8).max
        scales = groups.abs().amax(-1, keepdim=True).clamp(min=1e-10) / most
        return (groups / scales).clamp(-most, most).to(FP8).view(x.shape), scales.squeeze(-1)

    yield Case("quantised groups", lambda: flag_gems.per_token_group_quant_fp8(x, 128), plain)


def attention_cases(dtype: torch.dtype) -> Iterator[Case]:
    for shape, causal in (((1, 8, 512, 64), False), ((1, 8, 512, 64), True), ((1, 8, 2048, 128), True)):
        q, k, v = (randn(*shape, dtype=dtype) for _ in range(3))
        name = f"attention {list(shape)}{' causal' if causal else ''}"
        options = {"is_causal": causal}
        yield Case(
            name,
            lambda q=q, k=k, v=v, o=options: flag_gems.scaled_dot_product_attention(q, k, v, **o),
            lambda q=q, k=k, v=v, o=options: F.scaled_dot_product_attention(q, k, v, **o),
        )


def paged_cases(dtype: torch.dtype) -> Iterator[Case]:
    """A decoding step of 8 sequences over pages, beside the gathered pages under torch's attention."""
    batch, most = 8, 512
    pages = most // BLOCK
    q = randn(batch, HEADS, DIM, dtype=dtype)
    keys, values = (randn(batch * pages, BLOCK, KV_HEADS, DIM, dtype=dtype) for _ in range(2))
    table = torch.randperm(batch * pages, device=DEVICE).view(batch, pages).int()
    used = torch.arange(1, batch + 1, device=DEVICE).int() * (most // batch)
    starts = torch.arange(batch + 1, device=DEVICE).int()

    def plain() -> Tensor:
        k, v = (t[table].flatten(1, 2).transpose(1, 2) for t in (keys, values))
        seen = torch.arange(most, device=DEVICE) < used[:, None]
        found = F.scaled_dot_product_attention(q.unsqueeze(2), k, v, seen[:, None, None], enable_gqa=True)
        return found.squeeze(2)

    yield Case(
        "attention over pages, decode",
        lambda: flag_gems.flash_attn_varlen_func(
            q, keys, values, 1, starts, most, seqused_k=used, causal=True, block_table=table
        ),
        plain,
    )


def cases(dtype: torch.dtype) -> Iterator[Case]:
    for kind, tokens in TOKENS.items():
        for make in (rope_cases, cache_cases, quant_cases):
            for case in make(tokens, dtype):
                case.name += f", {kind}"
                yield case
    yield from attention_cases(dtype)
    yield from paged_cases(dtype)


def check(case: Case) -> None:
    """Both do the same."""
    ours, plain = case.ours(), case.plain()
    if case.results is not None:
        written = [bits(t) for t in case.results()]
        half = len(written) // 2
        pairs = zip(written[:half], written[half:], strict=True)
    elif plain is None:
        return
    else:
        pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, plain)), strict=True)
    for a, b in pairs:
        near = {"rtol": 0.15, "atol": 0} if a.dtype == FP8 else {"rtol": 5e-2, "atol": 5e-2}
        torch.testing.assert_close(a.float() if a.dtype == FP8 else a, b.float() if b.dtype == FP8 else b, **near)


def graphed(call: Run) -> Run:
    """A call as a graph, on a GPU."""
    if DEVICE != "cuda":
        return call
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    return graph.replay


def measured(name: str, case: Case, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    check(case)
    candidates = {"ours": harness.Candidate(graphed(case.ours)), "plain": harness.Candidate(graphed(case.plain))}
    timing = harness.compare(candidates, DEVICE, rounds, budget=2.0)
    calls = 10 if DEVICE == "cuda" else 1
    if DEVICE == "cpu":  # see harness: others take of memory's bandwidth
        ratio = timing.fastest("plain") / timing.fastest("ours")
    else:
        ratio = timing.ratio("plain", "ours")
    us, plain = (timing.fastest(n) / calls * 1e6 for n in ("ours", "plain"))
    return {"name": name, "dtype": str(dtype).removeprefix("torch."), "us": us, "plain_us": plain, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; 0: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    harness.keep_pages(1 << 28)
    found = []
    table = Table("what", "dtype", "us", "plain torch's", "ratio")
    for dtype in (getattr(torch, name) for name in given.dtypes.split(",")):
        for case in cases(dtype):
            if not given.names or case.name.startswith(tuple(given.names)):
                row = measured(case.name, case, dtype, given.rounds)
                found.append(row)
                numbers = f"{row['us']:.1f}", f"{row['plain_us']:.1f}", f"{row['ratio']:.2f}"
                table.add_row(row["name"], row["dtype"], *numbers)
    console = Console(width=110)
    threads = f", {torch.get_num_threads()} threads" if DEVICE == "cpu" else ""
    console.print(f"{harness.chip(DEVICE)}{threads}, torch {torch.__version__}", highlight=False)
    console.print(table)
    ratios = [row["ratio"] for row in found]
    console.print(f"geometric mean {harness.geometric_mean(ratios):.2f}, least {min(ratios):.2f}")
    if given.json:
        with open(given.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()

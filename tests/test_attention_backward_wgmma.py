"""The gradients of attention of sm_90a: numbers, mistakes that have to be found, machine code.

On a machine without such a GPU the kernels run thread by thread on the CPU, where copies and products land as late as
their waits allow.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import flag_gems
import pytest
import torch
from flag_gems import _C

import native
import sass
from attention_cases import DEVICE, check, close, draw, of_sequence, operands, reference
from cpu_modes import run_groups

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
BF16, F16 = torch.bfloat16, torch.float16

# ---- numbers ----


def unseen() -> None:
    """Queries that see no key have gradients of 0, and a NaN in one head stays in it."""
    q, k, v = operands(1, 2, 2, 70, 130, 64, 64, F16)
    k[0, 1, 5] = torch.nan
    out, lse = flag_gems.scaled_dot_product_attention_forward(q, k, v)
    grad = draw(*out.shape, dtype=F16, seed=7)
    lse[0, 0, 3] = -torch.inf
    made = flag_gems.scaled_dot_product_attention_backward(grad, q, k, v, out, lse)
    assert made[0][0, 0, 3].eq(0).all() and made[0][0, 1].isnan().all()
    assert all(t[0, 0].isfinite().all() for t in made)


def scaled() -> None:
    """Another scale, and operands that lie in one another as a projection makes them."""
    packed = draw(2, 66, 3, 2, 64, dtype=F16)
    q, k, v = packed.unbind(2)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out, lse = flag_gems.scaled_dot_product_attention_forward(q, k, v, scale=0.3)
    grad = draw(2, 2, 66, 64, dtype=F16, seed=7)
    found = flag_gems.scaled_dot_product_attention_backward(grad, q, k, v, out, lse, scale=0.3)
    wide = [t.double().clone().requires_grad_() for t in (q, k, v)]
    for mine, theirs in zip(
        found, torch.autograd.grad(reference(*wide, scale=0.3)[0], wide, grad.double()), strict=True
    ):
        close(mine, theirs, 4)


def packed(
    queries: list[int], keys: list[int], heads: tuple[int, int], causal: bool, poison: int | None = None
) -> None:
    """_flash_attention_backward of packed sequences; one is full of NaN, which does not touch the others."""
    q, grad = (draw(sum(queries), heads[0], 64, dtype=F16, seed=i) for i in (0, 5))
    k, v = (draw(sum(keys), heads[1], 64, dtype=F16, seed=i) for i in (1, 2))
    starts = [torch.tensor([0, *itertools.accumulate(n)], dtype=torch.int32, device=DEVICE) for n in (queries, keys)]
    parts = [[slice(*pair) for pair in itertools.pairwise(s.tolist())] for s in starts]
    if poison is not None:
        for t, side in ((q, 0), (grad, 0), (k, 1), (v, 1)):
            t[parts[side][poison]] = torch.nan
    sizes = (*starts, max(queries), max(keys), 0.0, causal)
    out, lse, seed, offset, _ = flag_gems.flash_attention_forward(q, k, v, *sizes, False)
    made = flag_gems.flash_attention_backward(grad, q, k, v, out, lse, *sizes, seed, offset)
    for i, (rows, seen) in enumerate(zip(*parts, strict=True)):
        if i == poison:
            assert made[0][rows].isnan().all()
            continue
        wide = [t.double().requires_grad_() for t in (q[rows], k[seen], v[seen])]
        exact = of_sequence(*wide, causal, (-1, -1), 0, None)[0]
        expected = torch.autograd.grad(torch.where(exact.isnan(), 0, exact), wide, grad[rows].double())
        for mine, theirs in zip((made[0][rows], made[1][seen], made[2][seen]), expected, strict=True):
            close(mine, theirs, 4)


def operator_of_aten() -> None:
    """_flash_attention_backward of [batch, length, heads, dim], the last query at the last key: it lies as ATen's."""
    q, grad = (draw(2, 4, 130, 64, dtype=F16, seed=i).transpose(1, 2) for i in (0, 5))
    k, v = (draw(2, 150, 2, 64, dtype=F16, seed=i) for i in (1, 2))
    sizes = (None, None, 130, 150, 0.0, True)
    out, lse, seed, offset, _ = flag_gems.flash_attention_forward(q, k, v, *sizes, False)
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        made = torch.ops.aten._flash_attention_backward(grad, q, k, v, out, lse, *sizes, seed, offset)
    wide = [t.double().requires_grad_() for t in (q, k, v)]
    exact = torch.stack([of_sequence(*(t[i] for t in wide), True, (-1, -1), 0, None)[0] for i in range(2)])
    for mine, theirs, t in zip(made, torch.autograd.grad(exact, wide, grad.double()), (q, k, v), strict=True):
        close(mine, theirs, 4)
        assert mine.stride() == t.stride()
    assert flag_gems.stats()["_flash_attention_backward"]["fallback"] == 0


GROUPS = {
    "few": lambda: check((1, 2, 1, 130, 200, 64, 64), F16, "causal", True),
    "many": lambda: check((1, 1, 1, 400, 410, 64, 64), BF16, "none", True),  # more tiles than the rings have places
    "small": lambda: (
        check((2, 2, 2, 1, 1, 64, 64), F16, "none", True),
        check((1, 1, 1, 5, 70, 64, 64), F16, "none", True),
    ),
    "heads": lambda: check((2, 4, 2, 70, 65, 64, 64), BF16, "causal", True),
    "wide": lambda: check((1, 2, 1, 150, 150, 128, 128), F16, "causal", True),
    "padded": lambda: (
        check((1, 1, 1, 70, 140, 96, 72), F16, "none", True),
        check((1, 1, 1, 140, 70, 104, 104), F16, "none", True),
    ),
    "unseen": unseen,
    "scaled": scaled,
    "aten": operator_of_aten,
    "packed": lambda: packed([70, 1, 130], [130, 5, 200], (2, 1), True),
    "isolated": lambda: packed([70, 150, 30], [90, 40, 140], (2, 2), False, poison=1),
}


def run(mode: str, groups: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_groups(mode, "test_attention_backward_wgmma", groups, tmp_path, **environment)


def passed(done: subprocess.CompletedProcess[str]) -> bool:
    assert "gradients wgmma" in done.stderr and "gradients mma" not in done.stderr, done.stderr
    return done.returncode == 0 and done.stdout.endswith("all right\n")


def test_every_access_is_checked(tmp_path: Path) -> None:
    done = run("checked", ["few", "small", "padded", "unseen", "aten", "packed", "isolated"], tmp_path)
    assert passed(done), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "reverse", "random:7"])
def test_threads_in_any_order(order: str, tmp_path: Path) -> None:
    done = run("faithful", list(GROUPS), tmp_path, GEMS_CPU_ORDER=order)
    assert passed(done), done.stdout + done.stderr


FILE = "attention_backward_wgmma.cu"
MISTAKES = {
    "no wait for a tile": ("mbarrier_await(full + at.stage, at.parity);", ""),
    "no wait for the rows": ("mbarrier_await(come, parity);", ""),
    "no wait for a place": ("mbarrier_await(empty + at.stage, at.parity ^ 1);", ""),
    "too few bytes": ("expect(full + at.stage, P::kStageBytes)", "expect(full + at.stage, P::kTileBytes)"),
    "scores read before they are complete": ("wgmma_wait<1>(); wgmma_keep(score);", "wgmma_keep(score);"),
    "a place left before its products are complete": (
        "P::start_sums(sums, changes, tile_sums + offset);",
        "P::start_sums(sums, changes, tile_sums + offset);"
        "if (lane == 0) mbarrier_arrive(empty + at.stage); at.next(); continue;",
    ),
    "the wrong parity": ("stage = 0, parity ^= 1;", "stage = 0;"),
    "lines of one tile": ("lines + side * kTileN + (lane & 3) * 2", "lines + (lane & 3) * 2"),
    "lines that nobody waits for": ("part_wait(1 + part, 128);", ""),
    "a unit that nobody has heard of": ("mbarrier_await(heard, turn_parity ^ 1);", ""),
    "no wait for the rows before": ("mbarrier_await(gone, parity ^ 1);", ""),
    "rows of another sequence": ("copy_fence(); part_sync<8>(kGroups * 128);", "copy_fence();"),
    "sums of other rows": ("tile + (k * 2048 >> 4)", "tile + (k * 1024 >> 4)"),
    "what is behind the end is seen": ("n * 8 + e > to ||", ""),
}
QUICK = ("no wait for a place", "lines that nobody waits for")


@pytest.mark.parametrize(
    "mistake", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MISTAKES]
)
def test_planted_mistakes_are_found(mistake: str, tmp_path: Path) -> None:
    right, wrong = MISTAKES[mistake]
    texts = tmp_path / "kernels"
    shutil.copytree(native.ROOT / "kernels", texts)
    text = (texts / FILE).read_text()
    text, count = re.subn(r"\s+".join(map(re.escape, right.split())), lambda _: wrong, text)
    assert count, "the text to change is not there"
    (texts / FILE).write_text(text)
    done = run("checked", ["few", "many", "isolated"], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert not passed(done)
    found = ("AssertionError", "a box is copied", "more arrivals", "deadlock", "race", "not been waited for")
    assert any(text in done.stderr for text in found), done.stderr


# ---- machine code ----


@pytest.mark.parametrize("dim", [64, 96, 128])
def test_machine_code(dim: int) -> None:
    """Nothing is spilled, and no product waits for the one before it: three waits, as the text has them."""
    text = _C.program_text("attention_backward", "bfloat16", 2 + [64, 128, 96].index(dim), "sm_90a", "cuda")
    queries, keys = (int(n) for n in re.search(r"kQueryTile = (\d+).*kKeyTile = (\d+)", text).groups())
    kernels = sass.kernels(text, ["attention_queries", "attention_keys"], "sm_90a")
    for name, tile, sums in (("attention_queries", queries, 1), ("attention_keys", keys, 2)):
        kernel = kernels[name]
        assert kernel.spill_bytes == 0 and not kernel.has("LDL") and not kernel.has("STL")
        assert kernel.count("HGMMA") == 2 * dim // 16 + sums * tile // 16 and not kernel.has("HMMA")
        assert kernel.count("WARPGROUP.DEPBAR") == 3
        assert kernel.count("UTMALDG") == 4 * -(-dim // 64) and kernel.has("USETMAXREG", "SYNCS", "STG.128")


# ---- a GPU ----


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="the kernels are those of sm_90a")
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_numbers_on_a_gpu(dtype: torch.dtype) -> None:
    for dim in (64, 80, 128):
        for queries, keys in ((128, 128), (64, 1), (127, 1000), (1000, 1000), (2048, 2048)):
            for kind in ("none", "causal"):
                check((2, 4, 2, queries, keys, dim, dim), dtype, kind, True)
    for group in GROUPS.values():
        group()


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="the kernels are those of sm_90a")
def test_two_runs_give_the_same_bits() -> None:
    q, k, v, grad = (draw(2, 4, 1000, 128, dtype=BF16, seed=i) for i in range(4))
    out, lse = flag_gems.scaled_dot_product_attention_forward(q, k, v)
    first, *rest = (flag_gems.scaled_dot_product_attention_backward(grad, q, k, v, out, lse) for _ in range(4))
    assert all(torch.equal(a, b) for run in rest for a, b in zip(first, run, strict=True))

"""Attention of sm_90a: what its kernel takes, its machine code, and its numbers.

On a machine without such a GPU the kernel runs thread by thread on the CPU, where copies and products land as late
as their waits allow, and mistakes are planted in it that have to be found.
"""

from __future__ import annotations

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
from attention_cases import DEVICE, check, check_packed, close, draw, of_sequence, operands, reference
from cpu_modes import run_groups

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
BF16, F16 = torch.bfloat16, torch.float16


# ---- numbers ----


def across(*sizes: int, dtype: torch.dtype = BF16) -> None:
    """Every row sees every key, and its own and those before it."""
    for kind in ("none", "causal"):
        check(sizes, dtype, kind, False)


def isolated() -> None:
    """What lies behind a sequence does not touch it: NaN in the next one, in keys that are not used."""
    queries, keys = [70, 130, 65], [130, 40, 200]
    q = draw(sum(queries), 2, 64, dtype=BF16)
    k, v = (draw(sum(keys), 1, 64, dtype=BF16, seed=i) for i in (1, 2))
    k[130:170] = v[130:170] = torch.nan
    starts = [torch.tensor([0, *n], device=DEVICE).cumsum(0).int() for n in (queries, keys)]
    out, lse = flag_gems.flash_attn_varlen_func(
        q, k, v, max(queries), starts[0], max(keys), starts[1], causal=True, return_softmax_lse=True
    )
    for i in (0, 2):
        rows, seen = (slice(int(s[i]), int(s[i + 1])) for s in starts)
        exact, logs = of_sequence(q[rows], k[seen], v[seen], True, (-1, -1), 0, None)
        close(out[rows], exact)
        close(lse[:, rows], logs, 20)
    assert out[int(starts[0][1]) + 100 : int(starts[0][2])].isnan().all()


def operator_of_aten() -> None:
    """_flash_attention_forward: the results lie as ATen's."""
    q = draw(2, 4, 70, 64, dtype=F16).transpose(1, 2)
    k, v = (draw(2, 90, 2, 64, dtype=F16, seed=i) for i in (1, 2))
    made = flag_gems.flash_attention_forward(q, k, v, None, None, 70, 90, 0.0, False, False, scale=0.2)
    exact, logs = reference(*(t.transpose(1, 2) for t in (q, k, v)), scale=0.2)
    close(made[0], exact.transpose(1, 2))
    close(made[1], logs, 20)
    assert made[0].stride() == q.stride() and made[1].is_contiguous()


def extremes() -> None:
    """Large scores, an infinity and a NaN in one row, and rows before the first key."""
    q, k, v = operands(1, 1, 1, 70, 200, 64, 64, BF16)
    q[0, 0, 3] *= 1000
    q[0, 0, 5, 0], q[0, 0, 6, 0] = torch.nan, torch.inf
    out, lse = flag_gems.scaled_dot_product_attention_forward(q, k, v)
    exact, logs = reference(q, k, v)
    close(out[:, :, [0, 3, 4, 7]], exact[:, :, [0, 3, 4, 7]])
    torch.testing.assert_close(lse[0, 0, 3].double(), logs[0, 0, 3], rtol=1e-4, atol=1e-2)
    assert out[0, 0, 5:7].isnan().all()
    check_packed(BF16, (1, 1), (64, 64), [150], [20], causal=True)


GROUPS = {
    "few": lambda: check((1, 2, 1, 130, 300, 64, 64), BF16, "causal", False),
    "long": lambda: check((1, 1, 1, 130, 700, 64, 64), BF16, "none", False),  # more tiles than the ring has places
    "short": lambda: check((1, 8, 1, 40, 100, 64, 64), BF16, "none", False),  # one tile each, several for a block
    "heads": lambda: across(2, 4, 2, 70, 129, 64, 64, dtype=F16),
    "middle": lambda: across(1, 2, 1, 129, 400, 128, 128),
    "wide": lambda: across(1, 1, 1, 66, 200, 256, 256),
    "between": lambda: across(1, 1, 1, 66, 200, 192, 160),
    "padded": lambda: (
        across(1, 1, 1, 5, 130, 96, 72),
        across(1, 1, 1, 70, 130, 80, 80),
        across(1, 1, 1, 5, 130, 104, 120),
        across(1, 1, 1, 1, 1, 64, 64),
    ),
    "packed": lambda: check_packed(BF16, (2, 1), (64, 64), [70, 0, 200, 1], [130, 5, 300, 40], causal=True),
    "window": lambda: check_packed(F16, (2, 1), (64, 64), [70, 3], [130, 300], window=(40, 20)),
    "isolated": isolated,
    "aten": operator_of_aten,
    "extremes": extremes,
}


def run(mode: str, groups: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_groups(mode, "test_attention_wgmma", groups, tmp_path, **environment)


def passed(done: subprocess.CompletedProcess[str]) -> bool:
    assert "compiled attention wgmma" in done.stderr and "attention mma" not in done.stderr, done.stderr
    return done.returncode == 0 and done.stdout.endswith("all right\n")


def test_every_access_is_checked(tmp_path: Path) -> None:
    done = run("checked", ["few", "heads", "padded", "packed", "isolated", "aten", "extremes"], tmp_path)
    assert passed(done), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "reverse", "random:7"])
def test_threads_in_any_order(order: str, tmp_path: Path) -> None:
    done = run("faithful", list(GROUPS), tmp_path, GEMS_CPU_ORDER=order)
    assert passed(done), done.stdout + done.stderr


FILE = "attention_wgmma.cu"
WAIT = ["wgmma_wait<0>();", "wgmma_keep(out);", "values.leave(value_at, lane);", "round_weights(weights, score);"]


def lines(*order: int) -> str:
    return " ".join(WAIT[i] for i in order)


MISTAKES = {
    "no wait for a tile": ("mbarrier_await(full + at.stage, at.parity);", ""),
    "no wait for the queries": ("mbarrier_await(full, parity);", ""),
    "no wait for the place of queries": ("mbarrier_await(empty, parity ^ 1);", ""),
    "no wait for a place": ("mbarrier_await(empty + at.stage, at.parity ^ 1);", ""),
    "a place left before its products are complete": (lines(0, 1, 2), lines(2, 0, 1)),
    "scores read before they are complete": ("wgmma_wait<1>();", ""),
    "weights written while they are multiplied": (lines(0, 1, 2, 3), lines(3, 0, 1, 2)),
    "a turn that nobody gives": ("part_arrive(1 + next, 256);", ""),
    "too few bytes": ("expect(full + at.stage, kTileBytes);", "expect(full + at.stage, kChunk / 2);"),
    "a unit that nobody has heard of": ("mbarrier_await(heard, turn_parity ^ 1);", ""),
    "the wrong parity": ("stage = 0, parity ^= 1;", "stage = 0;"),
    "sums that are not waited for": ("4)); wgmma_wait<0>();", "4));"),
    "values of other keys": ("values + (k * 2048 >> 4)", "values + (k * 1024 >> 4)"),
    "half a step along the head": ("kChunk + k % 4 * 32", "kChunk + k % 4 * 16"),
}
QUICK = ("a place left before its products are complete", "weights written while they are multiplied")


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
    done = run("faithful", ["few", "long", "short"], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert not passed(done)
    found = ("AssertionError", "a box is copied", "more arrivals", "deadlock")
    assert any(text in done.stderr for text in found), done.stderr


# ---- machine code ----

HEADS = [(64, 128), (128, 128), (128, 176), (256, 80), (192, 112), (96, 128), (96, 176)]


@pytest.mark.parametrize("i", range(len(HEADS)), ids=[f"{d}x{n}" for d, n in HEADS])
def test_machine_code(i: int) -> None:
    """Nothing is spilled, products and copies are asynchronous, and exponentials run under the products of values."""
    dim, keys = HEADS[i]
    text = _C.program_text("attention_forward", "bfloat16", 4 + i, "sm_90a", "cuda")
    kernel = sass.kernels(text, ["attention"], "sm_90a")["attention"]
    assert f"kD = {dim}, kTileN = {keys}," in text
    assert kernel.spill_bytes == 0 and not kernel.has("LDL") and not kernel.has("STL")
    assert kernel.registers == (128 if dim == 64 else 168)  # what setmaxnreg divides
    assert kernel.count("HGMMA") == 2 * (dim // 16 + keys // 16) and not kernel.has("HMMA")
    assert kernel.count("UTMALDG") == 3 * -(-dim // 64) and kernel.has("USETMAXREG", "SYNCS", "STG.128")
    # Each product does not wait for the one before it.
    assert kernel.count("WARPGROUP.DEPBAR") == 4
    last = [at for at, op in enumerate(kernel.opcodes) if op.startswith("WARPGROUP.DEPBAR")][1:3]
    assert sum(op.startswith("MUFU.EX2") for op in kernel.opcodes[last[0] : last[1]]) >= keys // 2


# ---- a GPU ----


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="the kernel is that of sm_90a")
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_numbers_on_a_gpu(dtype: torch.dtype) -> None:
    for dim in (64, 96, 128, 192, 256):
        for queries, keys in ((128, 128), (64, 1), (127, 1000), (1000, 1000), (2048, 2048)):
            across(2, 4, 2, queries, keys, dim, dim, dtype=dtype)
    for group in GROUPS.values():
        group()


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="the kernel is that of sm_90a")
@pytest.mark.parametrize("kernel", ["FLASH_ATTENTION", "CUDNN_ATTENTION"])
def test_behind_the_kernels_of_torch(kernel: str) -> None:
    """What torch picks lands in our kernel. cuDNN's gradients are its own, of our result and logsumexp; small problems
    are ATen's altogether."""
    q, k, v, grad = (draw(2, 8, 1100, 128, dtype=BF16, seed=i) for i in range(4))

    def run_it() -> list[torch.Tensor]:
        args = [t.detach().requires_grad_() for t in (q, k, v)]
        with torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, kernel)):
            out = torch.nn.functional.scaled_dot_product_attention(*args, is_causal=True)
            small = torch.nn.functional.scaled_dot_product_attention(q[:, :, :9], k, v)
        return [out, small, *torch.autograd.grad(out, args, grad)]

    expected = run_it()
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        found = run_it()
        again = run_it()
    name = kernel.split("_")[0].lower()
    assert flag_gems.stats()[f"_{name}_attention_forward"] == {"kernel": 2, "fallback": 2}
    if name == "flash":
        assert flag_gems.stats()["_flash_attention_backward"] == {"kernel": 2, "fallback": 0}
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)
        assert mine.stride() == theirs.stride()
    assert torch.equal(found[0], again[0])

"""Attention of heads beside float64: results, logsumexp, gradients, masks, dropout, ATen's operators, machine code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from flag_gems import _C, attention
from torch import Tensor

import sass
from attention_cases import DEVICE, check, close, draw, mask_of, operands, reference
from compare import counts

HERE = Path(__file__).resolve().parent
DTYPES = [torch.float32, torch.bfloat16, torch.float64, pytest.param(torch.float16, marks=pytest.mark.slow)]
SIZES = [  # batch, heads, kv heads, queries, keys, dim, dim of values
    (2, 4, 2, 5, 7, 8, 8),
    (1, 16, 1, 33, 130, 64, 64),
    (1, 2, 2, 70, 65, 40, 24),
    (2, 2, 2, 1, 300, 16, 16),
    (1, 8, 2, 3, 100, 128, 100),
    (1, 1, 1, 20, 20, 5, 3),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 2, 1, 18, 40, 256, 192),
    (1, 2, 1, 100, 600, 72, 64),
]


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "added"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_beside_float64(dtype: torch.dtype, kind: str) -> None:
    for sizes in SIZES:
        check(sizes, dtype, kind, backward=True)


@pytest.mark.parametrize("shape", [(1,), (7, 1), (1, 9), (2, 1, 1, 9), (1, 4, 7, 1), (4, 7, 9), (7, 9)])
def test_masks_expand(shape: tuple[int, ...]) -> None:
    q, k, v = operands(2, 4, 4, 7, 9, 8, 8, torch.float32)
    for kind in ("bool", "added"):
        mask = draw(*shape, seed=5) > 0 if kind == "bool" else mask_of(kind, shape, torch.float32)
        close(flag_gems.scaled_dot_product_attention(q, k, v, mask), reference(q, k, v, mask)[0])
    half = [t.to(torch.bfloat16) for t in (q, k, v)]
    mask = draw(7, 9)
    close(flag_gems.scaled_dot_product_attention(*half, mask), reference(*half, mask)[0])


def test_layouts() -> None:
    """Any strides, the last dimension's too; every rank that torch takes."""
    x = draw(2, 8, 9, 4)
    views = {
        "transposed": x.transpose(2, 3),
        "sliced": draw(2, 4, 9, 16)[..., ::2],
        "offset": draw(2, 4, 9, 9)[..., 1:],
        "expanded": draw(1, 4, 9, 8).expand(2, 4, 9, 8),
        "still": draw(2, 4, 1, 8).expand(2, 4, 9, 8),
    }
    views["transposed"] = draw(2, 4, 8, 9).transpose(2, 3)
    for name, t in views.items():
        for dtype in (torch.float32, torch.bfloat16):
            mine = [t.to(dtype).detach().requires_grad_() for _ in range(3)]
            out = flag_gems.scaled_dot_product_attention(*mine)
            close(out, reference(*mine)[0].detach())
            grads = torch.autograd.grad(out, mine, torch.ones((), device=DEVICE, dtype=dtype).expand(out.shape))
            wide = [t.to(dtype).double().requires_grad_() for _ in range(3)]
            for g, e in zip(grads, torch.autograd.grad(reference(*wide)[0].sum(), wide), strict=True):
                close(g, e, 4)
            assert out.is_contiguous() or name in ("expanded", "still")
    for shape in ((7, 8), (3, 7, 8), (2, 2, 3, 7, 8)):
        q, k, v = draw(*shape), draw(*shape, seed=1), draw(*shape, seed=2)
        torch.testing.assert_close(
            flag_gems.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
        )
    q, k = draw(2, 3, 7, 8), draw(1, 1, 9, 8)
    torch.testing.assert_close(flag_gems.scaled_dot_product_attention(q, k, k), F.scaled_dot_product_attention(q, k, k))


def test_empty() -> None:
    q = draw(2, 3, 5, 8)
    none = q[:, :, :0]
    assert flag_gems.scaled_dot_product_attention(none, q, q).shape == (2, 3, 0, 8)
    out, lse = flag_gems.scaled_dot_product_attention_forward(q, none, none)
    assert not out.any() and (lse == -torch.inf).all()
    mine = [t.clone().requires_grad_() for t in (q, none, none)]
    flag_gems.scaled_dot_product_attention(*mine).sum().backward()
    assert not mine[0].grad.any() and mine[1].grad.shape == (2, 3, 0, 8)


@pytest.mark.parametrize("scale", [0.3, 0.0, -1.0])
def test_scale(scale: float) -> None:
    for dtype in (torch.float32, torch.float16):
        q, k, v = operands(1, 2, 2, 20, 30, 16, 16, dtype)
        close(flag_gems.scaled_dot_product_attention(q, k, v, scale=scale), reference(q, k, v, scale=scale)[0])


def test_large_scores_and_nan() -> None:
    q, k, v = operands(1, 1, 1, 4, 40, 16, 16, torch.float32)
    close(flag_gems.scaled_dot_product_attention(q * 1e4, k, v), reference(q * 1e4, k, v)[0])
    k[0, 0, 3, 2] = torch.nan
    assert flag_gems.scaled_dot_product_attention(q, k, v).isnan().all()
    assert flag_gems.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0, :3].isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck(causal: bool) -> None:
    q, k, v = (draw(2, 4, 5, 6, dtype=torch.float64).requires_grad_(), *(
        draw(2, 2, 7, 6, dtype=torch.float64, seed=i).requires_grad_() for i in (1, 2)
    ))  # fmt: skip

    def call(*args: Tensor) -> Tensor:
        return flag_gems.scaled_dot_product_attention(*args, is_causal=causal, scale=0.4, enable_gqa=True)

    assert torch.autograd.gradcheck(call, (q, k, v), nondet_tol=0.0)


def test_function_of_autograd() -> None:
    q, k, v = (t.requires_grad_() for t in operands(1, 2, 2, 7, 9, 8, 8, torch.float32))
    out = flag_gems.ScaleDotProductAttention.apply(q, k, v, None, 0.0, True, None, False)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    with pytest.raises(NotImplementedError, match="no gradient of attn_mask"):
        flag_gems.scaled_dot_product_attention(q, k, v, draw(7, 9).requires_grad_())
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_dropout() -> None:
    """The same seed gives the same bits; gradients belong to the weights that stayed."""
    q, k, v = (t.requires_grad_() for t in operands(1, 2, 1, 40, 300, 16, 300, torch.float64))
    eye = torch.eye(300, dtype=torch.float64, device=DEVICE).expand(1, 1, 300, 300).clone().requires_grad_()

    def call(value: Tensor) -> Tensor:
        torch.manual_seed(4)
        return flag_gems.scaled_dot_product_attention(q, k, value, dropout_p=0.25, enable_gqa=True)

    weights = call(eye)  # what each key's value is multiplied by
    assert torch.equal(weights, call(eye))
    exact = (q @ k.transpose(-1, -2) * 0.25).softmax(-1)
    stays = weights != 0
    assert abs(stays.double().mean().item() - 0.75) < 0.01
    assert (stays.double().mean(2) - 0.75).abs().max() < 0.35 and not torch.equal(stays[0, 0], stays[0, 1])
    close(weights, (exact * stays / 0.75).detach())
    grad = draw(1, 2, 40, 300, dtype=torch.float64, seed=6)
    mine = torch.autograd.grad(call(v), (q, k, v), grad)
    theirs = torch.autograd.grad((exact * stays / 0.75) @ v, (q, k, v), grad)
    for a, b in zip(mine, theirs, strict=True):
        close(a, b)
    single = [t.detach().float() for t in (q, k, eye)]  # the numbers do not depend on the dtype
    torch.manual_seed(4)
    again = flag_gems.scaled_dot_product_attention(*single, dropout_p=0.25, enable_gqa=True)
    assert torch.equal(again != 0, stays)


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "added"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_gradients_without_the_kernel(kind: str, dropout: float) -> None:
    """What stands in where a device has no room for the tiles: the kernel's gradients."""
    q, k, v = operands(2, 4, 2, 40, 70, 16, 24, torch.float64)
    mask = None if kind in ("none", "causal") else mask_of(kind, (40, 70), torch.float64)
    options = (dropout, kind == "causal", None, True)
    out, lse, *drawn = attention._attend(q, k, v, mask, *options)
    given = (draw(*out.shape, dtype=torch.float64, seed=6), q, k, v, out, lse, mask, *options, *drawn)
    for mine, theirs in zip(attention._composed_backward(*given), attention._backward(*given), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_same_bits_twice() -> None:
    q, k, v = (t.requires_grad_() for t in operands(1, 4, 2, 100, 300, 64, 64, torch.bfloat16))

    def run() -> tuple[Tensor, ...]:
        out = flag_gems.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out, *torch.autograd.grad(out.sum(), (q, k, v))

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_refused() -> None:
    q = draw(1, 2, 4, 8)
    with pytest.raises(RuntimeError, match="exclude each other"):
        flag_gems.scaled_dot_product_attention(q, q, q, draw(4, 4), is_causal=True)
    with pytest.raises(RuntimeError, match="heads"):
        flag_gems.scaled_dot_product_attention(
            q, q[:, :1].expand(1, 3, 4, 8), q[:, :1].expand(1, 3, 4, 8), enable_gqa=True
        )
    with pytest.raises(RuntimeError, match="dtypes"):
        flag_gems.scaled_dot_product_attention(q, q.double(), q)
    with pytest.raises(RuntimeError, match="mask"):
        flag_gems.scaled_dot_product_attention(q, q, q, draw(3, 4))
    with pytest.raises(ValueError, match="dropout"):
        flag_gems.scaled_dot_product_attention(q, q, q, dropout_p=1.5)
    with pytest.raises(NotImplementedError, match="dropout"):
        flag_gems.scaled_dot_product_attention_backward(q, q, q, q, q, q[..., 0], dropout_p=0.5)


def test_compile() -> None:
    q, k, v = (t.requires_grad_() for t in operands(2, 2, 2, 7, 9, 8, 8, torch.float32))
    compiled = torch.compile(flag_gems.scaled_dot_product_attention, fullgraph=True, backend="aot_eager")
    out = compiled(q, k, v)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))
    assert torch.autograd.grad(out.sum(), k)[0].shape == k.shape


# ---- ATen's operators ----


@pytest.mark.skipif(DEVICE != "cpu", reason="ATen's operators of a CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_torch_lands_here(dtype: torch.dtype) -> None:
    """F.scaled_dot_product_attention with gradients, in our kernels: strides and all."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    for heads, options in ((4, {}), (4, {"is_causal": True}), (4, {"attn_mask": 1}), (2, {"enable_gqa": True})):
        made = operands(2, 4, heads, 33, 40, 16, 16, dtype)
        if "attn_mask" in options:
            options = {"attn_mask": draw(33, 40, dtype=dtype)}
        grad = draw(2, 4, 33, 16, dtype=dtype, seed=3)

        def run(made: Any = made, options: Any = options, grad: Any = grad) -> list[Tensor]:
            args = [t.detach().requires_grad_() for t in made]
            out = F.scaled_dot_product_attention(*args, **options)
            return [out, *torch.autograd.grad(out, args, grad)]

        expected = run()
        flag_gems.reset_stats()
        with flag_gems.use_gems():
            found = run()
        assert counts(name) == counts(name + "_backward") == {"kernel": 1, "fallback": 0}
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=3e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)
            assert mine.stride() == theirs.stride()


@pytest.mark.skipif(DEVICE != "cpu", reason="ATen's operators of a CPU")
def test_results_of_the_operator_for_a_cpu() -> None:
    """The logsumexp as ATen lays it out, also of rows that see nothing; what ATen refuses is left to it."""
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    q = draw(2, 3, 5, 8)
    mask = torch.zeros(5, 5)
    mask[0] = -torch.inf
    expected = op(q, q, q, attn_mask=mask)
    with flag_gems.use_gems():
        found = op(q, q, q, attn_mask=mask)
        for args, kwargs in (((q, q, q, 0.5), {}), ((q, q, q), {"attn_mask": mask > 0}), ((q, q, q[..., :4]), {})):
            with pytest.raises(RuntimeError, match="scaled_dot_product_attention_flash_attention"):
                op(*args, **kwargs)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert mine.stride() == theirs.stride()


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU leaves it to ATen")
def test_operator_of_a_gpu() -> None:
    """_flash_attention_forward, which ATen has on GPUs alone: dense and packed, with all that it gives."""
    q, k = draw(2, 9, 4, 16), draw(2, 9, 2, 16, seed=1)
    made = flag_gems.flash_attention_forward(q, k, k, None, None, 9, 9, 0.0, True, False)
    assert [(t.shape, t.dtype) for t in made[2:]] == [((2,), torch.uint64), ((), torch.uint64), ((0,), torch.float32)]
    exact, logs = reference(*(t.transpose(1, 2) for t in (q, k, k)), causal=True)
    close(made[0], exact.transpose(1, 2))
    close(made[1], logs, 20)
    starts = torch.tensor([0, 9, 18], dtype=torch.int32)
    args = [t.flatten(0, 1) for t in (q, k, k)]
    packed = flag_gems.flash_attention_forward(*args, starts, starts, 9, 9, 0.0, True, False, window_size_left=20)
    close(packed[0], made[0].flatten(0, 1).double())
    with pytest.raises(NotImplementedError):
        flag_gems.flash_attention_forward(q, k, k, None, None, 9, 9, 0.5, True, False)


# ---- kernels without a GPU ----


@pytest.mark.parametrize("scope", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_checked_mode(scope: str) -> None:
    """The kernels of a GPU, with races and accesses watched."""
    env = dict(os.environ, GEMS_CPU_MODE="checked", GEMS_VENDOR="cpu")
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    command = [sys.executable, str(HERE / "attention_cases.py"), scope]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("arch", sass.SM_90A_QUICK)
def test_machine_code(arch: str) -> None:
    """Tensor cores, background copies, nothing spilled, in each program that warmup compiles for halves."""
    work = [("attention_forward", i, ["attention"]) for i in range(4)]
    work += [("attention_backward", i, ["attention_queries", "attention_keys"]) for i in range(2)]
    for row, i, entries in work:
        text = _C.program_text(row, "bfloat16", i, arch, "cuda")
        found = sass.kernels(text, entries, arch)
        for kernel in (found[name] for name in entries):
            assert kernel.spill_bytes == 0, (row, i, kernel.name, kernel.registers)
            assert kernel.has("HMMA.BF16", "LDGSTS.128", "LDSM", "MUFU.EX2")
            assert row != "attention_forward" or kernel.has("STG.E.128")

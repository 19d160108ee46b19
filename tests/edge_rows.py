"""Rows that begin and end anywhere, as a module and as a program for the cpu mode that the environment names."""

from __future__ import annotations

import sys

import flag_gems
import torch
import torch.nn.functional as F
from torch import Tensor

from long_rows import ATEN, OPS, near


def lie(rows: int, n: int, dtype: torch.dtype, at: int, device: str) -> Tensor:
    """Rows that begin so many elements behind an aligned place."""
    x = torch.empty(rows * n + 32, dtype=dtype, device=device)
    first = -(x.data_ptr() // x.element_size()) % 16 + at
    return x[first : first + rows * n].view(rows, n).copy_(torch.randn(rows, n) * 2)


def rows(count: int, n: int, dtype: torch.dtype, at: int, device: str) -> None:
    """Softmax and norms, forward and backward, into places that begin as their inputs do."""

    def like(value: Tensor) -> Tensor:
        return lie(count, n, dtype, at, device).copy_(value)

    x, g = (lie(count, n, dtype, at, device) for _ in range(2))
    w, b = lie(1, n, dtype, 3, device)[0], lie(1, n, dtype, 1, device)[0]
    X, G, W, B = (v.double() for v in (x, g, w, b))
    for log in (False, True):
        exact = X.log_softmax(1) if log else X.softmax(1)
        out = like(x)
        with flag_gems.use_gems():
            (ATEN._log_softmax if log else ATEN._softmax).out(x, 1, False, out=out)
        near("softmax", out, exact, dtype)
        y = like(exact)
        back = OPS._log_softmax_backward_data if log else OPS._softmax_backward_data
        aten = ATEN._log_softmax_backward_data if log else ATEN._softmax_backward_data
        near("gradient", back(g, y, 1, dtype), aten(G, y.double(), 1, torch.float64), dtype)
    Y, M, R = ATEN.native_layer_norm(X, [n], W, B, 1e-5)
    y, mean, rstd = OPS.native_layer_norm(x, [n], w, b, 1e-5)
    for name, ours, exact in (("layer_norm", y, Y), ("mean", mean, M), ("rstd", rstd, R)):
        near(name, ours, exact, ours.dtype)
    kept = M.to(mean.dtype), R.to(rstd.dtype)
    ours = OPS.native_layer_norm_backward(g, x, [n], *kept, w, b, [True] * 3)
    exact = ATEN.native_layer_norm_backward(G, X, [n], *(s.double() for s in kept), W, B, [True] * 3)
    for i, (a, e) in enumerate(zip(ours, exact, strict=True)):
        near(f"layer_norm's gradient {i}", a, e, dtype)
    near("rms_norm", OPS._fused_rms_norm(x, [n], w, 1e-5)[0], F.rms_norm(X, [n], W, 1e-5), dtype)
    total = (x + g).double().requires_grad_()
    exact = F.layer_norm(total, [n], W, B, 1e-5)
    near("skip_layer_norm", flag_gems.skip_layer_norm(x, g, [n], w, b, 1e-5), exact.detach(), dtype)
    ours = torch.ops.flag_gems.skip_layer_norm_backward(g, x, g, w, b, [n], 1e-5)
    near("its gradient", ours[0], torch.autograd.grad(exact, total, G)[0], dtype)
    a, c = like(x), like(g)
    flag_gems.fused_add_rms_norm(a, c, [n], w, 1e-5)
    assert torch.equal(c, x + g)
    near("fused_add_rms_norm", a, F.rms_norm((x + g).double(), [n], W, 1e-5), dtype)


def lines(count: int, n: int, dtype: torch.dtype, at: int, device: str) -> None:
    """Scans and sums; of lines that lie apart too."""
    for x in (torch.randn(count, n).to(dtype).to(device), torch.randn(count, n + 8).to(dtype).to(device)[:, :n]):
        X = x.double()
        for name, ours, exact in (
            ("cumsum", OPS.cumsum(x, 1), X.cumsum(1)),
            ("logcumsumexp", OPS.logcumsumexp(x, 1), X.logcumsumexp(1)),
            ("sum", OPS.sum(x.abs(), 1), X.abs().sum(1)),
            ("var", OPS.var(x, 1), X.var(1)),
        ):
            near(name, ours, exact, dtype)
        for ours, exact in ((OPS.cummax(x, 1), torch.cummax(x, 1)), (OPS.cummin(x, 1), torch.cummin(x, 1))):
            assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))
        k = (x * 8).to(torch.int32)
        assert torch.equal(OPS.cumsum(k, 1), torch.cumsum(k, 1))


def sums(count: int, n: int, dtype: torch.dtype, at: int, device: str) -> None:
    """All gradients of norms in one reading."""
    if device == "cuda":
        count *= 40
    x, g = (torch.randn(count, n).to(dtype).to(device) for _ in range(2))
    w, b = (torch.randn(n).to(dtype).to(device) for _ in range(2))
    X, G, W, B = (v.double() for v in (x, g, w, b))
    _, M, R = ATEN.native_layer_norm(X, [n], W, B, 1e-5)
    _, mean, rstd = OPS.native_layer_norm(x, [n], w, b, 1e-5)
    kept = M.to(mean.dtype), R.to(rstd.dtype)
    exact = ATEN.native_layer_norm_backward(G, X, [n], *(s.double() for s in kept), W, B, [True] * 3)
    for wanted in ([True, True, True], [True, False, True]):
        ours = OPS.native_layer_norm_backward(g, x, [n], *kept, w, b, wanted)
        for i, (a, e) in enumerate(zip(ours, exact, strict=True)):
            if wanted[i]:
                near(f"layer_norm's gradient {i}", a, e, dtype)
    _, rstd = OPS._fused_rms_norm(x, [n], w, 1e-5)
    ours = OPS._fused_rms_norm_backward(g, x, [n], rstd, w, [True, True])
    leaves = X.requires_grad_(), W.requires_grad_()
    for a, e in zip(ours, torch.autograd.grad(F.rms_norm(*leaves[:1], [n], W, 1e-5), leaves, G), strict=True):
        near("rms_norm's gradients", a, e, dtype)


F16, B16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
CASES = {
    "short": (rows, (9, 333, B16, 5), (5, 257, F32, 2)),
    "long": (rows, (9, 37, F32, 0), (3, 1000, F16, 1), (3, 5003, B16, 0), (2, 9001, F32, 3), (2, 40003, B16, 7)),
    "double": (rows, (3, 4999, F64, 1)),
    "lines": (
        lines,
        (7, 33, F32, 0),
        (9, 1001, B16, 0),
        (3, 5003, F32, 0),
        (2, 40001, B16, 0),
        (5, 20003, F32, 0),
        (1, 100003, F32, 0),
    ),
    "sums": (sums, (150, 516, F32, 0), (120, 1024, B16, 0), (40, 8192, F32, 0), (70, 3000, F16, 0)),
}


def run(name: str, device: str) -> None:
    torch.manual_seed(0)
    check, *cases = CASES[name]
    for count, n, dtype, at in cases:
        check(count, n, dtype, at, device)


if __name__ == "__main__":
    run(sys.argv[1], "cpu")

"""Run as a program, in the cpu mode that the environment names: operators along rows that clusters of blocks share."""

from __future__ import annotations

import sys

import flag_gems
import torch
import torch.nn.functional as F
from torch import Tensor

ATEN, OPS = torch.ops.aten, flag_gems.ops
torch.manual_seed(0)


def near(name: str, ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype, name
    step = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps * 3)
    size = float(exact.double().abs().max())
    torch.testing.assert_close(
        ours.double(), exact.double(), rtol=step, atol=step * size, msg=lambda text: f"{name}: {text}"
    )


def softmax(x: Tensor, g: Tensor, w: Tensor, b: Tensor) -> None:
    n, t = x.shape[1], x.dtype
    X, G = x.double(), g.double()
    for log in (False, True):
        forward = OPS._log_softmax if log else OPS._softmax
        back = OPS._log_softmax_backward_data if log else OPS._softmax_backward_data
        exact = X.log_softmax(1) if log else X.softmax(1)
        near("softmax", forward(x, 1, False), exact, t)
        y = exact.to(t)
        aten = ATEN._log_softmax_backward_data if log else ATEN._softmax_backward_data
        near("gradient", back(g, y, 1, t), aten(G, y.double(), 1, torch.float64), t)
    x = x.clone()
    x[0, : n - 3] = -float("inf")  # whole parts of a row
    near("infinities", OPS._softmax(x, 1, False), x.double().softmax(1), t)
    x[0] = -float("inf")
    assert OPS._softmax(x, 1, False)[0].isnan().all() and not OPS._softmax(x, 1, False)[1:].isnan().any()
    x[0, 5] = float("nan")
    assert OPS._softmax(x, 1, False)[0].isnan().all() and OPS._log_softmax(x, 1, False)[0].isnan().all()


def norms(x: Tensor, g: Tensor, w: Tensor, b: Tensor) -> None:
    n, t = x.shape[1], x.dtype
    x = x + 100
    X, G, W, B = (v.double() for v in (x, g, w, b))
    y, mean, rstd = OPS.native_layer_norm(x, [n], w, b, 1e-5)
    Y, M, R = ATEN.native_layer_norm(X, [n], W, B, 1e-5)
    near("layer_norm", y, Y, t)
    kept = M.to(mean.dtype), R.to(rstd.dtype)
    ours = OPS.native_layer_norm_backward(g, x, [n], *kept, w, b, [True] * 3)
    exact = ATEN.native_layer_norm_backward(G, X, [n], *(s.double() for s in kept), W, B, [True] * 3)
    for i, (a, e) in enumerate(zip(ours, exact, strict=True)):
        near(f"layer_norm's gradient {i}", a, e, t)
    y, rstd = OPS._fused_rms_norm(x, [n], w, 1e-5)
    near("rms_norm", y, F.rms_norm(X, [n], W, 1e-5), t)
    total = (x + g).double()
    near("skip_layer_norm", flag_gems.skip_layer_norm(x, g, [n], w, b, 1e-5), F.layer_norm(total, [n], W, B, 1e-5), t)
    a, c = x.clone(), g.clone()
    flag_gems.fused_add_rms_norm(a, c, [n], w, 1e-5)
    assert torch.equal(c, x + g)
    near("fused_add_rms_norm", a, F.rms_norm((x + g).double(), [n], W, 1e-5), t)
    ours = OPS._weight_norm_interface(x, g[:, :1].contiguous(), 0)[0]
    near("weight_norm", ours, X * (G[:, :1] / X.norm(dim=1, keepdim=True)), t)
    z = x.reshape(1, x.shape[0] * 2, n // 2) if n % 2 == 0 else x.reshape(1, x.shape[0], n)
    c = z.shape[1]
    w, b = w[:c].contiguous(), b[:c].contiguous()
    ours = OPS.native_group_norm(z, w, b, 1, c, z.shape[2], x.shape[0], 1e-5)[0]
    near("group_norm", ours, F.group_norm(z.double(), x.shape[0], w.double(), b.double()), t)


def losses(x: Tensor, g: Tensor, w: Tensor, b: Tensor) -> None:
    n, t = x.shape[1], x.dtype
    target = torch.randint(0, n, (x.shape[0],))
    target[-1] = -100
    x = x.requires_grad_()
    loss = flag_gems.cross_entropy_loss(x, target, reduction="sum", label_smoothing=0.1)
    loss.backward()
    X = x.detach().double().requires_grad_()
    exact = F.cross_entropy(X, target, reduction="sum", label_smoothing=0.1)
    exact.backward()
    near("cross_entropy", loss.detach(), exact.detach(), t)
    near("cross_entropy's gradient", x.grad, X.grad, t)


def many(x: Tensor, g: Tensor, w: Tensor, b: Tensor) -> None:
    n, t = x.shape[1], x.dtype
    X, G, W, B = (v.double() for v in (x, g, w, b))
    near("softmax", OPS._softmax(x, 1, False), X.softmax(1), t)
    y = X.softmax(1).to(t)
    exact = ATEN._softmax_backward_data(G, y.double(), 1, torch.float64)
    near("softmax's gradient", OPS._softmax_backward_data(g, y, 1, t), exact, t)
    y, mean, rstd = OPS.native_layer_norm(x, [n], w, b, 1e-5)
    Y, M, R = ATEN.native_layer_norm(X, [n], W, B, 1e-5)
    for name, ours, exact in (("layer_norm", y, Y), ("mean", mean, M), ("rstd", rstd, R)):
        near(name, ours, exact, ours.dtype)
    kept, wanted = (M.to(mean.dtype), R.to(rstd.dtype)), [True, False, False]
    of_x = OPS.native_layer_norm_backward(g, x, [n], *kept, w, b, wanted)[0]
    exact = ATEN.native_layer_norm_backward(G, X, [n], *(s.double() for s in kept), W, B, wanted)[0]
    near("layer_norm's gradient", of_x, exact, t)
    a, c = x.clone(), g.clone()
    flag_gems.fused_add_rms_norm(a, c, [n], w, 1e-5)
    assert torch.equal(c, x + g)
    near("fused_add_rms_norm", a, F.rms_norm((x + g).double(), [n], W, 1e-5), t)
    total = (x + g).double()
    near("skip_layer_norm", flag_gems.skip_layer_norm(x, g, [n], w, b, 1e-5), F.layer_norm(total, [n], W, B, 1e-5), t)
    ours = torch.ops.flag_gems.skip_layer_norm_backward(g, x, g, w, b, [n], 1e-5)
    S = (x + g).double().requires_grad_()
    near("skip_layer_norm's gradient", ours[0], torch.autograd.grad(F.layer_norm(S, [n], W, B, 1e-5), S, G)[0], t)
    assert torch.equal(ours[0], ours[1])


MANY = ((torch.float32, 14, 17000), (torch.bfloat16, 14, 34003))
FEW = ((torch.float32, 2, 8200), (torch.float32, 1, 33001), (torch.bfloat16, 3, 40000), (torch.float64, 1, 5002))


def main() -> None:
    for name in sys.argv[1].split(","):
        for dtype, rows, n in MANY if name == "many" else FEW:
            x, g = (torch.randn(rows, n).to(dtype) for _ in range(2))
            w, b = (torch.randn(n).to(dtype) for _ in range(2))
            globals()[name](x, g, w, b)


if __name__ == "__main__":
    main()

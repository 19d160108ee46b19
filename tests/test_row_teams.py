"""How rows are spread over threads, blocks and clusters: the table for every length on every device, and clusters at work."""

from __future__ import annotations

import ctypes as C
import functools
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import native
from cpu_modes import run_in_mode
from native import DeviceInfo

AGAIN, REGISTERS, SHARED = range(3)


class Rows(C.Structure):
    """gems_rows."""

    _fields_ = [
        *(("rows", C.c_int64), ("n", C.c_int64), ("size", C.c_size_t)),
        *(("registers", C.c_int), ("kept", C.c_int), ("aligned", C.c_bool)),
    ]


class Team(C.Structure):
    """gems_team."""

    _fields_ = [
        *((name, C.c_uint8) for name in ("vec", "stage", "items", "warp_row", "cluster")),
        *((name, C.c_uint32) for name in ("threads", "grid", "shared")),
    ]


DEVICES = {
    "A100": DeviceInfo(80, 108, 32, 1024, 16, 163 * 1024, 40 << 20),
    "H200": DeviceInfo(90, 132, 32, 1024, 16, 227 * 1024, 60 << 20),
    "B200": DeviceInfo(100, 148, 32, 1024, 16, 227 * 1024, 126 << 20),
    "RTX 5090": DeviceInfo(120, 170, 32, 1024, 16, 99 * 1024, 96 << 20),
    "faithful": DeviceInfo(0, 4, 32, 1024, 16, 99 * 1024, 1 << 20),
    "faithful sm_90a": DeviceInfo(0, 4, 32, 1024, 16, 227 * 1024, 1 << 20, False, False, True),
}
MOST = {"A100": 1, "H200": 16, "B200": 16, "RTX 5090": 8, "faithful": 1, "faithful sm_90a": 8}


@functools.cache
def library() -> C.CDLL:
    stub = native._directory() / "grid_for.c"
    stub.write_text(
        '#include "families/call.h"\n'
        "uint32_t gems_grid_for(const gems_device_info *info, int64_t n, int64_t each) {\n"
        "    (void)info;\n    return (uint32_t)((n + each - 1) / each);\n}\n"
    )
    built = C.CDLL(str(native.build("libgems_row_team.so", (Path("families/row_team.c"), stub), ())))
    built.gems_team_of.restype = Team
    return built


def team(device: str, rows: int, n: int, size: int, registers: int = 1, kept: int = 1, aligned: bool = True) -> Team:
    return library().gems_team_of(C.byref(DEVICES[device]), C.byref(Rows(rows, n, size, registers, kept, aligned)))


def vectors(n: int, t: Team) -> int:
    """Of a block: the blocks of a cluster have equal parts, the last ones less."""
    return -(-(-(-n // t.vec)) // t.cluster)


@given(
    device=st.sampled_from(sorted(DEVICES)),
    rows=st.one_of(st.integers(1, 64), st.integers(1, 1 << 22)),
    n=st.one_of(st.integers(1, 4096), st.integers(1, 1 << 21), st.sampled_from([1 << k for k in range(24)])),
    size=st.sampled_from([2, 4, 8]),
    registers=st.sampled_from([1, 2, 4]),
    kept=st.sampled_from([1, 2]),
    aligned=st.booleans(),
)
def test_every_row_has_its_team(
    device: str, rows: int, n: int, size: int, registers: int, kept: int, aligned: bool
) -> None:
    t, info = team(device, rows, n, size, registers, kept, aligned), DEVICES[device]
    own, each = vectors(n, t), t.threads
    assert t.vec == (16 // size if aligned else 1) and 1 <= t.cluster <= MOST[device]
    assert each % 32 == 0 and 64 <= each <= info.max_threads and t.grid % t.cluster == 0 and t.grid > 0
    assert t.cluster & (t.cluster - 1) == 0
    if t.warp_row:
        assert t.cluster == 1 and t.stage == REGISTERS and each == 128 and t.items * 32 >= own
    elif t.stage == REGISTERS:
        assert t.items * each >= own and t.items in (1, 2, 4, 8)
        assert each == 64 or t.items == 1 or t.items * each < 2 * own + each
    elif t.stage == SHARED:
        assert own * t.vec * size * kept <= t.shared <= info.shared_bytes - 4096
    else:
        assert t.shared == 0
    if MOST[device] > 1 and t.stage == REGISTERS and not t.warp_row:
        assert 2 * each <= 1024  # two blocks find room on a processor
    if t.cluster > 8:  # as many blocks at once only where two of them share a processor
        assert 2 * t.shared <= info.shared_bytes and each <= 512


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("device", ["H200", "B200"])
def test_long_rows_are_read_once(device: str, size: int) -> None:
    """Up to 262,144 columns and beyond, forward and backward, whatever the rows begin at."""
    lengths = (1000, 1024, 4096, 16384, 65536, 131072, 262144, 300001)
    for n, kept, aligned in itertools.product(lengths, (1, 2), (True, False)):
        t = team(device, 512, n, size, kept, kept, aligned and n % (16 // size) == 0)
        assert t.stage != AGAIN or n * size * kept > 1 << 20 and kept == 2, (n, kept, aligned)


def test_the_table() -> None:
    """(columns, rows) to (threads, accesses of a thread, blocks of a row) on an H200, fp32."""
    table = {
        (1024, 1 << 17): (128, 8, 1, 1),
        (1024, 8): (64, 4, 1, 0),
        (4096, 1 << 15): (256, 4, 1, 0),
        (8192, 1 << 14): (256, 8, 1, 0),
        (16384, 1 << 13): (512, 8, 1, 0),
        (32768, 1 << 12): (512, 8, 2, 0),
        (65536, 1 << 11): (512, 8, 4, 0),
        (131072, 1 << 10): (512, 8, 8, 0),
        (262144, 1 << 9): (512, 8, 16, 0),
    }
    found = {}
    for n, rows in table:
        t = team("H200", rows, n, 4)
        assert t.stage == REGISTERS
        found[n, rows] = (t.threads, t.items, t.cluster, t.warp_row)
    assert found == table


def test_few_rows_fill_the_device() -> None:
    for rows, n in ((1, 1 << 20), (4, 1 << 18), (16, 1 << 16)):
        t = team("H200", rows, n, 4)
        assert t.grid >= 8 * rows
    assert team("H200", 1, 1024, 4).cluster == 1
    assert team("A100", 1, 1 << 20, 4).grid == 1


# ---- clusters at work, where the cpu backend plays an sm_90a device ----

CASES = """
import os, sys
import flag_gems, torch
import torch.nn.functional as F
from torch import Tensor
ATEN, ops = torch.ops.aten, flag_gems.ops
torch.manual_seed(0)

def near(name, ours, exact, dtype):
    assert ours.dtype == dtype, name
    step = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps * 3)
    torch.testing.assert_close(ours.double(), exact.double(), rtol=step, atol=step * float(exact.double().abs().max()), msg=lambda m: name + ": " + m)

def softmax(x, g, w, b):
    n, t = x.shape[1], x.dtype
    X, G = x.double(), g.double()
    for log in (False, True):
        forward, back = (ops._log_softmax, ops._log_softmax_backward_data) if log else (ops._softmax, ops._softmax_backward_data)
        exact = X.log_softmax(1) if log else X.softmax(1)
        near("softmax", forward(x, 1, False), exact, t)
        y = exact.to(t)
        aten = ATEN._log_softmax_backward_data if log else ATEN._softmax_backward_data
        near("gradient", back(g, y, 1, t), aten(G, y.double(), 1, torch.float64), t)
    x = x.clone()
    x[0, : n - 3] = -float("inf")  # whole parts of a row
    near("infinities", ops._softmax(x, 1, False), x.double().softmax(1), t)
    x[0] = -float("inf")
    assert ops._softmax(x, 1, False)[0].isnan().all() and not ops._softmax(x, 1, False)[1:].isnan().any()
    x[0, 5] = float("nan")
    assert ops._softmax(x, 1, False)[0].isnan().all() and ops._log_softmax(x, 1, False)[0].isnan().all()

def norms(x, g, w, b):
    n, t = x.shape[1], x.dtype
    x = x + 100
    X, G, W, B = (v.double() for v in (x, g, w, b))
    y, mean, rstd = ops.native_layer_norm(x, [n], w, b, 1e-5)
    Y, M, R = ATEN.native_layer_norm(X, [n], W, B, 1e-5)
    near("layer_norm", y, Y, t)
    for i, (a, e) in enumerate(zip(ops.native_layer_norm_backward(g, x, [n], M.to(mean.dtype), R.to(rstd.dtype), w, b, [True] * 3), ATEN.native_layer_norm_backward(G, X, [n], M.to(mean.dtype).double(), R.to(rstd.dtype).double(), W, B, [True] * 3))):
        near(f"layer_norm's gradient {i}", a, e, t)
    y, rstd = ops._fused_rms_norm(x, [n], w, 1e-5)
    near("rms_norm", y, F.rms_norm(X, [n], W, 1e-5), t)
    near("skip_layer_norm", flag_gems.skip_layer_norm(x, g, [n], w, b, 1e-5), F.layer_norm((x + g).double(), [n], W, B, 1e-5), t)
    a, c = x.clone(), g.clone()
    flag_gems.fused_add_rms_norm(a, c, [n], w, 1e-5)
    assert torch.equal(c, x + g)
    near("fused_add_rms_norm", a, F.rms_norm((x + g).double(), [n], W, 1e-5), t)
    near("weight_norm", ops._weight_norm_interface(x, g[:, :1].contiguous(), 0)[0], X * (G[:, :1] / X.norm(dim=1, keepdim=True)), t)
    z = x.reshape(1, x.shape[0] * 2, n // 2) if n % 2 == 0 else x.reshape(1, x.shape[0], n)
    c = z.shape[1]
    w, b = w[:c].contiguous(), b[:c].contiguous()
    near("group_norm", ops.native_group_norm(z, w, b, 1, c, z.shape[2], x.shape[0], 1e-5)[0], F.group_norm(z.double(), x.shape[0], w.double(), b.double()), t)

def losses(x, g, w, b):
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

for name in sys.argv[1].split(","):
    for dtype, rows, n in ((torch.float32, 2, 8200), (torch.float32, 1, 33001), (torch.bfloat16, 3, 40000), (torch.float64, 1, 5002)):
        x, g = (torch.randn(rows, n).to(dtype) for _ in range(2))
        w, b = (torch.randn(n).to(dtype) for _ in range(2))
        globals()[name](x, g, w, b)
"""


@pytest.mark.parametrize("what", ["softmax", "norms", "losses"])
def test_clusters_checked(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMS_CPU_DEVICE", "sm_90a")
    monkeypatch.setenv("GEMS_STRICT", "1")
    run_in_mode("checked", "forward", "-c", CASES, what)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "random:5"])
def test_clusters_in_any_order(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMS_CPU_DEVICE", "sm_90a")
    monkeypatch.setenv("GEMS_STRICT", "1")
    run_in_mode("faithful", order, "-c", CASES, "softmax,norms,losses")

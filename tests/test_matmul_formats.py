"""Matrix products of float32 rounded to tf32, float64 on tensor cores, int8 and fp8.

The kernels of a GPU run thread by thread on the CPU, in processes of their own; what cpu and GPU have in common is held
to float64, and to whole numbers where the format has them.
"""

from __future__ import annotations

import ctypes as C
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sass
from compare import Raised, outcome
from cpu_modes import run_program
from test_matmul_config import ALONG_K, ALONG_LINES, F32, F64, GPUS, Config, library, program
from test_matmul_wgmma import H200

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
I8, I32, E5M2, E4M3 = 1, 3, 23, 24
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
LAYOUTS = ("rows", "columns", "stepped")


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same matrix with contiguous rows, with contiguous columns, or with neither."""
    if layout == "columns":
        return t.t().contiguous().t()
    if layout == "stepped":
        wide = torch.zeros(t.shape[0], 2 * t.shape[1] + 1, dtype=t.dtype, device=t.device)
        wide[:, 1::2].copy_(t)
        return wide[:, 1::2]
    return t.contiguous()


def whole(m: int, n: int, layout: str) -> Tensor:
    return laid_out(torch.randint(-128, 128, (m, n), dtype=torch.int8, device=DEVICE), layout)


def small(m: int, n: int, dtype: torch.dtype, layout: str) -> Tensor:
    return laid_out(torch.randn(m, n, device=DEVICE).to(dtype), layout)


def counted(name: str, call: Callable[[], Tensor]) -> Tensor:
    """What a call gives, which our kernel has computed; on a GPU, which leaves many sizes to ATen, one of the two."""
    flag_gems.reset_stats()
    result = call()
    ran = flag_gems.stats()[name]
    assert ran == {"kernel": 1, "fallback": 0} or (DEVICE == "cuda" and ran["kernel"] + ran["fallback"] == 1), ran
    return result


def check_whole(m: int, n: int, k: int, left: str, right: str) -> None:
    a, b = whole(m, k, left), whole(k, n, right)
    result = counted("_int_mm", lambda: ops._int_mm(a, b))
    assert result.dtype == torch.int32 and result.is_contiguous()
    assert torch.equal(result.cpu().long(), a.cpu().long() @ b.cpu().long())
    out = torch.empty_like(result)
    assert counted("_int_mm.out", lambda: ops._int_mm_out(a, b, out=out)) is out and torch.equal(out, result)


def check_scaled(
    m: int,
    n: int,
    k: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    result: torch.dtype,
    rows: bool = False,
    layouts: tuple[str, str] = ("rows", "columns"),
    biased: bool = False,
    fast: bool = True,
) -> None:
    """Beside float64: sums of k products in float32, and one rounding to the result's dtype."""
    a, b = small(m, k, dtypes[0], layouts[0]), small(k, n, dtypes[1], layouts[1])
    shapes = ((m, 1), (1, n)) if rows else ((), (1,))
    scales = [torch.rand(shape, device=DEVICE) + 0.5 for shape in shapes]
    bias = torch.randn(n, device=DEVICE).to(result) if biased else None
    got = counted("_scaled_mm", lambda: ops._scaled_mm(a, b, *scales, bias, None, result, fast))
    exact, size = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    for scale in scales:
        exact, size = exact * scale.double(), size * scale.double()
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    own = torch.finfo(result)
    bound = (k + 4) * torch.finfo(torch.float32).eps * size + own.eps / 2 * exact.abs() + own.tiny * own.eps
    if DEVICE == "cuda":  # tensor cores keep 14 bits of sums of fp8, and every addition rounds; unless fast, 128 deep
        bound = bound + size * (2.0**-11 if fast else 2.0**-12)
    exact = exact.clamp(own.min, own.max)
    assert got.dtype == result and got.shape == (m, n) and got.is_contiguous()
    assert ((got.double() - exact).abs() <= bound).all(), ((got.double() - exact).abs() - bound).max()


def check_tf32(m: int, n: int, k: int, left: str, right: str) -> None:
    """Both operands rounded to 11 bits, their products summed in float32."""
    a, b = laid_out(torch.randn(m, k, device=DEVICE), left), laid_out(torch.randn(k, n, device=DEVICE), right)
    c = torch.randn(n, device=DEVICE)
    size = a.double().abs() @ b.double().abs()
    bound = size * (2.0**-10 + k * 2.0**-23)
    exact = a.double() @ b.double()
    error = (counted("mm", lambda: ops.mm(a, b)).double() - exact).abs()
    assert (error <= bound).all() and (error.max() > 1e-4 or k < 16)  # and it was rounded
    added = counted("addmm", lambda: ops.addmm(c, a, b, beta=2, alpha=0.5))
    assert ((added.double() - 0.5 * exact - 2 * c.double()).abs() <= bound + 1e-5).all()


def check_double(m: int, n: int, k: int, left: str, right: str) -> None:
    a, b = (
        laid_out(torch.randn(*s, dtype=torch.float64, device=DEVICE), x) for s, x in (((m, k), left), ((k, n), right))
    )
    bound = (k + 4) * 2.0**-52 * (a.abs() @ b.abs())
    assert ((counted("mm", lambda: ops.mm(a, b)) - torch.einsum("mk,kn->mn", a, b)).abs() <= bound).all()


def follow_the_setting() -> None:
    """Each way to say it is followed by the next call."""
    a, b = torch.randn(64, 64, device=DEVICE), torch.randn(64, 64, device=DEVICE)
    exact = a.double() @ b.double()
    matmul = torch.backends.cuda.matmul

    def rounds() -> bool:
        return bool((ops.mm(a, b).double() - exact).abs().max() > 1e-3)

    assert not rounds()
    for way in (
        lambda on: setattr(matmul, "allow_tf32", on),
        lambda on: torch.set_float32_matmul_precision("high" if on else "highest"),
        lambda on: setattr(matmul, "fp32_precision", "tf32" if on else "ieee"),
    ):
        for on in (True, False, True, False):
            way(on)
            assert rounds() is on
    matmul.fp32_precision = "tf32"
    exact = a.double() @ b[:, 0].double()
    assert (ops.mv(a, b[:, 0]).double() - exact).abs().max() < 1e-4  # products with a vector are not rounded


# What each group does on a CPU that plays a GPU. Narrow tiles are compiled fastest.
GROUPS: dict[str, Callable[[], Any]] = {
    "setting": follow_the_setting,
    "tf32": lambda: (
        torch.set_float32_matmul_precision("high"),
        [check_tf32(33, 30, 50, left, right) for left in LAYOUTS for right in LAYOUTS[:2]],
        check_tf32(20, 24, 600, "rows", "rows"),
    ),
    "double": lambda: (
        [check_double(33, 30, 50, left, right) for left in LAYOUTS for right in LAYOUTS[:2]],
        check_double(20, 24, 600, "rows", "rows"),
    ),
    "int8": lambda: (
        [check_whole(33, 30, 80, "rows", right) for right in LAYOUTS],
        check_whole(20, 24, 1000, "columns", "columns"),
    ),
    "fp8": lambda: (
        check_scaled(33, 30, 80, (FP8[0], FP8[0]), torch.bfloat16, biased=True),
        check_scaled(33, 48, 600, (FP8[0], FP8[1]), torch.float32, rows=True, layouts=("rows", "rows")),
    ),
    # sm_90a: operands that lie along k; more steps than stages.
    "wgmma tf32": lambda: (
        torch.set_float32_matmul_precision("high"),
        check_tf32(136, 60, 404, "rows", "columns"),
        check_tf32(130, 37, 40, "rows", "columns"),
    ),
    # One that lies along its lines is read to registers, in both orders of the sides.
    "wgmma turned": lambda: (
        torch.set_float32_matmul_precision("high"),
        check_tf32(200, 60, 404, "rows", "rows"),
        check_tf32(136, 60, 404, "columns", "columns"),
        check_tf32(132, 36, 44, "rows", "rows"),
    ),
    "wgmma int8": lambda: check_whole(136, 60, 2000, "rows", "columns"),
    "wgmma fp8": lambda: (
        check_scaled(136, 64, 1600, (FP8[0], FP8[1]), torch.bfloat16, biased=True, rows=True),
        check_scaled(130, 56, 272, (FP8[0], FP8[0]), torch.float32, fast=False),
    ),
}
PROGRAM = """
import sys, torch
from test_matmul_formats import GROUPS
torch.manual_seed(0)
for group in sys.argv[1:]:
    GROUPS[group]()
print("all right")
"""


SLOW = ("wgmma tf32", "wgmma int8", "fp8")


@pytest.mark.parametrize("group", [pytest.param(g, marks=pytest.mark.slow) if g in SLOW else g for g in GROUPS])
def test_kernels_of_a_gpu_thread_by_thread(group: str, tmp_path: Path) -> None:
    device = {"GEMS_CPU_DEVICE": "sm_90a"} if group.startswith("wgmma") else {}
    done = run_program("checked", PROGRAM, [group], tmp_path, **device)
    assert done.returncode == 0 and done.stdout.endswith("all right\n"), done.stdout + done.stderr
    kind = "matmul wgmma" if group.startswith("wgmma") else "matmul wide"
    assert f"compiled {kind}" in done.stderr, done.stderr


sizes = st.one_of(st.integers(1, 40), st.integers(1, 300))
seeds = st.integers(0, 2**31)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), seeds)
def test_int8_is_exact(m: int, n: int, k: int, left: str, right: str, seed: int) -> None:
    torch.manual_seed(seed)
    if DEVICE == "cuda":  # what ATen takes there
        m, n, k = m + 17, -(-n // 8) * 8, -(-k // 8) * 8
    check_whole(m, n, k, left, right)


def test_int8_is_exact_where_sums_are_large() -> None:
    a, b = (torch.full(s, -128, dtype=torch.int8, device=DEVICE) for s in ((40, 5000), (5000, 64)))
    assert (ops._int_mm(a, b) == 128 * 128 * 5000).all()


@settings(max_examples=40, deadline=None)
@given(
    *(sizes, sizes, sizes, st.sampled_from(FP8), st.sampled_from(FP8)),
    st.sampled_from((torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)),
    *(st.booleans(), st.booleans(), st.booleans(), st.sampled_from(LAYOUTS), seeds),
)
def test_fp8(
    m: int,
    n: int,
    k: int,
    left: torch.dtype,
    right: torch.dtype,
    result: torch.dtype,
    rows: bool,
    biased: bool,
    fast: bool,
    layout: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    biased = biased and result in (torch.bfloat16, torch.float16)
    if DEVICE == "cuda":  # what ATen takes there
        n, k, layout = -(-n // 16) * 16, -(-k // 16) * 16, "columns"
        rows, right = rows and result == torch.bfloat16, FP8[0]
        left = FP8[0] if rows else left
    check_scaled(m, n, k, (left, right), result, rows, ("rows", layout), biased, fast)


def test_a_scale_of_the_result_and_special_numbers_are_atens() -> None:
    a, b = small(32, 64, FP8[0], "rows"), small(64, 48, FP8[0], "columns")
    one, half = torch.tensor(1.0, device=DEVICE), torch.tensor(0.5, device=DEVICE)
    a.view(torch.uint8)[3, 5] = 0x7F  # NaN
    a[4] = 448
    for result in (FP8[0], torch.bfloat16):
        args = (a, b, half, one, None, half if DEVICE == "cpu" else None, result)
        ours = counted("_scaled_mm", lambda args=args: ops._scaled_mm(*args))
        torch.testing.assert_close(ours.float(), torch._scaled_mm(*args).float(), equal_nan=True, rtol=0.13, atol=0.02)


def test_what_aten_refuses_raises_its_errors() -> None:
    a, b = whole(20, 16, "rows"), whole(24, 8, "rows")
    f, one = small(32, 64, FP8[0], "rows"), torch.tensor(1.0, device=DEVICE)
    for call in (
        lambda o: o._int_mm(a, b),
        lambda o: o._int_mm(a, b.float()),
        lambda o: o._scaled_mm(f, f, one, one),
        lambda o: o._scaled_mm(f, f.t(), one.double(), one),
        lambda o: o._scaled_mm(f, f.t(), torch.ones(32, device=DEVICE), one),
        lambda o: o._scaled_mm(f, f.t(), one, one, torch.ones(3, device=DEVICE)),
    ):
        ours, aten = outcome(lambda call=call: call(ops)), outcome(lambda call=call: call(torch.ops.aten))
        assert isinstance(ours, Raised) and ours.same_as(aten), (ours, aten)


def found(function: str, dtype: int, *given: Any) -> list[Config]:
    """The configurations that a function of the family lists for a dtype."""
    named = getattr(library(), function)
    named.restype = C.c_bool
    configs: list[Config] = []
    while True:
        config = Config()
        if not named(*given, len(configs), C.byref(config)):
            return configs
        configs.append(config)


def tiles(dtype: int, arch: int) -> list[Config]:
    return [c for c in found("gems_matmul_candidate", dtype, dtype, arch) if c.kernel == 5]


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_machine_code(arch: str) -> None:
    number = int(arch.removeprefix("sm_").removesuffix("a"))
    wanted = {F32: "HMMA.TF32", F64: "DMMA", I8: "IMMA"}
    if number == 120:
        wanted[E4M3] = "QMMA"  # the others have fp8 for warpgroups, and multiply halves here
    for dtype, instruction in wanted.items():
        text, entries = program(
            tiles(dtype, number)[-1], dtype, ALONG_K, ALONG_K if dtype in (I8, E4M3) else ALONG_LINES
        )
        tile = sass.kernels(text, entries, arch)["matmul_tile"]
        assert tile.spill_bytes == 0 and tile.has(instruction), (dtype, sorted(set(tile.opcodes)))


def test_machine_code_of_warpgroups() -> None:
    for dtype, instruction in ((F32, "HGMMA"), (I8, "IGMMA"), (E4M3, "QGMMA")):
        config = found("gems_matmul_wgmma_candidate", dtype, C.byref(H200), dtype)[2]
        text, entries = program(config, dtype, ALONG_K, ALONG_K)
        kernel = sass.kernels(text, entries, "sm_90a")["matmul_wgmma"]
        assert kernel.spill_bytes == 0 and kernel.count(instruction) == 4 and kernel.has("UTMALDG")


@pytest.mark.slow
@pytest.mark.parametrize("arch", sass.ARCHS)
def test_no_tile_spills(arch: str) -> None:
    number = int(arch.removeprefix("sm_").removesuffix("a"))
    gathers = library().gems_matmul_gathers
    gathers.restype = C.c_bool
    for dtype in (F32, F64, I8, *((E4M3,) if number > 80 else ())):
        layouts = [(ALONG_K, ALONG_K)] if dtype in (I8, E4M3) else [(a, b) for a in range(4) for b in range(4)]
        for config in tiles(dtype, number):
            for a, b in layouts:
                if not gathers(dtype, config.kernel, config.parts.tile_m, config.parts.tile_n, a, b):
                    continue  # never chosen
                text, entries = program(config, dtype, a, b)
                assert sass.kernels(text, entries, arch)["matmul_tile"].spill_bytes == 0, (dtype, a, b)
    assert GPUS  # the devices whose limits test_matmul_config holds the tiles to


@pytest.fixture
def rounded() -> Iterator[None]:
    """float32 is rounded to tf32, and as it was afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="numbers of a GPU")
def test_numbers_on_a_gpu(rounded: None) -> None:
    """Sizes that pick tiles of every kernel, in all layouts."""
    torch.manual_seed(0)
    for left, right in itertools.product(LAYOUTS, LAYOUTS):
        check_tf32(72, 80, 136, left, right)
        check_double(72, 80, 136, left, right)
        check_whole(72, 80, 136, left, right)
    for m, n, k in ((1000, 1032, 520), (2000, 1032, 2056), (136, 16384, 1024), (16384, 136, 1024)):
        for left, right in (("rows", "rows"), ("rows", "columns"), ("columns", "columns")):
            check_tf32(m, n, k, left, right)
        check_whole(m, n, k, "rows", "columns")
    for fast, rows in itertools.product((True, False), (True, False)):
        for m, n, k in ((1000, 1040, 528), (17, 4096, 4096), (2000, 2064, 2064)):
            check_scaled(m, n, k, (FP8[0], FP8[0]), torch.bfloat16, rows, biased=not rows, fast=fast)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="the setting is of a GPU")
def test_the_setting_is_followed_on_a_gpu() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        follow_the_setting()
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(
    DEVICE != "cuda" or torch.cuda.get_device_capability() != (9, 0), reason="sizes are those of sm_90a"
)
def test_what_a_gpu_takes(rounded: None) -> None:
    a, b = torch.randn(2048, 2048, device=DEVICE), torch.randn(2048, 2048, device=DEVICE)
    x, y = whole(2048, 2048, "rows"), whole(2048, 2048, "columns")
    f, g, one = small(2048, 2048, FP8[0], "rows"), small(2048, 2048, FP8[0], "columns"), torch.ones((), device=DEVICE)
    flag_gems.reset_stats()
    ops.mm(a, b)
    ops._int_mm(x, y)
    ops._scaled_mm(f, g, one, one, None, None, torch.bfloat16, True)
    ran = flag_gems.stats()
    assert all(ran[name] == {"kernel": 1, "fallback": 0} for name in ("mm", "_int_mm", "_scaled_mm")), ran

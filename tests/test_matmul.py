"""Matrix products: every size, layout and dtype beside float64, through ops and through autograd.

An element of a product of depth k is off by at most about k times half a unit in the last place of the
compute type, relative to the sum of the absolute products, and by one rounding to its own dtype.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import flag_gems
import pytest
import torch
from flag_gems import ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytestmark = pytest.mark.usefixtures("registered")

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICE = flag_gems.device


@contextlib.contextmanager
def kernels(name: str, count: int = 1, atens: int = 0) -> Iterator[None]:
    """Our own kernel ran `count` times for an operator, and ATen's `atens` times."""
    flag_gems.reset_stats()
    yield
    assert flag_gems.stats().get(name) == {"kernel": count, "fallback": atens}, flag_gems.stats()


def check(result: Tensor, a: Tensor, b: Tensor, c: Tensor | None = None, beta: float = 0, alpha: float = 1) -> None:
    """Holds a result to the float64 product of the same numbers."""
    wide = [t.detach().cpu().double() for t in (a, b)]
    exact, size = alpha * (wide[0] @ wide[1]), abs(alpha) * (wide[0].abs() @ wide[1].abs())
    if c is not None and beta:
        exact, size = exact + beta * c.cpu().double(), size + abs(beta) * c.cpu().double().abs()
    compute = torch.finfo(torch.float64 if result.dtype == torch.float64 else torch.float32)
    own = torch.finfo(result.dtype)
    # Sums of k products in any order, alpha, beta and their sum; one rounding, absolute for subnormals.
    bound = (a.shape[-1] + 4) * compute.eps * size + own.eps / 2 * exact.abs() + own.tiny * own.eps
    assert result.shape == exact.shape
    worse = (result.cpu().double() - exact).abs() - bound
    assert not (worse > 0).any() and not result.isnan().any(), (
        result.shape,
        a.stride(),
        b.stride(),
        worse.max(),
    )


def matrix(rows: int, cols: int, dtype: torch.dtype, layout: str, batch: tuple[int, ...] = ()) -> Tensor:
    """A matrix of normal numbers in one of the layouts that strides can express."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, device=DEVICE).to(dtype)

    if layout == "transposed":
        return randn(cols, rows).mT
    if layout == "stepped":
        return randn(rows * 2, cols * 2 + 1)[..., ::2, 1::2]
    if layout == "offset":
        return randn(rows, cols + 1)[..., 1:]
    if layout == "expanded row":
        return randn(1, cols).expand(*batch, rows, cols)
    if layout == "expanded batch":
        return torch.randn(rows, cols, device=DEVICE).to(dtype).expand(*batch, rows, cols)
    if layout == "batch inside" and batch:
        return torch.randn(rows, *batch, cols, device=DEVICE).to(dtype).movedim(1, 0)
    return randn(rows, cols)


LAYOUTS = ("contiguous", "transposed", "stepped", "offset", "expanded row")
BATCH_LAYOUTS = (*LAYOUTS, "expanded batch", "batch inside")
sizes = st.one_of(st.integers(0, 40), st.integers(0, 300))
seeds = st.integers(0, 2**31)


@settings(max_examples=120, deadline=None)
@given(sizes, sizes, sizes, st.sampled_from(FLOATS), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), seeds)
def test_mm(m: int, n: int, k: int, dtype: torch.dtype, left: str, right: str, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = matrix(m, k, dtype, left), matrix(k, n, dtype, right)
    with kernels("mm"):
        result = ops.mm(a, b)
    assert result.is_contiguous()
    check(result, a, b)
    assert torch.equal(result, ops.mm(a, b)), "two runs differ"


@settings(max_examples=120, deadline=None)
@given(
    *(sizes, sizes, sizes, st.sampled_from(FLOATS), st.sampled_from(LAYOUTS)),
    st.sampled_from(["matrix", "row", "column", "scalar", "transposed", "bias"]),
    st.sampled_from([(1, 1), (0, 1), (1, 0), (0.5, -2), (2, 3)]),
    seeds,
)
def test_addmm(
    m: int,
    n: int,
    k: int,
    dtype: torch.dtype,
    layout: str,
    added: str,
    factors: tuple[float, float],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    beta, alpha = factors
    a, b = matrix(m, k, dtype, layout), matrix(k, n, dtype, layout)
    c = {
        "matrix": lambda: matrix(m, n, dtype, "contiguous"),
        "row": lambda: matrix(1, n, dtype, "contiguous"),
        "column": lambda: matrix(m, 1, dtype, "contiguous"),
        "scalar": lambda: torch.tensor(2.5, dtype=dtype, device=DEVICE),
        "transposed": lambda: matrix(m, n, dtype, "transposed"),
        "bias": lambda: matrix(1, n, dtype, "contiguous")[0],
    }[added]()
    with kernels("addmm"):
        result = ops.addmm(c, a, b, beta=beta, alpha=alpha)
    check(result, a, b, c.expand(m, n), beta, alpha)
    if c.shape == (m, n):
        copy = c.clone(memory_format=torch.preserve_format)
        with kernels("addmm_"):
            assert ops.addmm_(copy, a, b, beta=beta, alpha=alpha) is copy
        assert torch.equal(copy, result) and copy.stride() == c.stride()


@settings(max_examples=80, deadline=None)
@given(
    *(st.integers(0, 5), st.integers(0, 70), st.integers(0, 70), st.integers(0, 70), st.sampled_from(FLOATS)),
    *(st.sampled_from(BATCH_LAYOUTS), st.sampled_from(BATCH_LAYOUTS), seeds),
)
def test_bmm_and_baddbmm(
    batch: int, m: int, n: int, k: int, dtype: torch.dtype, left: str, right: str, seed: int
) -> None:
    torch.manual_seed(seed)
    a, b = matrix(m, k, dtype, left, (batch,)), matrix(k, n, dtype, right, (batch,))
    with kernels("bmm"):
        result = ops.bmm(a, b)
    assert result.is_contiguous()
    check(result, a, b)
    for c in (
        matrix(m, n, dtype, "contiguous", (batch,)),
        matrix(1, n, dtype, "contiguous")[0],
        matrix(m, 1, dtype, "offset"),
    ):
        check(ops.baddbmm(c, a, b, beta=2, alpha=0.5), a, b, c.expand(batch, m, n), 2, 0.5)
    copy = matrix(m, n, dtype, "transposed", (batch,))
    before = copy.clone()
    with kernels("baddbmm_"):
        ops.baddbmm_(copy, a, b, alpha=-1)
    check(copy, a, b, before, 1, -1)


@settings(max_examples=80, deadline=None)
@given(
    sizes,
    st.integers(0, 3000),
    st.sampled_from(FLOATS),
    st.sampled_from(LAYOUTS),
    st.sampled_from([1, 2, 3]),
    seeds,
)
def test_mv_and_addmv(m: int, k: int, dtype: torch.dtype, layout: str, step: int, seed: int) -> None:
    torch.manual_seed(seed)
    a, x = matrix(m, k, dtype, layout), torch.randn(k * step, device=DEVICE).to(dtype)[::step]
    # A GPU leaves many to ATen, where rows are no whole vectors; test_matmul_few.py has those that it does not.
    with kernels("mv") if DEVICE == "cpu" else contextlib.nullcontext():
        result = ops.mv(a, x)
    check(result[:, None], a, x[:, None])
    c = torch.randn(m, device=DEVICE).to(dtype)
    for added in (c, c[:1] if m else c, c.sum()):
        result = ops.addmv(added, a, x, beta=3, alpha=2)
        check(result[:, None], a, x[:, None], added.expand(m)[:, None], 3, 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(1, 1000, 300), (3, 77, 5000), (1000, 2, 64), (17, 1, 129), (2, 2, 2), (500, 700, 900)]
)
def test_thin_and_large(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    m, n, k = shape
    for left in ("contiguous", "transposed"):
        for right in ("contiguous", "transposed"):
            a, b = matrix(m, k, dtype, left), matrix(k, n, dtype, right)
            left_out = DEVICE != "cpu" and dtype == torch.float64 and m * n * k > 1 << 21  # ATen is faster there
            with kernels("mm", *((0, 1) if left_out else ())):
                result = ops.mm(a, b)
            check(result, a, b)


@pytest.mark.parametrize("dtype", FLOATS)
def test_zero_factors_take_operands_away_with_their_nan(dtype: torch.dtype) -> None:
    a, b, c = (torch.randn(20, 20, device=DEVICE).to(dtype) for _ in range(3))
    nan = torch.full_like(c, float("nan"))
    check(ops.addmm(nan, a, b, beta=0), a, b)
    check(ops.baddbmm(nan[None], a[None], b[None], beta=0)[0], a, b)
    check(ops.addmv(nan[0], a, b[0], beta=0)[:, None], a, b[0][:, None])
    assert torch.equal(ops.addmm(c, nan, nan, beta=2, alpha=0), c * 2)
    # Otherwise NaN and infinities go where they belong.
    poisoned = a.clone()
    poisoned[3, 4] = float("nan")
    poisoned[5, 6] = float("inf")
    result, plain = ops.mm(poisoned, b), ops.mm(a, b)
    assert result[3].isnan().all() and not result[5].isfinite().any()
    rest = [i for i in range(20) if i not in (3, 5)]
    assert torch.equal(result[rest], plain[rest])


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_empty_sum_is_zero_or_what_is_added(dtype: torch.dtype) -> None:
    a, b = torch.empty(3, 0, dtype=dtype, device=DEVICE), torch.empty(0, 4, dtype=dtype, device=DEVICE)
    c = torch.randn(3, 4, device=DEVICE).to(dtype)
    with kernels("mm"):
        assert torch.equal(ops.mm(a, b), torch.zeros_like(c))
    assert torch.equal(ops.addmm(c, a, b, beta=2), c * 2)
    assert torch.equal(ops.bmm(a[None], b[None])[0], torch.zeros_like(c))
    assert torch.equal(ops.mv(a, b[:, 0]), torch.zeros_like(c[:, 0]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_out(dtype: torch.dtype) -> None:
    a, b, c = (matrix(*shape, dtype, "contiguous") for shape in ((40, 30), (30, 50), (40, 50)))
    expected, sums = ops.mm(a, b), ops.addmm(c, a, b)
    flat = torch.zeros(40 * 50 * 3 + 1, dtype=dtype, device=DEVICE)
    places = {
        "contiguous": torch.empty_like(expected),
        "transposed": torch.empty_like(expected.mT.contiguous()).mT,
        "stepped": flat[1:].view(40, 150)[:, ::3],
        "offset": flat[1 : 1 + 2000].view(40, 50),
        "empty": torch.empty(0, dtype=dtype, device=DEVICE),
    }
    for name, place in places.items():
        strides = place.stride()
        with kernels("mm.out"):
            assert ops.mm_out(a, b, out=place) is place, name
        check(place, a, b)
        assert name == "empty" or place.stride() == strides
        assert torch.equal(ops.addmm_out(c, a, b, out=place), sums), name
    out = torch.empty(2, 40, 50, dtype=dtype, device=DEVICE)
    assert torch.equal(ops.bmm_out(a.expand(2, 40, 30), b.expand(2, 30, 50), out=out)[1], expected)
    assert torch.equal(ops.mv_out(a, b[:, 0], out=torch.empty(40, dtype=dtype, device=DEVICE)), ops.mv(a, b[:, 0]))


def test_what_aten_has_to_do() -> None:
    """Outputs over inputs, mixed or unsupported dtypes and wrong shapes: ATen's results and ATen's errors."""
    a, b = torch.randn(8, 8, device=DEVICE), torch.randn(8, 8, device=DEVICE)
    expected, flag = ops.mm(a, b), a.clone()
    flag_gems.reset_stats()
    ops.mm_out(flag, b, out=flag)
    assert flag_gems.stats()["mm.out"]["fallback"] == 1
    torch.testing.assert_close(flag, expected)
    ints = torch.arange(16, device=DEVICE).view(4, 4)
    if DEVICE == "cpu":
        assert torch.equal(ops.mm(ints, ints), ints.float().mm(ints.float()).long())
    for call in (
        lambda f: f.mm(a, torch.randn(7, 8, device=DEVICE)),
        lambda f: f.mm(a, b.double()),
        lambda f: f.mm(a[0], b),
        lambda f: f.mm(a.bool(), b.bool()),
        lambda f: f.addmm(torch.randn(3, device=DEVICE), a, b),
        lambda f: f.addmm(b.double(), a, b),
        lambda f: f.bmm(a[None], torch.randn(2, 8, 8, device=DEVICE)),
        lambda f: f.mv(a, b),
        lambda f: f.addmm(a, b, b, alpha=1j),
    ):
        with pytest.raises(Exception) as ours:
            call(ops)
        with pytest.raises(Exception) as atens:
            call(torch)
        assert ours.type is atens.type, (ours.value, atens.value)


def test_gradients_through_autograd() -> None:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, device=DEVICE, requires_grad=True)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(a.mT, b)

    with flag_gems.use_gems(include=["mm", "addmm", "bmm", "baddbmm", "mv", "addmv"]):
        assert torch.autograd.gradcheck(torch.mm, (leaf(4, 3), leaf(3, 5)))
        assert torch.autograd.gradcheck(product, (leaf(3, 4), leaf(3, 5)))
        assert torch.autograd.gradcheck(
            lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3), (leaf(5), leaf(4, 3), leaf(3, 5))
        )
        assert torch.autograd.gradcheck(torch.bmm, (leaf(2, 4, 3), leaf(2, 3, 5)))
        assert torch.autograd.gradcheck(torch.baddbmm, (leaf(2, 4, 5), leaf(2, 4, 3), leaf(2, 3, 5)))
        assert torch.autograd.gradcheck(torch.mv, (leaf(4, 3), leaf(3)))
        assert torch.autograd.gradgradcheck(torch.mm, (leaf(2, 3), leaf(3, 2)))
        x, weight, bias = leaf(2, 6, 5), leaf(7, 5), leaf(7)
        flag_gems.reset_stats()
        torch.nn.functional.linear(x, weight, bias).square().sum().backward()
        ran = flag_gems.stats()
    assert all(counts["fallback"] == 0 for counts in ran.values()), ran
    assert ran["addmm"]["kernel"] == 1 and ran["mm"]["kernel"] == 2, ran
    y = torch.nn.functional.linear(x.detach(), weight.detach(), bias.detach())
    torch.testing.assert_close(weight.grad, torch.einsum("bij,bik->jk", 2 * y, x.detach()))
    torch.testing.assert_close(bias.grad, (2 * y).sum((0, 1)))


def test_no_grad_is_lost_by_the_explicit_function() -> None:
    a = torch.randn(4, 3, device=DEVICE, requires_grad=True)
    ops.mm(a, torch.ones(3, 2, device=DEVICE)).sum().backward()
    assert torch.equal(a.grad, torch.full_like(a, 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads(dtype: torch.dtype) -> None:
    """Sums over k have the same order on any number of threads, so the results have the same bits."""
    if DEVICE != "cpu":
        return
    a, b = matrix(300, 400, dtype, "contiguous"), matrix(400, 500, dtype, "transposed")
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((ops.mm(a, b), ops.bmm(a.expand(5, 300, 400), b.expand(5, 400, 500))))
    finally:
        torch.set_num_threads(before)
    for one, many in results:
        assert torch.equal(one, results[0][0]) and torch.equal(many, results[0][1])
        assert all(torch.equal(one, each) for each in many)

"""The way of a call from Python or torch into a kernel and back: tensors, arguments, declines, gradients."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
from flag_gems import _C, ops
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = flag_gems.device
READERS = ("handle", "pyobject", "dlpack", "attributes")


def usable_readers() -> list[str]:
    """The readers that this torch has; the extension itself says which it has not."""
    first, found = _C.reader(), []
    for name in READERS:
        try:
            _C.set_reader(name)
        except NotImplementedError:
            continue
        found.append(name)
    _C.set_reader(first)
    return found


@pytest.fixture
def reader() -> Iterator[Callable[[str], None]]:
    before = _C.reader()
    yield _C.set_reader
    _C.set_reader(before)


@pytest.fixture(autouse=True)
def counters() -> None:
    flag_gems.reset_stats()


def counted(name: str) -> tuple[int, int]:
    """Calls of an overload that ran here, and in ATen."""
    found = flag_gems.stats().get(name, {"kernel": 0, "fallback": 0})
    return found["kernel"], found["fallback"]


def reason(name: str) -> str | None:
    return _C.counts()[name][2]


# ---- reading tensors ----


def kinds_of_tensor(device: str = DEVICE) -> dict[str, torch.Tensor]:
    return {
        "plain": torch.randn(4, 6, device=device),
        "transposed": torch.randn(6, 4, device=device).t(),
        "sliced": torch.randn(9, 13, device=device)[1::2, 1::2],
        "expanded": torch.randn(1, 6, device=device).expand(4, 6),
        "zero-dim": torch.tensor(2.5, device=device),
        "empty": torch.empty(0, 3, device=device),
        "six dims": torch.randn(2, 1, 3, 1, 2, 2, device=device),
        "parameter": torch.nn.Parameter(torch.randn(3, device=device)),
        "leaf": torch.randn(3, requires_grad=True, device=device),
        "half": torch.randn(4, device=device).half(),
        "bfloat16": torch.randn(4, device=device).bfloat16(),
        "double": torch.randn(4, dtype=torch.float64, device=device),
        "int": torch.arange(5, device=device),
        "bool": torch.tensor([True, False], device=device),
    }


@pytest.mark.parametrize("name", usable_readers())
@pytest.mark.parametrize("kind", kinds_of_tensor("cpu"))
@pytest.mark.parametrize("device", sorted({"cpu", DEVICE}))
def test_every_reader_reads_every_kind(device: str, kind: str, name: str, reader: Callable[[str], None]) -> None:
    t = kinds_of_tensor(device)[kind]
    reader(name)
    with torch.no_grad():
        result = ops.add(t, t)
        expected = torch.add(t, t)
    assert counted("add.Tensor") == (1, 0), reason("add.Tensor")
    assert result.dtype == expected.dtype and result.shape == expected.shape
    assert torch.equal(result, expected)


def test_the_handle_is_found_in_this_torch() -> None:
    assert _C.reader() == "handle"
    assert "attributes" in usable_readers()
    assert ("dlpack" in usable_readers()) == hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


def test_a_reader_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="unknown tensor reader"):
        _C.set_reader("osmosis")


def test_outputs_in_place_with_every_reader(reader: Callable[[str], None]) -> None:
    for name in usable_readers():
        reader(name)
        x, out = torch.ones(4, device=DEVICE), torch.empty(0, device=DEVICE)
        assert ops.add_(x, 2) is x and torch.equal(x, torch.full((4,), 3.0, device=DEVICE))
        assert ops.add_out(x, x, out=out) is out
        assert torch.equal(out, torch.full((4,), 6.0, device=DEVICE))


# ---- what is declined ----


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


def declined_tensors() -> dict[str, torch.Tensor]:
    z = torch.randn(4, dtype=torch.complex64, device=DEVICE)
    return {
        "conj": z.conj(),
        "neg": z.conj().imag,
        "subclass": torch.randn(4, device=DEVICE).as_subclass(Plain),
        "sparse": torch.randn(4, device=DEVICE).relu().to_sparse(),
        "meta": torch.empty(4, device="meta"),
    }


@pytest.mark.parametrize("name", usable_readers())
@pytest.mark.parametrize("kind", declined_tensors())
def test_odd_tensors_are_torchs_own_business(name: str, kind: str, reader: Callable[[str], None]) -> None:
    t = declined_tensors()[kind]
    reader(name)
    result = ops.add(t, t)
    expected = torch.add(t, t)
    assert type(result) is type(expected) and result.dtype == expected.dtype and result.layout == expected.layout
    if kind != "meta":
        assert torch.equal(result.to_dense(), expected.to_dense())


def test_conjugated_operands_of_mm_reach_the_kernel_and_are_declined() -> None:
    a = torch.randn(3, 3, dtype=torch.complex64, device=DEVICE)
    expected = torch.mm(a.conj(), a)
    with flag_gems.use_gems(include=["mm"]):
        assert torch.equal(torch.mm(a.conj(), a), expected)
    assert counted("mm") == (0, 1)
    assert "conjugated" in str(reason("mm"))


@pytest.fixture
def strict() -> Iterator[None]:
    """Declines raise instead of reaching ATen."""
    _C.set_strict(True)
    yield
    _C.set_strict(False)


def test_memory_that_was_freed_is_declined(strict: None) -> None:
    t = torch.ones(4, device=DEVICE)
    t.untyped_storage().resize_(0)
    with flag_gems.use_gems(include=["neg", "add"]):
        for call in (torch.neg, lambda x: torch.add(x, x), ops.neg):
            with pytest.raises(flag_gems.DeclinedError, match="without memory"):
                call(t)


def test_lazily_cloned_memory_is_not_shared_when_written() -> None:
    t = torch.ones(4, device=DEVICE)
    copy = torch._lazy_clone(t)
    ops.add_(copy, 1)
    assert torch.equal(t, torch.ones(4, device=DEVICE)) and torch.equal(copy, torch.full((4,), 2.0, device=DEVICE))


def test_modes_see_the_call() -> None:
    seen: list[str] = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.ones(3, device=DEVICE)
    with Log():
        ops.add(x, x)
    assert seen == ["aten.add.Tensor"]


def test_transforms_and_fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    x = torch.randn(4, 3, device=DEVICE)
    assert torch.equal(torch.vmap(lambda row: ops.add(row, row))(x), x + x)
    gradient = torch.func.grad(lambda v: ops.mul(v, v).sum())(x)
    assert torch.allclose(gradient, 2 * x)
    with FakeTensorMode():
        fake = ops.add(torch.ones(2, device=DEVICE), torch.ones(2, device=DEVICE))
    assert type(fake).__name__ == "FakeTensor" and fake.shape == (2,)


def test_autocast_is_honoured() -> None:
    a = torch.randn(4, 4, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert ops.mm(a, a).dtype == torch.bfloat16


# ---- arguments ----


def test_scalars_of_every_kind() -> None:
    x = torch.ones(3, device=DEVICE)
    for alpha in (2, 2.0, np.float32(2), np.int64(2), np.float16(2), torch.tensor(2), torch.tensor(2.0)):
        assert torch.equal(ops.add(x, x, alpha=alpha), torch.full((3,), 3.0, device=DEVICE)), alpha
    assert counted("add.Tensor")[0] == 7


def outcome(function: Callable[..., torch.Tensor], *args: Any) -> Any:
    """What a call returns, or the type of what it raises."""
    try:
        return function(*args)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("number", [2, 2.5, True, 1 + 2j])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.float32, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", [(3,), ()])
def test_numbers_promote_as_in_torch(number: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, device=DEVICE).to(dtype)
    for function in (torch.add, torch.mul):
        for args in ((x, number), (number, x)):
            expected = outcome(function, *args)
            with flag_gems.use_gems():
                result = outcome(function, *args)
            direct = outcome(getattr(ops, function.__name__), *args)
            if isinstance(expected, type):
                assert result is expected and direct is expected
                continue
            for ours in (result, direct):
                assert ours.dtype == expected.dtype
                wide = torch.complex128 if expected.is_complex() else expected.dtype
                assert torch.equal(ours.to(wide), expected.to(wide))


def test_keywords_and_defaults() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    assert torch.allclose(ops.sum(x, dim=1, keepdim=True), x.sum(dim=1, keepdim=True))
    assert torch.allclose(ops.sum(x, 1), x.sum(1))
    assert torch.allclose(ops.sum(x, (0, -1)), x.sum((0, 1)))
    assert torch.allclose(ops.sum(self=x), x.sum())
    assert ops.sum(x, [np.int64(0)], dtype=torch.float64).dtype == torch.float64
    assert torch.equal(ops.div(x, 2, rounding_mode="floor"), torch.div(x, 2, rounding_mode="floor"))
    assert torch.equal(ops.clamp(x, max=0.5), x.clamp(max=0.5))


def test_lists_of_tensors() -> None:
    parts = [torch.randn(2, 3, device=DEVICE) for _ in range(20)]
    assert torch.equal(ops.cat(parts), torch.cat(parts))
    assert torch.equal(ops.cat(tuple(parts), dim=1), torch.cat(parts, 1))
    with flag_gems.use_gems(include=["cat"]):
        assert torch.equal(torch.cat(parts, -1), torch.cat(parts, -1))
    assert counted("cat")[0] >= 3


def test_generators_and_seeds() -> None:
    def draw(generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.empty(1000, device=DEVICE).uniform_(generator=generator)

    rng = torch.cuda if DEVICE == "cuda" else torch
    with flag_gems.use_gems(include=["uniform_"]):
        torch.manual_seed(7)
        first, second = draw(), draw()
        torch.manual_seed(7)
        assert torch.equal(draw(), first) and torch.equal(draw(), second)
        assert not torch.equal(first, second)
        state = rng.get_rng_state()
        third = draw()
        rng.set_rng_state(state)
        assert torch.equal(draw(), third)
        with torch.random.fork_rng():
            inside = draw()
        assert torch.equal(draw(), inside)
        a, b = (torch.Generator(DEVICE).manual_seed(3) for _ in range(2))
        assert torch.equal(draw(a), draw(b))
    assert counted("uniform_")[1] == 0


def test_explicit_random_functions_need_no_scope() -> None:
    torch.manual_seed(5)
    first = ops.uniform_(torch.empty(100, device=DEVICE))
    torch.manual_seed(5)
    assert torch.equal(ops.uniform_(torch.empty(100, device=DEVICE)), first)
    assert counted("uniform_") == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
def test_ints_are_promoted_to_the_default_dtype_of_now(dtype: torch.dtype) -> None:
    x = torch.arange(1, 5, device=DEVICE)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with flag_gems.use_gems():
            for result in (torch.div(x, 2), torch.sqrt(x), torch.mul(x, 1.5), ops.div(x, 2)):
                assert result.dtype == dtype
    finally:
        torch.set_default_dtype(before)


def test_symbolic_sizes_and_wrong_kinds_are_left_to_torch() -> None:
    x = torch.ones(3, device=DEVICE)
    with pytest.raises((TypeError, RuntimeError)):
        ops.mm(x, "text")
    with pytest.raises((TypeError, RuntimeError)):
        ops.add(x, x, beta=1)
    with pytest.raises((TypeError, RuntimeError)):
        ops.mm(x)
    with pytest.raises((TypeError, RuntimeError)):
        ops.sum(x, 1.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.mm(torch.ones(2, 3, device=DEVICE), torch.ones(2, 3, device=DEVICE)),
        lambda: torch.softmax(torch.ones(2, device=DEVICE), 7),
        lambda: torch.sum(torch.ones(2, device=DEVICE), 7),
        lambda: torch.add(torch.ones(2, device=DEVICE), torch.ones(3, device=DEVICE)),
        lambda: torch.add(torch.ones(2, device=DEVICE), torch.ones(2, device=DEVICE), alpha="x"),  # type: ignore[arg-type]
        lambda: torch.ones(2, device=DEVICE).add_(torch.ones(3, device=DEVICE)),
        lambda: torch.ones(2, dtype=torch.int32, device=DEVICE).add_(1.5),
        lambda: torch.cat([torch.ones(2, 2, device=DEVICE), torch.ones(3, device=DEVICE)]),
        lambda: torch.mm(
            torch.ones(2, 2, device=DEVICE),
            torch.ones(2, 2, device=DEVICE),
            out=torch.ones(2, 2, dtype=torch.int32, device=DEVICE),
        ),
    ],
)
def test_errors_are_atens_own_with_their_type(call: Callable[[], object]) -> None:
    with pytest.raises(Exception) as theirs:
        call()
    with flag_gems.use_gems(), pytest.raises(Exception) as ours:
        call()
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value).splitlines()[0] == str(theirs.value).splitlines()[0]


def test_errors_inside_backward_keep_their_type() -> None:
    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return torch.sum(grad, 9)

    x = torch.ones(3, requires_grad=True, device=DEVICE)
    with flag_gems.use_gems(), pytest.raises(IndexError):
        Raises.apply(x).sum().backward()


# ---- results ----


def test_results_are_new_tensors_or_the_passed_one() -> None:
    x = torch.ones(3, device=DEVICE)
    with flag_gems.use_gems():
        y = torch.add(x, 0)
        assert y is not x and y.data_ptr() != x.data_ptr()
        assert torch.Tensor.mul_(x, 2) is x
        out = torch.empty(3, device=DEVICE)
        assert torch.add(x, x, out=out) is out
    assert torch.equal(out, torch.full((3,), 4.0, device=DEVICE))


def test_an_empty_out_is_resized() -> None:
    x = torch.ones(2, 3, device=DEVICE)
    for out in (torch.empty(0, device=DEVICE), torch.empty(0, device=DEVICE)):
        with flag_gems.use_gems(include=["add", "mm"]):
            torch.add(x, x, out=out)
        assert out.shape == (2, 3) and torch.equal(out, x + x)
    out = torch.empty(0, device=DEVICE)
    with flag_gems.use_gems(include=["mm"]):
        torch.mm(x, x.t(), out=out)
    assert torch.equal(out, x @ x.t())


def test_several_results() -> None:
    x = torch.randn(5, 8, device=DEVICE)
    weight, bias = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    expected = torch.native_layer_norm(x, (8,), weight, bias, 1e-5)
    for args in ((weight, bias), (None, None)):
        result = ops.native_layer_norm(x, (8,), *args, 1e-5)
        assert isinstance(result, tuple) and len(result) == 3
        for ours, theirs in zip(result, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


# ---- gradients ----


def test_explicit_functions_keep_gradients() -> None:
    a, b = torch.randn(3, 4, requires_grad=True, device=DEVICE), torch.randn(4, 2, requires_grad=True, device=DEVICE)
    y = ops.mm(a, b)
    assert y.grad_fn is not None
    y.sum().backward()
    torch.testing.assert_close(a.grad, torch.ones(3, 2, device=DEVICE) @ b.detach().t())
    assert counted("mm")[0] >= 1
    with torch.no_grad():
        assert not ops.mm(a, b).requires_grad


def test_gates_are_as_before_after_a_call_that_autograd_recorded() -> None:
    a = torch.randn(3, 3, requires_grad=True, device=DEVICE)
    before = _C.gates()
    ops.mm(a, a)
    assert _C.gates() == before
    flag_gems.reset_stats()
    torch.mm(a, a)
    assert counted("mm") == (0, 0)


def test_forward_differentiation() -> None:
    from torch.autograd import forward_ad

    x, tangent = torch.randn(3, device=DEVICE), torch.randn(3, device=DEVICE)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        result = forward_ad.unpack_dual(ops.mul(dual, dual))
        assert result.tangent is not None
        torch.testing.assert_close(result.tangent, 2 * x * tangent)


def test_writing_in_place_is_noticed_by_autograd() -> None:
    x = torch.ones(3, requires_grad=True, device=DEVICE)
    y = x.detach().clone()
    z = (x * y).sum()
    version = y._version
    ops.add_(y, 1)
    assert y._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()


def test_writing_a_leaf_raises_as_in_torch() -> None:
    x = torch.ones(3, requires_grad=True, device=DEVICE)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        ops.add_(x, 1)


def test_inference_tensors() -> None:
    with torch.inference_mode():
        x = torch.ones(3, device=DEVICE)
        assert torch.equal(ops.add_(x, 1), torch.full((3,), 2.0, device=DEVICE))
        assert ops.add(x, x).is_inference()
    assert torch.equal(ops.add(x, x), torch.full((3,), 4.0, device=DEVICE))
    with pytest.raises(RuntimeError, match="inference tensor"):
        ops.add_(x, 1)


def test_compiled_functions_have_no_graph_break() -> None:
    def net(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.mm(torch.add(a, b), b), -1).sum(0)

    a, b = torch.randn(4, 4, requires_grad=True, device=DEVICE), torch.randn(4, 4, device=DEVICE)
    expected = net(a, b)
    with flag_gems.use_gems():
        result = torch.compile(net, backend="aot_eager", fullgraph=True)(a, b)
        (gradient,) = torch.autograd.grad(result.sum(), a)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), a)[0])
    assert counted("mm")[0] >= 1


# ---- NumPy ----


def test_arrays_in_and_out() -> None:
    a = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    b = np.random.default_rng(1).standard_normal((4, 5), dtype=np.float32)
    result = ops.mm(a, b)
    assert type(result) is np.ndarray and result.dtype == np.float32
    np.testing.assert_allclose(result, a @ b, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ops.add(a.T, a.T), a.T + a.T)
    np.testing.assert_array_equal(ops.add(a[::2, 1:], 1), a[::2, 1:] + 1)
    np.testing.assert_array_equal(ops.add(a.astype(np.float16), np.float16(1)), a.astype(np.float16) + np.float16(1))
    out = np.empty_like(a)
    assert ops.add_out(a, a, out=out) is out
    np.testing.assert_array_equal(out, a + a)
    assert ops.add_(out, 1) is out
    assert ops.sum(a, 1).shape == (3,)
    assert ops.add(np.float64(2) * np.ones(()), 1) == 3
    ints = np.arange(3)
    assert ops.div(ints, 2).dtype == np.float32


def test_arrays_keep_the_layout_that_torch_would_choose() -> None:
    a = np.asfortranarray(np.ones((3, 4), np.float32))
    assert ops.add(a, a).flags.f_contiguous


def test_arrays_that_no_kernel_takes() -> None:
    a = np.ones(4, np.float32)
    with pytest.raises(flag_gems.DeclinedError, match="negative strides"):
        ops.add(a[::-1], a)
    with pytest.raises(flag_gems.DeclinedError, match="arrays of NumPy"):
        ops.add(a, torch.ones(4))
    with pytest.raises(flag_gems.DeclinedError):
        ops.add(a.astype(">f4"), a.astype(">f4"))
    with pytest.raises(flag_gems.DeclinedError):
        ops.add(np.array(["a"]), np.array(["b"]))
    read_only = np.ones(4, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(flag_gems.DeclinedError, match="read-only"):
        ops.add_(read_only, 1)
    assert read_only[0] == 1


# ---- memory, counters, strictness ----


def test_nothing_is_kept_after_a_call() -> None:
    for call in (lambda x: ops.add(x, x), lambda x: ops.sum(x), lambda x: torch.add(x, 1), lambda x: torch.mul(x, x)):
        x = torch.randn(4, device=DEVICE)
        with flag_gems.use_gems():
            y = call(x)
        references = weakref.ref(x), weakref.ref(y)
        del x, y
        gc.collect()
        assert all(reference() is None for reference in references)


def resident_kilobytes() -> int:
    import resource

    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * resource.getpagesize() // 1024


@pytest.mark.parametrize("route", ["direct", "shim", "library", "declined", "raised", "numpy"])
def test_no_memory_is_lost(route: str) -> None:
    x, wide, array = (
        torch.randn(64, 64, device=DEVICE),
        torch.randn(64, 64, device=DEVICE).to(torch.complex64),
        np.ones((64, 64), np.float32),
    )

    def raised() -> None:
        with pytest.raises(RuntimeError):
            torch.mm(x, x[:3])

    calls: dict[str, Callable[[], object]] = {
        "direct": lambda: ops.add(x, x),
        "shim": lambda: torch.cat([torch.mul(x, x), torch.mm(x, x), torch.sum(x, 1, keepdim=True)], 1),
        "library": lambda: torch.add(x, x, alpha=2),
        "declined": lambda: torch.cat([torch.mm(wide, wide), wide]),
        "raised": raised,
        "numpy": lambda: ops.add(array, array),
    }
    call = calls[route]
    with flag_gems.use_gems():
        for _ in range(200):
            call()
        gc.collect()
        before = resident_kilobytes()
        for _ in range(400):
            call()
        gc.collect()
        grown = resident_kilobytes() - before
    assert grown < 400 * 16 // 4, f"{grown} KiB after 400 calls on 16 KiB tensors"


def test_strict_declines_raise(strict: None) -> None:
    z = torch.randn(3, 3, dtype=torch.complex64, device=DEVICE)
    with flag_gems.use_gems(include=["mm", "add"]):
        with pytest.raises(flag_gems.DeclinedError, match=r"mm.*GEMS_STRICT"):
            torch.mm(z.conj(), z)
        with pytest.raises(flag_gems.DeclinedError, match="GEMS_STRICT"):
            ops.mm(z.conj(), z)
        assert torch.equal(torch.add(torch.ones(2, device=DEVICE), 1), torch.full((2,), 2.0, device=DEVICE))


def test_long_calls_let_other_threads_run() -> None:
    """On the CPU, wherever the tests run: a GPU's launches return at once."""
    import threading

    x = torch.randn(1 << 22)
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        for _ in range(5):
            ops.add(x, x)
    finally:
        stop.set()
        thread.join()
    assert ticks[0] > 0

"""Promotion, numbers, shapes and schemas of csrc/base beside torch's own."""

from __future__ import annotations

import ctypes as C
import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import native

# torch's ScalarType numbers.
NUMBERS = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.complex32: 8,
    torch.complex64: 9,
    torch.complex128: 10,
    torch.bool: 11,
    torch.bfloat16: 15,
    torch.float8_e5m2: 23,
    torch.float8_e4m3fn: 24,
    torch.uint16: 27,
    torch.uint32: 28,
    torch.uint64: 29,
}
NONE = 255
SOURCES = tuple(f"base/{name}.c" for name in ("error", "dtype", "shape", "schema"))


class Tensor(C.Structure):
    _fields_ = [
        ("data", C.c_void_p),
        ("sizes", C.POINTER(C.c_int64)),
        ("strides", C.POINTER(C.c_int64)),
        ("handle", C.c_void_p),
        ("numel", C.c_int64),
        ("ndim", C.c_int32),
        ("dtype", C.c_uint8),
        ("device_type", C.c_uint8),
        ("device_index", C.c_int16),
    ]


class Content(C.Union):
    _fields_ = [("i", C.c_int64), ("f", C.c_double), ("c", C.c_double * 2), ("t", Tensor)]


class Value(C.Structure):
    _fields_ = [("kind", C.c_uint8), ("content", Content)]


KIND_TENSOR, KIND_BOOLEAN, KIND_INT, KIND_FLOAT, KIND_COMPLEX = 1, 3, 4, 5, 6


@functools.cache
def library() -> C.CDLL:
    lib = C.CDLL(str(native.build("libgems_base.so", SOURCES, ("-lm",))))
    for name in ("gems_can_cast", "gems_store_number", "gems_load_number", "gems_broadcast"):
        getattr(lib, name).restype = C.c_bool
    for name in ("gems_max_offset", "gems_numel"):
        getattr(lib, name).restype = C.c_int64
    lib.gems_error_text.restype = C.c_char_p
    return lib


def longs(values: list[int] | tuple[int, ...]) -> C.Array:
    return (C.c_int64 * max(len(values), 1))(*values)


def view(t: torch.Tensor) -> Tensor:
    return Tensor(
        t.data_ptr(), longs(t.shape), longs(t.stride()), None, t.numel(), t.ndim, NUMBERS[t.dtype], 0, 0
    )


def value(item: torch.Tensor | bool | int | float | complex) -> Value:
    if isinstance(item, torch.Tensor):
        return Value(KIND_TENSOR, Content(t=view(item)))
    if isinstance(item, bool):
        return Value(KIND_BOOLEAN, Content(i=item))
    if isinstance(item, int):
        return Value(KIND_INT, Content(i=item))
    if isinstance(item, float):
        return Value(KIND_FLOAT, Content(f=item))
    return Value(KIND_COMPLEX, Content(c=(C.c_double * 2)(item.real, item.imag)))


def or_none(call: object) -> object:
    try:
        return call()
    except (RuntimeError, TypeError):
        return None


@pytest.mark.parametrize("a", NUMBERS, ids=str)
def test_promotion_and_casts(a: torch.dtype) -> None:
    for b in NUMBERS:
        expected = or_none(lambda b=b: torch.promote_types(a, b))
        assert library().gems_promote(NUMBERS[a], NUMBERS[b]) == NUMBERS.get(expected, NONE), (a, b)
        assert library().gems_can_cast(NUMBERS[a], NUMBERS[b]) == torch.can_cast(a, b), (a, b)


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_result_type(default: torch.dtype) -> None:
    """Dimensioned and 0-dim tensors and numbers, in pairs and in threes."""
    dtypes = (torch.uint8, torch.int32, torch.int64, torch.bool, torch.float16, torch.float64, torch.complex64)
    items = [torch.ones(shape, dtype=d) for d in dtypes for shape in ((2,), ())] + [True, 3, 2.5, 1j]
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    library().gems_set_default_dtype(NUMBERS[default])
    try:
        for a, b in itertools.product(items, repeat=2):
            if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
                values = [value(a), value(b)]
                pointers = (C.POINTER(Value) * 2)(*(C.pointer(v) for v in values))
                expected = torch.result_type(a, b)
                assert library().gems_result_type(pointers, 2) == NUMBERS[expected], (a, b)
    finally:
        torch.set_default_dtype(before)
        library().gems_set_default_dtype(NUMBERS[before])


REALS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


@settings(max_examples=300, deadline=None)
@given(st.floats(width=64, allow_nan=True, allow_infinity=True))
def test_floats_are_stored_as_torch_does(number: float) -> None:
    for dtype in REALS:
        if dtype == torch.float8_e4m3fn and abs(number) > 464:
            continue  # saturates or is NaN, by torch's version
        wide = torch.float32 if dtype.itemsize == 1 else dtype
        expected = or_none(lambda wide=wide, dtype=dtype: torch.full((1,), number, dtype=wide).to(dtype))
        if expected is None:
            continue  # torch refuses a number that overflows
        buffer = (C.c_uint8 * 16)()
        assert library().gems_store_number(C.byref(value(number)), NUMBERS[dtype], buffer)
        got = torch.frombuffer(bytearray(buffer), dtype=torch.uint8)[: dtype.itemsize].view(dtype)
        assert torch.equal(got.double(), expected.double()) or (got.isnan().all() and expected.isnan().all()), dtype


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_ints_are_stored_as_torch_does(number: int) -> None:
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float32):
        expected = torch.tensor([number]).to(dtype)
        buffer = (C.c_uint8 * 16)()
        assert library().gems_store_number(C.byref(value(number)), NUMBERS[dtype], buffer)
        got = torch.frombuffer(bytearray(buffer), dtype=torch.uint8)[: dtype.itemsize].view(dtype)
        assert torch.equal(got, expected), dtype


@pytest.mark.parametrize("dtype", [*REALS, torch.int8, torch.int64, torch.bool, torch.complex128], ids=str)
def test_numbers_are_read_back(dtype: torch.dtype) -> None:
    for number in (0, 1, 3, -2, 0.015625, 448):
        t = torch.tensor(number).to(dtype)
        got = Value()
        assert library().gems_load_number(C.byref(view(t)), C.byref(got))
        item = t.item()
        if isinstance(item, complex):
            assert complex(*got.content.c) == item
        else:
            assert (got.content.f if isinstance(item, float) else got.content.i) == item


# ---- shapes ----

shapes = st.lists(st.integers(0, 5), max_size=5)


@st.composite
def strided(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any rank up to 5, permuted, stepped, sliced or expanded."""
    shape = draw(st.lists(st.integers(1, 4), max_size=5))
    t = torch.zeros([s * 2 for s in shape])
    for dim, size in enumerate(shape):
        step = draw(st.sampled_from([1, 2]))
        start = draw(st.integers(0, size * 2 - size * step))
        t = t[(slice(None),) * dim + (slice(start, start + size * step, step),)]
    t = t.permute(draw(st.permutations(range(len(shape)))))
    if shape and draw(st.booleans()):
        t = t[:1].expand(3, *t.shape[1:])
    return t.contiguous() if draw(st.integers(0, 3)) == 0 else t


@settings(max_examples=300, deadline=None)
@given(strided())
def test_predicates_of_one_tensor(t: torch.Tensor) -> None:
    lib, mine = library(), view(t)
    lib.gems_is_contiguous.restype = lib.gems_is_non_overlapping_and_dense.restype = C.c_bool
    assert lib.gems_is_contiguous(C.byref(mine)) == t.is_contiguous()
    assert lib.gems_is_non_overlapping_and_dense(C.byref(mine)) == torch.ops.aten.is_non_overlapping_and_dense(t)
    last = sum((s - 1) * k for s, k in zip(t.shape, t.stride(), strict=True))
    assert lib.gems_max_offset(longs(t.shape), longs(t.stride()), t.ndim) == last


@settings(max_examples=300, deadline=None)
@given(shapes, shapes)
def test_broadcast(a: list[int], b: list[int]) -> None:
    expected = or_none(lambda: list(torch.broadcast_shapes(a, b)))
    sizes, ndim = longs([*a, *[0] * 16]), C.c_int(len(a))
    fits = library().gems_broadcast(sizes, C.byref(ndim), longs(b), len(b))
    assert fits == (expected is not None)
    if fits:
        assert sizes[: ndim.value] == expected


@settings(max_examples=500, deadline=None)
@given(strided(), st.data())
def test_output_strides_are_those_of_tensor_iterator(a: torch.Tensor, data: st.DataObject) -> None:
    """The memory format of a binary operator's result, for operands of any strides and broadcasting."""
    order = data.draw(st.permutations(range(a.ndim)))
    b = torch.zeros([a.shape[i] for i in order]).permute([order.index(i) for i in range(a.ndim)])
    for dim in range(a.ndim):
        if data.draw(st.integers(0, 4)) == 0:
            b = b.narrow(dim, 0, 1)
    expected = torch.add(a, b)
    rows = [longs(t.expand(expected.shape).stride() if t.shape != expected.shape else t.stride()) for t in (a, b)]
    pointers = (C.POINTER(C.c_int64) * 2)(*(C.cast(row, C.POINTER(C.c_int64)) for row in rows))
    strides = longs([0] * expected.ndim)
    library().gems_output_strides(longs(expected.shape), expected.ndim, pointers, 2, strides)
    assert strides[: expected.ndim] == list(expected.stride())


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_fast_division(divisor: int, n: int) -> None:
    class FastDiv(C.Structure):
        _fields_ = [("d", C.c_uint32), ("m", C.c_uint32), ("s", C.c_uint32)]

    lib = library()
    lib.gems_fastdiv_make.restype = FastDiv
    div = lib.gems_fastdiv_make(divisor)
    for number in (n, n - n % divisor, max(n - n % divisor - 1, 0)):
        quotient = (((number * div.m) >> 32) + number & 0xFFFFFFFF) >> div.s
        assert quotient == number // divisor


# ---- schemas ----


def test_every_schema_of_aten_is_understood() -> None:
    """Names, kinds, defaults and keyword-only marks as torch's own parser sees them."""
    lib = library()
    room = C.create_string_buffer(1 << 16)
    failed = []
    for schema in torch._C._jit_get_all_schemas():
        text = str(schema).removeprefix("aten::")
        if not schema.name.startswith("aten::") or "_test_" in text or len(schema.arguments) > 20 or len(text) >= 512:
            continue
        if lib.gems_schema_parse(text.encode(), room) == 0:
            continue
        kinds = {str(a.real_type) for a in schema.arguments}
        defaults = [a.default_value for a in schema.arguments if a.has_default_value()]
        plain = all(isinstance(d, (type(None), bool, int, float, str, list)) for d in defaults)
        if plain and not any("Dict" in k or "__torch__" in k or "Union" in k or "(" in k for k in kinds):
            failed.append((text, lib.gems_error_text()))
    named = [f for f in failed if torch._C._dispatch_has_kernel("aten::" + f[0].split("(")[0])]
    assert not named, named[:5]

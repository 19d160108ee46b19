"""kernels/gems.cuh as NVRTC compiles it: each name on each architecture, its machine code, and its values on a GPU."""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import native
import sass

UNARY = """exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh
    atanh erf erfc erfinv lgamma floor ceil trunc nearbyint abs sigmoid""".split()  # noqa: SIM905
BINARY = """atan2 pow fmod remainder_ copysign hypot max_nan min_nan fmax fmin div_floor
    mod_floor""".split()  # noqa: SIM905
STORED = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
    "float": torch.float32,
    "double": torch.float64,
    "int8_t": torch.int8,
    "int16_t": torch.int16,
    "int32_t": torch.int32,
    "int64_t": torch.int64,
    "uint8_t": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
MAX_ENTRIES = 6  # GEMS_MAX_ENTRIES
BEGIN = "using namespace gems;\n"


def program(*kernels: str) -> str:
    return sass.contract() + BEGIN + "\n".join(kernels)


def math_kernel(kind: str) -> str:
    calls = [f"out[k++] = {name}(x);" for name in UNARY]
    calls += [f"out[k++] = {name}(x, y);" for name in BINARY]
    calls += [f"out[k++] = {name}(x) ? 1 : 0;" for name in ("isnan", "isinf", "isfinite", "signbit")]
    calls += ["out[k++] = fma(x, y, x);"]
    return f"""extern "C" __global__ void math_{kind}({kind} *out, {kind} x, {kind} y) {{
        int k = 0; {" ".join(calls)} }}"""


def convert_kernel(to: str) -> str:
    calls = [
        f"case {i}: out[k] = convert<{to}>((({name} const *)in)[k]); break;" for i, name in enumerate(STORED)
    ]
    return f"""extern "C" __global__ void to_{to}({to} *out, const void *in, int n, int from) {{
        GEMS_FOR_GRID(k, n) switch (from) {{ {" ".join(calls)} }} }}"""


FOLDS = ("sum_double", "prod_int", "max_float", "min_double")
COLLECTIVES = """
template <class T, class F> __device__ void fold(T *out, const T *in, int n, F f, T first) {
    __shared__ T buf[33];
    T sum = first;
    GEMS_FOR_BLOCK(i, n) sum = f(sum, in[i]);
    sum = block_broadcast(block_reduce(sum, f, buf), buf);
    if (threadIdx.x == 0) *out = sum;
}
extern "C" __global__ void sum_double(double *out, const double *in, int n) { fold(out, in, n, Sum(), 0.0); }
extern "C" __global__ void prod_int(int64_t *out, const int64_t *in, int n) { fold(out, in, n, Prod(), (int64_t)1); }
extern "C" __global__ void max_float(float *out, const float *in, int n) {
    fold(out, in, n, Max(), Limits<float>::lowest());
}
extern "C" __global__ void min_double(double *out, const double *in, int n) {
    fold(out, in, n, Min(), Limits<double>::inf());
}
extern "C" __global__ void scan(int *out, int *total, const int *in) {
    __shared__ int buf[33];
    int all;
    out[threadIdx.x] = block_exclusive_sum(in[threadIdx.x], all, buf);
    *total = all;
}
"""

MAP = """
extern "C" __global__ void spread(float *out, const float *a, const float *b, Strided<3, int32_t> m) {
    for_each_strided<8>(m, [&](const int32_t (&at)[3]) { out[at[0]] = a[at[1]] + b[at[2]]; });
}
extern "C" __global__ void spread64(float *out, const float *a, const float *b, Strided<3, int64_t> m) {
    for_each_strided<8>(m, [&](const int64_t (&at)[3]) { out[at[0]] = a[at[1]] + b[at[2]]; });
}
"""

RANDOM = """
extern "C" __global__ void random(uint32_t *out, float *uniform, float *normal, uint64_t seed, uint64_t sub,
                                  uint64_t offset) {
    Philox p(seed, sub, offset);
    for (int k = 0; k < 4; k++) {
        Random4 r = p.next4();
        for (int i = 0; i < 4; i++) out[4 * k + i] = r.v[i], uniform[4 * k + i] = uniform01(r.v[i]);
        RandomPair n = box_muller(r.v[0], r.v[1]);
        normal[2 * k] = n.x, normal[2 * k + 1] = n.y;
    }
}
"""

TILES = """
template <class T> __device__ void tile(float *out, const T *a, const T *b) {
    GEMS_DYN_SMEM(T, held);
    cp_async16(held + threadIdx.x * 8, a + threadIdx.x * 8);
    cp_async16(held + 256 + threadIdx.x * 8, b + threadIdx.x * 8, threadIdx.x < 16 ? 16 : 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t x[4], y[4];
    float d[4] = {0, 0, 0, 0};
    ldmatrix_x4(x, held + (threadIdx.x % 16) * 16 + threadIdx.x / 16 * 8);
    ldmatrix_x4_trans(y, held + 256 + (threadIdx.x % 8) * 16);
    mma_m16n8k16<T>(d, x, y);
    mma_m16n8k8_tf32(d, x, y);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = d[i];
}
extern "C" __global__ void tile_f16(float *out, const f16 *a, const f16 *b) { tile(out, a, b); }
extern "C" __global__ void tile_bf16(float *out, const bf16 *a, const bf16 *b) { tile(out, a, b); }
extern "C" __global__ void tile_f64(double *out, const double *a, const double *b) {
    double d[2] = {0, 0};
    mma_m8n8k4_f64(d, a + threadIdx.x, b + threadIdx.x);
    out[threadIdx.x * 2] = d[0], out[threadIdx.x * 2 + 1] = d[1];
}
"""


def copy_kernel(kind: str) -> str:
    return f"""extern "C" __global__ void copy_{kind}({kind} *out, const {kind} *in, int n) {{
        constexpr int N = vec_n<{kind}>;
        GEMS_FOR_GRID(i, n / N) store<N>(out + (int64_t)i * N, load<N>(in + (int64_t)i * N));
    }}
    extern "C" __global__ void stream_{kind}({kind} *out, const {kind} *in, int n) {{
        constexpr int N = vec_n<{kind}>;
        GEMS_FOR_GRID(i, n / N) store_stream<N>(out + (int64_t)i * N, load_stream<N>(in + (int64_t)i * N));
    }}"""


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_every_name_compiles(arch: str) -> None:
    text = program(math_kernel("float"), math_kernel("double"), COLLECTIVES, MAP, RANDOM)
    names = ["math_float", "math_double", "scan", "spread", "spread64", "random", *FOLDS]
    report = native.cuda().compile(text, names, arch).report
    assert report.spill_bytes == 0


@pytest.mark.parametrize("arch", ["sm_80", "sm_120"])
def test_conversions_compile(arch: str) -> None:
    names = [f"to_{name}" for name in STORED]
    report = native.cuda().compile(program(*map(convert_kernel, STORED)), names, arch).report
    assert report.spill_bytes == 0


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_vectors_of_every_type(arch: str) -> None:
    """A vector of any type is one access of 16 bytes; the streaming forms are evicted first."""
    names = [f"{what}_{kind}" for kind in STORED for what in ("copy", "stream")]
    kernels = sass.kernels(program(*map(copy_kernel, STORED)), names, arch)
    for name, kernel in kernels.items():
        assert kernel.count("LDG") == kernel.count("LDG.128") >= 1, (name, kernel.instructions)
        assert kernel.count("STG") == kernel.count("STG.128") >= 1, (name, kernel.instructions)
        assert kernel.spill_bytes == 0
        streamed = kernel.has("LDG.EF.128", "STG.EF.128")
        assert streamed == name.startswith("stream"), (name, kernel.instructions)


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_tile_primitives(arch: str) -> None:
    kernels = sass.kernels(program(TILES), ["tile_f16", "tile_bf16", "tile_f64"], arch)
    for name in ("tile_f16", "tile_bf16"):
        assert kernels[name].has("LDGSTS.128", "LDSM.16.M88.4", "LDSM.MT88"), kernels[name].opcodes
        assert kernels[name].count("HMMA") >= 2 and kernels[name].spill_bytes == 0
    assert kernels["tile_bf16"].has("HMMA.BF16") and not kernels["tile_f16"].has("HMMA.BF16")
    assert kernels["tile_f64"].has("DMMA")


# ---- values, on a GPU ----


class Gpu:
    """Programs loaded and run on torch's current device and stream."""

    def __init__(self) -> None:
        self.backend = native.cuda()
        self.device = torch.cuda.current_device()
        self.loaded: dict[str, dict[str, tuple[int, int]]] = {}

    def load(self, text: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Each kernel's module and place in it; a text is compiled once."""
        if text not in self.loaded:
            code = self.backend.compile(text, names, None, self.device)
            found = self.loaded[text] = {}
            for i in range(0, len(names), MAX_ENTRIES):
                part = tuple(names[i : i + MAX_ENTRIES])
                module = self.backend.load(replace(code, entries=part), self.device)
                found |= {name: (module, entry) for entry, name in enumerate(part)}
        return self.loaded[text]

    def run(self, kernel: tuple[int, int], *args: object, grid: int = 64, block: int = 256) -> None:
        """Arguments: tensors, ctypes values, ints (32 bits)."""
        given = []
        for a in args:
            tensor = isinstance(a, torch.Tensor)
            given.append(C.c_void_p(a.data_ptr()) if tensor else C.c_int(a) if isinstance(a, int) else a)
        self.backend.launch(
            kernel[0],
            kernel[1],
            device=self.device,
            grid=(grid, 1, 1),
            block=(block, 1, 1),
            stream=torch.cuda.current_stream().cuda_stream,
            args=given,
        )
        torch.cuda.synchronize()


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return Gpu()


def patterns(dtype: torch.dtype) -> torch.Tensor:
    """Every value of a small dtype; of the others random bits and the edges."""
    if dtype == torch.bool:
        return torch.tensor([False, True], device="cuda")
    generator = torch.Generator("cuda").manual_seed(1)
    if dtype.itemsize == 1:
        return torch.arange(256, device="cuda", dtype=torch.int32).to(torch.uint8).view(dtype)
    if dtype.itemsize == 2:
        return torch.arange(65536, device="cuda", dtype=torch.int32).to(torch.int16).view(dtype)
    bits = torch.randint(
        -(2**31), 2**31 - 1, (1 << 22,), device="cuda", generator=generator, dtype=torch.int64
    )
    if dtype.is_complex:
        return torch.randn(1 << 16, device="cuda", generator=generator, dtype=dtype) * 1000
    if dtype == torch.float64:
        around = torch.randn(1 << 20, device="cuda", generator=generator, dtype=dtype)
        edges = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 0.5, -0.5, 1e300, 1e-300])
        return torch.cat([around, around * 1000, around * 1e-6, edges.to("cuda", dtype)])
    if dtype == torch.int64:
        return bits * 77777
    return bits.to(torch.int32).view(dtype)


def that_fit(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values whose cast every torch does alike.

    Beyond an integer's range C++ defines nothing; beyond 464 e4m3 was NaN before torch 2.13 and saturates since.
    """
    if dtype == torch.float8_e4m3fn:
        real = values.real if values.is_complex() else values
        return values[~(real.double().abs() > 464)]
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        return values
    real = values.real if values.is_complex() else values
    if not real.is_floating_point():
        return values
    info = torch.iinfo(dtype)
    wide = real.double()
    return values[(wide > info.min - 1.0) & (wide < info.max * 1.0)]


@pytest.mark.gpu
@pytest.mark.parametrize("source", STORED)
def test_conversions(gpu: Gpu, source: str) -> None:
    kernels = gpu.load(program(*map(convert_kernel, STORED)), [f"to_{name}" for name in STORED])
    for target, dtype in STORED.items():
        given = that_fit(patterns(STORED[source]), dtype)
        wanted = given.to(dtype)
        got = torch.empty_like(wanted)
        gpu.run(kernels[f"to_{target}"], got, given, given.numel(), list(STORED).index(source))
        if dtype.itemsize == 1 and dtype.is_floating_point:
            wanted, got = wanted.float(), got.float()
        same = (wanted == got) | (wanted != wanted) & (got != got)
        assert same.all(), (target, given[~same][:8], wanted[~same][:8], got[~same][:8])


# Where a function is asked: from, to; None: over all magnitudes, positive.
DOMAINS = {
    "asin": (-1, 1),
    "acos": (-1, 1),
    "atanh": (-0.999, 0.999),
    "erfinv": (-0.999, 0.999),
    "acosh": (1, 1e4),
    "log": None,
    "log2": None,
    "log10": None,
    "log1p": None,
    "sqrt": None,
    "rsqrt": None,
    "exp": (-87, 88),
    "exp2": (-126, 127),
    "expm1": (-20, 80),
    "sinh": (-80, 80),
    "cosh": (-80, 80),
    "erfc": (-4, 9),
    "lgamma": (3, 1e4),  # between, it has zeros, near which CUDA's own promises less
}
# Largest error in ulp: what CUDA's guide states for its functions, beyond the contract's 2 where it is more.
ULPS = {
    "sigmoid": 3,
    "tan": 4,
    "erfc": 4,
    "lgamma": 6,
    "sinh": 3,
    "asinh": 3,
    "acosh": 4,
    "atanh": 3,
    "log10": 2,
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", UNARY)
def test_math_is_accurate(gpu: Gpu, name: str) -> None:
    """Float functions beside torch's in double precision."""
    text = program(
        *(
            f'extern "C" __global__ void f_{f}(float *out, const float *in, int n)'
            f" {{ GEMS_FOR_GRID(i, n) out[i] = {f}(in[i]); }}"
            for f in UNARY
        )
    )
    kernels = gpu.load(text, [f"f_{f}" for f in UNARY])
    domain = DOMAINS.get(name, (-50, 50))
    generator = torch.Generator("cuda").manual_seed(2)
    x = torch.rand(1 << 20, device="cuda", generator=generator, dtype=torch.float64)
    x = (domain[0] + (domain[1] - domain[0]) * x if domain else torch.exp(140 * x - 70)).float()
    got = torch.empty_like(x)
    gpu.run(kernels[f"f_{name}"], got, x, x.numel())
    exact = getattr(torch, {"nearbyint": "round"}.get(name, name))(x.double())
    normal = (exact.abs() < 3e38) & (exact.abs() > 1.2e-38)
    assert torch.equal(got[exact == 0], exact[exact == 0].float())
    ulp = torch.exp2(torch.floor(torch.log2(exact.abs())) - 23)
    worst = ((got.double() - exact).abs() / ulp)[normal].max().item()
    assert worst <= ULPS.get(name, 2) + 0.5, worst


@pytest.mark.gpu
@pytest.mark.parametrize("block", [32, 64, 96, 256, 1024])
def test_collectives(gpu: Gpu, block: int) -> None:
    kernels = gpu.load(program(COLLECTIVES), [*FOLDS, "scan"])
    x = torch.arange(1, 5001, device="cuda", dtype=torch.float64)
    out = torch.empty(1, device="cuda", dtype=torch.float64)
    for n in (1, 31, 33, 1000, 5000):
        gpu.run(kernels["sum_double"], out, x, n, grid=1, block=block)
        assert out.item() == n * (n + 1) / 2
        gpu.run(kernels["min_double"], out, -x, n, grid=1, block=block)
        assert out.item() == -n
    odd = torch.arange(5000, device="cuda") * 2 + 1
    product = torch.empty(1, device="cuda", dtype=torch.int64)
    gpu.run(kernels["prod_int"], product, odd, 5000, grid=1, block=block)
    assert product.item() == odd.prod().item()
    y = torch.randn(5000, device="cuda")
    largest = torch.empty(1, device="cuda")
    gpu.run(kernels["max_float"], largest, y, 5000, grid=1, block=block)
    assert largest.item() == y.max().item()
    y[4321] = float("nan")
    gpu.run(kernels["max_float"], largest, y, 5000, grid=1, block=block)
    assert largest.isnan().item()
    z = torch.randint(-9, 9, (block,), device="cuda", dtype=torch.int32)
    before, total = torch.empty_like(z), torch.empty(1, device="cuda", dtype=torch.int32)
    gpu.run(kernels["scan"], before, total, z, grid=1, block=block)
    assert torch.equal(before, (z.cumsum(0) - z).int()) and total.item() == z.sum().item()


@pytest.mark.gpu
def test_random_numbers_are_torchs(gpu: Gpu) -> None:
    """Philox is torch's own CUDA stream: thread t of torch.rand takes subsequence t."""
    kernel = gpu.load(program(RANDOM), ["random"])["random"]
    bits = torch.empty(16, device="cuda", dtype=torch.int32)
    uniform, normal = torch.empty(16, device="cuda"), torch.empty(8, device="cuda")
    generator = torch.Generator("cuda").manual_seed(1234)
    wanted = torch.rand(256, device="cuda", generator=generator)
    seed, none = C.c_uint64(1234), C.c_uint64(0)
    for thread in (0, 1, 77, 255):
        gpu.run(kernel, bits, uniform, normal, seed, C.c_uint64(thread), none, grid=1, block=1)
        assert uniform[0] == 1 - wanted[thread] or uniform[0] == wanted[thread]
        later = uniform[4:8].clone()
        gpu.run(kernel, bits, uniform, normal, seed, C.c_uint64(thread), C.c_uint64(4), grid=1, block=1)
        assert torch.equal(later, uniform[:4]), "an offset of four is the next four numbers"
        assert ((uniform > 0) & (uniform <= 1)).all() and normal.isfinite().all()

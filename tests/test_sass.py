"""The reading of machine code, and what the contract's vector accesses become."""

from __future__ import annotations

import pytest

import native
import sass

ADD = """
using namespace gems;
template <class T> __device__ void add(T *out, const T *a, const T *b, int n) {
    constexpr int N = vec_n<T>;
    GEMS_FOR_GRID(i, n / N) {
        auto x = load<N>(a + i * N), y = load<N>(b + i * N);
        Vec<T, N> r;
        for (int k = 0; k < N; k++) r.v[k] = from_op<T>(to_op(x.v[k]) + to_op(y.v[k]));
        store(out + i * N, r);
    }
}
#define KERNEL(T) extern "C" __global__ void add_##T(T *out, const T *a, const T *b, int n) { add(out, a, b, n); }
KERNEL(float) KERNEL(double) KERNEL(f16) KERNEL(bf16)
"""
NAMES = ["add_float", "add_double", "add_f16", "add_bf16"]


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_vector_add_on_the_contract(arch: str) -> None:
    kernels = sass.kernels(sass.contract() + ADD, NAMES, arch)
    assert sorted(kernels) == sorted(NAMES)
    for kernel in kernels.values():
        assert kernel.has("LDG.E.128", "STG.E.128"), kernel.instructions
        assert kernel.count("LDG") == kernel.count("LDG.E.128") == 2, kernel.instructions
        assert kernel.spill_bytes == 0 and kernel.shared_bytes == 0
        assert kernel.registers <= 40
        assert not kernel.has("LDL") and not kernel.has("STL")


def test_scalar_accesses_are_told_from_vectors() -> None:
    text = 'extern "C" __global__ void k(float *p) { p[threadIdx.x] += 1.0f; }'
    kernel = sass.kernels(text, ["k"], "sm_90a")["k"]
    assert kernel.has("LDG", "STG.E", "FADD") and not kernel.has("LDG.E.128")
    assert kernel.opcodes[-2:] == ["EXIT", "BRA"] or kernel.opcodes[-1] == "BRA"


def test_tensor_cores_and_asynchronous_copies() -> None:
    text = """
    extern "C" __global__ void k(float *out, const char *in, unsigned a, unsigned b) {
        __shared__ __align__(16) char held[512];
        unsigned at = (unsigned)__cvta_generic_to_shared(held + threadIdx.x * 16);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(in + threadIdx.x * 16));
        asm volatile("cp.async.wait_all;");
        __syncthreads();
        float d[4] = {0, 0, 0, 0};
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0,%1,%2,%3},{%4,%4,%4,%4},{%5,%5},{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a), "r"(b));
        out[threadIdx.x] = d[0] + d[1] + d[2] + d[3] + held[threadIdx.x];
    }
    """
    for arch in sass.ARCHS:
        kernel = sass.kernels(text, ["k"], arch)["k"]
        assert kernel.has("HMMA.BF16", "LDGSTS.128", "HMMA.16816"), kernel.instructions
        assert kernel.shared_bytes >= 512


def test_local_memory_counts_as_a_spill() -> None:
    text = """extern "C" __global__ void k(float *p, const int *at) {
        float v[64];
        for (int i = 0; i < 64; i++) v[i] = p[i];
        for (int i = 0; i < 64; i++) p[i] = v[at[i]];
    }"""
    kernel = sass.kernels(text, ["k"], "sm_90a")["k"]
    assert kernel.spill_bytes >= 256 and kernel.has("LDL")


def test_errors_name_the_source() -> None:
    with pytest.raises(native.GemsError, match="expected an expression"):
        sass.kernels("int a = ;", ["k"], "sm_80")
    with pytest.raises(AssertionError, match="is PTX"):
        sass.kernels('extern "C" __global__ void k() {}', ["k"], "sm_190")

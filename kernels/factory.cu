// Factories. The head names T, Index, FACTORY_KERNEL, kHow (0 arange, 1 linspace, 2 logspace; 3 the upper triangle), kV
// (elements of one store). Twin of csrc/families/factory.c.
using namespace gems;

#if FACTORY_KERNEL <= 2
struct Sequence {
    double start, end, step, base;
    int64_t first, by, count, half;
};

constexpr bool kInt = !is_float<T>;
// What ATen computes in. On a CPU float aranges and all powers are in double; linspace rounds to T after each operation.
#if GEMS_CPU
typedef either<kInt || is_same<T, double> || (kHow != 1 && !is_half<T>) || kHow == 2, double, float> Acc;
#else
typedef either<is_same<T, double>, double, float> Acc;
#endif

// base + step * k: fused, as the compilers do it for ATen.
GEMS_DI Acc along(Acc base, Acc step, Acc k) { return fma(step, k, base); }
// The same with each result rounded to T.
GEMS_DI float along_half(Acc base, Acc step, Acc k) {
    float by = to_op(from_op<T>((float)step * to_op(from_op<T>((float)k))));
    return to_op(from_op<T>((float)base + by));
}

GEMS_DI T at(const Sequence& s, Index i) {
    if constexpr (kHow == 0) {
        if constexpr (kInt) return convert<T>((int64_t)((uint64_t)s.first + (uint64_t)s.by * (uint64_t)i));
        else return convert<T>(along((Acc)s.start, (Acc)s.step, (Acc)i));
    } else {
        bool early = i < (Index)s.half;
        Acc base = (Acc)(early ? s.start : s.end), k = (Acc)(early ? i : i - (Index)(s.count - 1)), v;
        if constexpr (is_half<T> && (kHow == 1 || !GEMS_CPU)) v = along_half(base, (Acc)s.step, k);
        else v = along(base, (Acc)s.step, k);
        if constexpr (kHow == 2) v = pow((Acc)s.base, v);
        return convert<T>(v);
    }
}
#endif

#if FACTORY_KERNEL == 1
extern "C" __global__ void sequence_dense(T* __restrict__ out, Index n, Sequence s) {
    if constexpr (kFast && kInt && kHow == 0) {  // sums alone: a product of 64 bits does not vectorise
        constexpr int kRun = 32;
        int64_t lane[kRun];
        for (int k = 0; k < kRun; k++) lane[k] = (int64_t)((uint64_t)s.by * (uint64_t)k);
        GEMS_FOR_GRID(g, n / kRun) {
            uint64_t base = (uint64_t)s.first + (uint64_t)s.by * (uint64_t)(g * kRun);
            for (int k = 0; k < kRun; k++) out[g * kRun + k] = convert<T>((int64_t)(base + (uint64_t)lane[k]));
        }
        GEMS_FOR_GRID(i, n % kRun) out[n / kRun * kRun + i] = at(s, n / kRun * kRun + i);
    } else if constexpr (kV == 1) {
        GEMS_FOR_GRID(i, n) out[i] = at(s, i);
    } else {
        GEMS_FOR_GRID(v, n / kV) {
            Vec<T, kV> x;
            GEMS_UNROLL for (int k = 0; k < kV; k++) x.v[k] = at(s, v * kV + k);
            store<kV>(out + v * kV, x);
        }
        GEMS_FOR_GRID(i, n % kV) out[n / kV * kV + i] = at(s, n / kV * kV + i);
    }
}
#endif

#if FACTORY_KERNEL == 2
extern "C" __global__ void sequence_strided(T* __restrict__ out, Index n, Sequence s, Strided<1, int32_t> m) {
    GEMS_FOR_GRID(i, n) {
        int32_t off[1];
        strided_offsets<8>(m, (int32_t)i, off);
        out[off[0]] = at(s, i);
    }
}
#endif

#if FACTORY_KERNEL == 3
// A one stands at every multiple of columns + 1 that is not below the square part; `by` divides by columns + 1.
extern "C" __global__ void eye_dense(T* __restrict__ out, Index rows, Index columns, FastDiv by, int64_t, int64_t) {
    const T one = convert<T>(1.0f);
#if GEMS_CPU && GEMS_FAST
    auto chunk = grid_chunk<Index>(rows);
    memset(out + chunk.first * columns, 0, (size_t)((chunk.last - chunk.first) * columns) * sizeof(T)); // zero's bytes
    for (Index r = chunk.first; r < chunk.last && r < columns; r++) out[r * columns + r] = one;
    (void)by;
#else
    const T zero = convert<T>(0.0f);
    Index n = rows * columns;
    GEMS_FOR_GRID(v, n / kV) {
        Index q, r;
        divmod((Index)(v * kV), by, q, r);
        Vec<T, kV> x;
        GEMS_UNROLL for (int k = 0; k < kV; k++) {
            x.v[k] = r == 0 && q < columns ? one : zero;
            if (++r > columns) r = 0, q++;
        }
        store<kV>(out + v * kV, x);
    }
    GEMS_FOR_GRID(i, n % kV) {
        Index q, r, e = n / kV * kV + i;
        divmod(e, by, q, r);
        out[e] = r == 0 && q < columns ? one : zero;
    }
#endif
}
#endif

#if FACTORY_KERNEL == 4
extern "C" __global__ void eye_strided(T* __restrict__ out, Index rows, Index columns, FastDiv by, int64_t along,
                                       int64_t across) {
    const T zero = convert<T>(0.0f), one = convert<T>(1.0f);
    GEMS_FOR_GRID(i, rows * columns) {
        Index r, c;
        divmod(i, by, r, c);
        out[r * along + c * across] = r == c ? one : zero;
    }
}
#endif

#if FACTORY_KERNEL == 5
// Row r of the lower triangle has the columns below r + offset + 1, of the upper those from r + offset on.
GEMS_DI int64_t before_lower(int64_t r, int64_t columns, int64_t offset) { // elements of the rows above r
    int64_t first = offset + 1;
    if (first <= 0) r += first - 1, first = 1;
    if (r <= 0) return 0;
    int64_t growing = first < columns ? columns - first : 0;
    if (growing > r) growing = r;
    return growing * first + growing * (growing - 1) / 2 + (r - growing) * columns;
}
GEMS_DI int64_t before(int64_t r, int64_t columns, int64_t offset) {
    return kHow == 3 ? r * columns - before_lower(r, columns, offset - 1) : before_lower(r, columns, offset);
}
GEMS_DI int64_t first_column(int64_t r, int64_t offset) { return kHow == 3 && r + offset > 0 ? r + offset : 0; }

extern "C" __global__ void triangle(T* __restrict__ out, int64_t rows, int64_t columns, int64_t offset, int64_t n) {
    if constexpr (kFast) {
        GEMS_FOR_GRID(r, rows) {
            int64_t at = before(r, columns, offset), count = before(r + 1, columns, offset) - at;
            T first = (T)first_column(r, offset);
            for (int64_t c = 0; c < count; c++) {
                out[at + c] = (T)r;
                out[n + at + c] = (T)(first + (T)c);
            }
        }
    } else {
        GEMS_FOR_GRID(i, n) {
            int64_t low = 0, high = rows;  // the last row that begins at or before i, the empty ones passed over
            while (high - low > 1) {
                int64_t middle = (low + high) / 2;
                if (before(middle, columns, offset) <= i) low = middle;
                else high = middle;
            }
            out[i] = (T)low;
            out[n + i] = (T)(first_column(low, offset) + i - before(low, columns, offset));
        }
    }
}
#endif

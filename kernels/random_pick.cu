// multinomial; after random.cu. A block has a row. Twin of csrc/families/random_pick.c.

struct Runner {
    Op value;
    int32_t place;
};
struct Faster { // the larger, of equal ones the first
    GEMS_DI Runner operator()(Runner a, Runner b) const {
        return b.value > a.value || (b.value == a.value && b.place < a.place) ? b : a;
    }
};

// The places of the `samples` largest quotients of a row, the largest first; a number that was picked becomes negative.
extern "C" __global__ void race(int64_t* __restrict__ out, const T* __restrict__ p, T* noise, int64_t columns, int64_t along,
                                int64_t across, int64_t samples) {
    __shared__ Runner buf[33];
    const T* row = p + (int64_t)blockIdx.x * along;
    T* q = noise + (int64_t)blockIdx.x * columns;
    for (int64_t s = 0; s < samples; s++) {
        Runner best = {Op(-1), 0};
        GEMS_FOR_BLOCK(c, (int32_t)columns) {
            Op by = to_op(q[c]);
            Op value = by < 0 ? Op(-1) : to_op(from_op<T>(to_op(row[c * across]) / by));
            if (value > best.value) best = {value, c};
        }
        best = block_reduce(best, Faster(), buf);
        if (threadIdx.x == 0) {
            out[(int64_t)blockIdx.x * samples + s] = best.place;
            q[best.place] = from_op<T>(Op(-1));
        }
        __syncthreads();
    }
}

GEMS_DI double chance(T p) {
    double v = (double)to_op(p);
#if !GEMS_CPU  // a CPU has looked at them before
    bool good = v >= 0 && v <= 1.7976931348623157e308;
    if (!good) __assertfail("a probability is negative or not finite", "random_pick.cu", 1, "multinomial", 1);
#endif
    return v;
}

extern "C" __global__ void running_sums(double* __restrict__ sums, const T* __restrict__ p, int64_t columns, int64_t along,
                                        int64_t across) {
    __shared__ double buf[33];
    const T* row = p + (int64_t)blockIdx.x * along;
    double* to = sums + (int64_t)blockIdx.x * columns;
    double before = 0;
    if constexpr (kFast) {
        for (int64_t c = 0; c < columns; c++) to[c] = before += chance(row[c * across]);
    } else {
        for (int64_t base = 0; base < columns; base += blockDim.x) {
            int64_t c = base + threadIdx.x;
            double own = c < columns ? chance(row[c * across]) : 0.0, total;
            double sum = before + block_exclusive_sum(own, total, buf) + own;
            if (c < columns) to[c] = sum;
            before += total;
            __syncthreads();
        }
    }
#if !GEMS_CPU
    if (!(before > 0)) __assertfail("the probabilities sum to 0", "random_pick.cu", 1, "multinomial", 1);
#endif
}

// The first place of a row whose sum reaches u in (0, 1] of the whole: its probability is above 0.
GEMS_DI int64_t place_of(const double* sums, int64_t columns, uint32_t word) {
    double wanted = (double)uniform01(word) * sums[columns - 1];
    int64_t low = 0, high = columns - 1;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (sums[middle] < wanted) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Sample s of row r is the first word of subsequence r * (samples up to a multiple of 128) + s.
extern "C" __global__ void search(int64_t* __restrict__ out, const double* __restrict__ sums, int64_t columns, int64_t rows,
                                  int64_t samples, uint64_t seed, uint64_t offset) {
    int64_t wide = (samples + 127) / 128 * 128;
    if constexpr (kFast) {
        GEMS_FOR_GRID(item, rows * (wide / kGroup)) {
            int64_t row = item / (wide / kGroup), first = item % (wide / kGroup) * kGroup;
            uint32_t r[4][kGroup];
            draw(seed, offset, (uint32_t)(item * kGroup), r);
            for (int s = 0; s < kGroup && first + s < samples; s++)
                out[row * samples + first + s] = place_of(sums + row * columns, columns, r[0][s]);
        }
    } else {
        GEMS_FOR_GRID(item, rows * wide) {
            int64_t row = item / wide, s = item % wide;
            if (s < samples)
                out[row * samples + s] = place_of(sums + row * columns, columns, Philox(seed, item, offset).next4().v[0]);
        }
    }
}

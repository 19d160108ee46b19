// cat: rows of many inputs side by side in the rows of one output. The head names Src, Dst, kSame, kV (elements of one
// access), kMost (inputs of a table), kChunk (vectors that a block takes at once). Twin of csrc/families/cat.c.
using namespace gems;

struct Table {
    const Src* in[kMost];  // null: nothing is copied there
    uint32_t at[kMost + 1];
    uint32_t count, outer, out_inner;
};

// The first chunk of input i: each has at least as many as it needs.
GEMS_DI uint32_t first_chunk(const Table& t, int i) { return t.outer * (t.at[i] - t.at[0]) / kChunk + (uint32_t)i; }

template <int N>
GEMS_DI Vec<Dst, N> converted(const Vec<Src, N>& in) {
    if constexpr (kSame) {
        return in;
    } else {
        Vec<Dst, N> out;
        GEMS_UNROLL for (int i = 0; i < N; i++) out.v[i] = convert<Dst>(in.v[i]);
        return out;
    }
}

extern "C" __global__ void cat_table(Dst* __restrict__ out, const __grid_constant__ Table t) {
    if (kFast && t.outer > 1) {  // some rows of the output at a time, so that its memory is written in order
        int32_t step = (int32_t)(4096 / t.out_inner + 1), outer = (int32_t)t.outer;
        GEMS_FOR_GRID(part, (outer + step - 1) / step) {
            int32_t first = part * step, rows = outer - first < step ? outer - first : step;
            for (uint32_t k = 0; k < t.count; k++) {
                int64_t inner = t.at[k + 1] - t.at[k], out_inner = t.out_inner;
                if (!t.in[k]) continue;
                const Src* in = t.in[k] + first * inner;
                Dst* to = out + first * out_inner + t.at[k];
                if (inner == 1) {
                    GEMS_IVDEP for (int32_t r = 0; r < rows; r++) to[r * out_inner] = convert<Dst>(in[r]);
                } else if (kSame && inner * sizeof(Dst) >= 64) {
                    for (int32_t r = 0; r < rows; r++) memcpy(to + r * out_inner, in + r * inner, inner * sizeof(Dst));
                } else {
                    for (int32_t r = 0; r < rows; r++)
                        GEMS_IVDEP for (int32_t i = 0; i < inner; i++)
                            to[r * out_inner + i] = convert<Dst>(in[r * inner + i]);
                }
            }
        }
        return;
    }
    uint32_t total = first_chunk(t, (int)t.count);
    for (uint32_t chunk = blockIdx.x; chunk < total; chunk += gridDim.x) {
        int which = 0, last = (int)t.count - 1;  // the input whose chunk it is
        while (which < last) {
            int middle = (which + last + 1) / 2;
            if (first_chunk(t, middle) <= chunk) which = middle;
            else last = middle - 1;
        }
        const Src* in = t.in[which];
        uint32_t inner = t.at[which + 1] - t.at[which], all = t.outer * inner;
        uint32_t begin = (chunk - first_chunk(t, which)) * kChunk;
        if (!in || begin >= all) continue;
        uint32_t end = all - begin < kChunk ? all : begin + kChunk;
        Dst* to = out + (int64_t)t.at[which] * kV;
        if constexpr (kFast) {
            for (uint32_t i = begin; i < end;) {
                uint32_t row = i / inner, run = inner - (i - row * inner);
                if (run > end - i) run = end - i;
                Dst* place = to + ((int64_t)row * t.out_inner + (i - row * inner));
                if (kSame && run * sizeof(Dst) >= 64) memcpy(place, in + i, run * sizeof(Dst));
                else GEMS_IVDEP for (uint32_t k = 0; k < run; k++) place[k] = convert<Dst>(in[i + k]);
                i += run;
            }
        } else {
            constexpr int kUnroll = 4;
            for (uint32_t i = begin + threadIdx.x; i < end; i += kUnroll * blockDim.x) {
                Vec<Src, kV> v[kUnroll];
                GEMS_UNROLL for (int k = 0; k < kUnroll; k++) {
                    uint32_t at = i + k * blockDim.x;
                    if (at < end) v[k] = load<kV>(in + (int64_t)at * kV);
                }
                GEMS_UNROLL for (int k = 0; k < kUnroll; k++) {
                    uint32_t at = i + k * blockDim.x, row = at / inner;
                    if (at < end) store<kV>(to + ((int64_t)row * t.out_inner + (at - row * inner)) * kV, converted(v[k]));
                }
            }
        }
    }
}

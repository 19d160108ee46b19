// Convolution as a product of matrices, 16-bit floats on the tensor cores; nothing is unfolded in memory. Of a group:
//   the result or the image:   a row for each pixel of it, a column for each channel, as deep as taps times channels read;
//   the weight's gradient:     a row for each channel of the result, a column for each tap and channel of the image, as deep as
//                              there are pixels of the result.
// The weight that is read lies as [channel written][tap][channel read].
//
// The head gives Scalar, GEMS_LOOP, kTileM, kTileN, kPad, kBlocks, kTurned (pixels of a channel are neighbours in what is written),
// kWeight (the gradient), and what convolution_feed.cuh wants. Twin of csrc/families/convolution_tile.c.
// Parts of the depth are added up in their order by convolution_finish. Has run on an H200.

typedef GEMS_LOOP Loop;
typedef Loop::Op Op;

// f(row, column, value) for what a thread holds of a slab.
template <class F> GEMS_DI void each_of(const Loop &loop, int slab, F f) {
#ifdef GEMS_WARPGROUPS
    loop.each(slab, f);
#else
    constexpr int kDown = Loop::kSlabRows / 16; // warps below each other
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, across = Loop::kThreads / 32 / kDown;
    const int row = warp / across * 16 + (lane >> 2), col = warp % across * (kTileN / across) + (lane & 3) * 2;
    GEMS_UNROLL for (int j = 0; j < Loop::kCols; j++)
        GEMS_UNROLL for (int e = 0; e < 4; e++) f(row + (e & 2) * 4, col + j * 8 + (e & 1), loop.acc[slab][j][e]);
#endif
}

// Writes one element.
GEMS_DI void write_one(const Implicit &p, int group, int row, int col, Op value) {
    Scalar *out = static_cast<Scalar *>(p.out);
    if constexpr (kWeight) {
        int tap, c, z = 0, y = 0;
        divmod(col, p.taps[0], tap, c);
        if constexpr (kRank > 1) divmod(tap, p.taps[3], y, tap);
        if constexpr (kRank > 2) divmod(y, p.taps[2], z, y);
        out[((int64_t)group * p.rows + row) * p.weight[0] + c * p.weight[1] + z * p.weight[2] + y * p.weight[3] +
            tap * p.weight[4]] = from_op<Scalar>(value);
    } else {
        int channel = group * p.cols + col;
        if (p.bias) value += to_op(static_cast<const Scalar *>(p.bias)[channel]);
        int64_t made = (int64_t)p.groups * p.cols;
        if constexpr (kTurned) {
            int sample, rest;
            divmod(row, p.space[0], sample, rest);
            out[(sample * made + channel) * (int)p.space[0].d + rest] = from_op<Scalar>(value);
        } else {
            out[row * made + channel] = from_op<Scalar>(value);
        }
    }
}

// The same for N neighbours in memory, where `wide` says that vectors of them can be written.
template <int N> GEMS_DI void write_vector(const Implicit &p, int group, int row, int col, const Op (&value)[N]) {
    const Scalar *bias = static_cast<const Scalar *>(p.bias);
    const int64_t made = (int64_t)p.groups * p.cols;
    const int channel = group * p.cols + col;
    Vec<Scalar, N> v;
    Op same = kTurned && bias ? to_op(bias[channel]) : Op(0);
    GEMS_UNROLL for (int e = 0; e < N; e++)
        v.v[e] = from_op<Scalar>(value[e] + (kTurned ? same : bias ? to_op(bias[channel + e]) : Op(0)));
    Scalar *out = static_cast<Scalar *>(p.out);
    if constexpr (kTurned) {
        int sample, rest;
        divmod(row, p.space[0], sample, rest);
        out += (sample * made + channel) * (int)p.space[0].d + rest;
    } else {
        out += row * made + channel;
    }
    store<N>(out, v);
}

extern "C" __global__ void __launch_bounds__(Loop::kThreads, kBlocks)
convolution_tile(const __grid_constant__ Implicit p) {
    GEMS_DYN_SMEM(unsigned char, shared);
    const int tile_m = (int)blockIdx.x / p.tiles_n, tile_n = (int)blockIdx.x - tile_m * p.tiles_n;
    const int part = (int)blockIdx.y / p.groups, group = (int)blockIdx.y - part * p.groups;
    const int row0 = tile_m * kTileM, col0 = tile_n * kTileN, k0 = part * p.split_k;
    const int depth = p.depth - k0 < p.split_k ? p.depth - k0 : p.split_k;
    Loop loop;
    if constexpr (kWeight) {
        loop.run(Part{&p, row0, group, k0, depth}, Part{&p, col0, group, k0, depth}, shared);
    } else {
        const Scalar *weight = static_cast<const Scalar *>(p.other) + ((int64_t)group * p.cols + col0) * p.depth + k0;
        loop.run(Part{&p, row0, group, k0, depth}, Source<Scalar>{weight, p.depth, 1, p.cols - col0, depth}, shared);
    }

    constexpr int kVec = 16 / (int)sizeof(Scalar);
    Op *staged = reinterpret_cast<Op *>(shared);
    Op *sums = p.partial ? p.partial + ((int64_t)part * p.groups + group) * p.rows * p.cols : nullptr;
    GEMS_UNROLL for (int slab = 0; slab < Loop::kSlabs; slab++) {
        if (slab) __syncthreads();
        if constexpr (kTurned) {
            // a column after the other, so that the pixels of a channel can be read as vectors
            constexpr int kPitch = Loop::kSlabRows + 4, kDown = Loop::kSlabRows / kVec;
            each_of(loop, slab, [&](int r, int c, Op v) { staged[c * kPitch + r] = v; });
            __syncthreads();
#pragma unroll 1
            for (int i = (int)threadIdx.x; i < kDown * kTileN; i += Loop::kThreads) {
                int c = i / kDown, r = (i - c * kDown) * kVec, row = row0 + Loop::slab_row(slab, r), col = col0 + c;
                if (row >= p.rows || col >= p.cols) continue;
                Op v[kVec];
                GEMS_UNROLL for (int e = 0; e < kVec; e++) v[e] = staged[c * kPitch + r + e];
                if (sums) {
                    GEMS_UNROLL for (int e = 0; e < kVec; e++)
                        if (row + e < p.rows) sums[(int64_t)(row + e) * p.cols + col] = v[e];
                } else if (p.wide && row + kVec <= p.rows) {
                    write_vector(p, group, row, col, v);
                } else {
                    GEMS_UNROLL for (int e = 0; e < kVec; e++)
                        if (row + e < p.rows) write_one(p, group, row + e, col, v[e]);
                }
            }
        } else {
            constexpr int kPitch = kTileN + kPad, kAcross = kTileN / kVec;
            loop.stage(slab, staged, kPitch);
            __syncthreads();
#pragma unroll 1
            for (int i = (int)threadIdx.x; i < Loop::kSlabRows * kAcross; i += Loop::kThreads) {
                int r = i / kAcross, q = (i - r * kAcross) * kVec;
                int row = row0 + Loop::slab_row(slab, r), col = col0 + q;
                if (row >= p.rows || col >= p.cols) continue;
                Op v[kVec];
                GEMS_UNROLL for (int e = 0; e < kVec; e++) v[e] = staged[r * kPitch + q + e];
                if (sums) {
                    GEMS_UNROLL for (int e = 0; e < kVec; e++)
                        if (col + e < p.cols) sums[(int64_t)row * p.cols + col + e] = v[e];
                } else if (!kWeight && p.wide && col + kVec <= p.cols) {
                    write_vector(p, group, row, col, v);
                } else {
                    GEMS_UNROLL for (int e = 0; e < kVec; e++)
                        if (col + e < p.cols) write_one(p, group, row, col + e, v[e]);
                }
            }
        }
    }
}

// The sums of the parts, added up in their order.
extern "C" __global__ void __launch_bounds__(256) convolution_finish(const __grid_constant__ Implicit p) {
    const int64_t plane = (int64_t)p.rows * p.cols, total = plane * p.groups;
    GEMS_FOR_GRID(f, total) {
        Op sum = 0;
        for (int s = 0; s < p.split; s++) sum += p.partial[s * total + f];
        int group = (int)(f / plane), row = (int)((f - group * plane) / p.cols);
        write_one(p, group, row, (int)(f - group * plane - (int64_t)row * p.cols), sum);
    }
}

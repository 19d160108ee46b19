// Convolution of images in two dims as a product of matrices, 16-bit floats on the tensor cores. One side has a line for each
// pixel of what is written and is read out of the image, window by window, while it is brought to shared memory; the other
// is the weight, [channel written][tap][channel read]. Both have their channels innermost, a multiple of 8 of them.
//
// The head gives Scalar, kBack (the image is written, from the result), kPixelsFirst (a row of the product is a pixel:
// channels last; else it is a channel), GEMS_LOOP, kTileM, kTileN, kPad, kBlocks. Twin of csrc/families/convolution_tile.c.
// Has run in the cpu backend's faithful mode alone so far.
using namespace gems;

struct Implicit {
    const void *image, *weight, *bias; // image: what is read
    void *out;
    int32_t channels, made;     // read, and written
    int32_t height, width;      // of what is read
    int32_t out_height, out_width, pixels; // of what is written; pixels: of all samples
    int32_t tiles_n, wide;      // wide: whole vectors can be written
    Window window[2];           // y, x
    FastDiv plane, row;         // by pixels of a sample, and of a row
};

constexpr int kWindows = 4; // beside the modes of Feeding

// The pixels of a tile, and how deep the product is.
struct Pixels {
    const Implicit *p;
    int first, depth;
};

template <class T, int LINES, int BK, int THREADS, int MODE> struct WindowFeed : Feed<T, LINES, BK, THREADS, MODE> {
    GEMS_DI explicit WindowFeed(const Source<T> &s) : Feed<T, LINES, BK, THREADS, MODE>(s) {}
};

template <class T, int LINES, int BK, int THREADS> struct WindowFeed<T, LINES, BK, THREADS, kWindows> {
    static constexpr bool kFollowsK = true;
    static constexpr int kVec = 16 / (int)sizeof(T), kChunks = BK / kVec, kTotal = kChunks * LINES;
    static constexpr int kEach = (kTotal + THREADS - 1) / THREADS, kPass = THREADS / kChunks;
    static_assert(THREADS % kChunks == 0 && (kTotal % THREADS == 0 || kTotal < THREADS), "chunks do not split evenly");

    const Implicit &p;
    int row, chunk, channel, ky, kx;
    int sample[kEach], y[kEach], x[kEach]; // where the windows begin; a pixel that does not exist has none

    GEMS_DI explicit WindowFeed(const Pixels &s) : p(*s.p) {
        row = (int)threadIdx.x / kChunks;
        chunk = (int)threadIdx.x - row * kChunks;
        int depth = chunk * kVec, tap = depth / p.channels;
        channel = depth - tap * p.channels;
        ky = tap / p.window[1].size;
        kx = tap - ky * p.window[1].size;
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int line = row + i * kPass, pixel = s.first + line, rest;
            bool exists = line < LINES && pixel < p.pixels;
            divmod(exists ? pixel : 0, p.plane, sample[i], rest);
            divmod(rest, p.row, y[i], x[i]);
            if constexpr (kBack) {
                y[i] += p.window[0].pad;
                x[i] += p.window[1].pad;
            } else {
                y[i] = window_start(p.window[0], y[i]);
                x[i] = window_start(p.window[1], x[i]);
            }
            if (!exists) y[i] = -(1 << 30);
            sample[i] *= p.height * p.width;
        }
    }

    // The place of tap k of a window that begins at `at`; false: there is none.
    static GEMS_DI bool find(const Window &w, int at, int k, int size, int &place) {
        if constexpr (kBack) {
            place = at - k * w.dilation;
            if (w.stride != 1) {
                int q = place / w.stride;
                if (q * w.stride != place) return false;
                place = q;
            }
        } else {
            place = at + k * w.dilation;
        }
        return (uint32_t)place < (uint32_t)size;
    }

    GEMS_DI void begin(T *tile) const {
        if (kTotal < THREADS && (int)threadIdx.x >= kTotal) return;
        const T *image = static_cast<const T *>(p.image);
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int py, px;
            bool there = ky < p.window[0].size && find(p.window[0], y[i], ky, p.height, py) &&
                         find(p.window[1], x[i], kx, p.width, px);
            const T *from = there ? image + (int64_t)(sample[i] + py * p.width + px) * p.channels + channel : image;
            cp_async16(tile + swizzle<kChunks>(row + i * kPass, chunk) * kVec, from, there ? 16 : 0);
        }
    }
    GEMS_DI void end(T *) {}

    GEMS_DI void next() {
        channel += BK;
        while (channel >= p.channels) {
            channel -= p.channels;
            if (++kx == p.window[1].size) {
                kx = 0;
                ky++;
            }
        }
    }
};

typedef GEMS_LOOP Loop;
typedef Loop::Op Op;

extern "C" __global__ void __launch_bounds__(Loop::kThreads, kBlocks)
convolution_tile(const __grid_constant__ Implicit p) {
    GEMS_DYN_SMEM(unsigned char, shared);
    const int tile_m = (int)blockIdx.x / p.tiles_n, tile_n = (int)blockIdx.x - tile_m * p.tiles_n;
    const int row0 = tile_m * kTileM, col0 = tile_n * kTileN;
    const int depth = p.channels * p.window[0].size * p.window[1].size;
    const int rows = kPixelsFirst ? p.pixels : p.made, cols = kPixelsFirst ? p.made : p.pixels;
    const int line0 = kPixelsFirst ? col0 : row0;
    Source<Scalar> weight{static_cast<const Scalar *>(p.weight) + (int64_t)line0 * depth, depth, 1, p.made - line0, depth};
    Pixels pixels{&p, kPixelsFirst ? row0 : col0, depth};
    Loop loop;
    if constexpr (kPixelsFirst) loop.run(pixels, weight, shared);
    else loop.run(weight, pixels, shared);

    constexpr int kPitch = kTileN + kPad, kVec = 16 / (int)sizeof(Scalar), kAcross = kTileN / kVec;
    const Scalar *bias = static_cast<const Scalar *>(p.bias);
    Op *staged = reinterpret_cast<Op *>(shared);
    const int plane = p.out_height * p.out_width;
    GEMS_UNROLL for (int slab = 0; slab < Loop::kSlabs; slab++) {
        if (slab) __syncthreads();
        loop.stage(slab, staged, kPitch);
        __syncthreads();
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < Loop::kSlabRows * kAcross; i += Loop::kThreads) {
            int r = i / kAcross, q = (i - r * kAcross) * kVec;
            int row = row0 + Loop::slab_row(slab, r), col = col0 + q;
            if (row >= rows || col >= cols) continue;
            auto value = [&](int e) {
                int channel = kPixelsFirst ? col + e : row;
                return from_op<Scalar>(staged[r * kPitch + q + e] + (bias ? to_op(bias[channel]) : Op(0)));
            };
            // where the vector begins: pixels of a channel lie next to each other within a sample
            auto place = [&](int at) {
                if constexpr (kPixelsFirst) return (int64_t)row * p.made + at;
                int sample, rest;
                divmod(at, p.plane, sample, rest);
                return ((int64_t)sample * p.made + row) * plane + rest;
            };
            Scalar *out = static_cast<Scalar *>(p.out);
            if (p.wide && col + kVec <= cols) {
                Vec<Scalar, kVec> v;
                GEMS_UNROLL for (int e = 0; e < kVec; e++) v.v[e] = value(e);
                store<kVec>(out + place(col), v);
            } else {
#pragma unroll 1
                for (int e = 0; e < kVec && col + e < cols; e++) out[place(col + e)] = value(e);
            }
        }
    }
}

// How the operands of a convolution reach shared memory (feeds of tile.cuh): what is read lies channels last, [pixel][channel],
// groups side by side, and so does the gradient of a weight's result; a group's channels are a multiple of 8.
//
// The head gives kBack (pixels are those of the image, and what is read is the result), kStrided (then: some stride is not 1),
// kRank and kWarpgroups (tiles lie as hopper.cuh has them). Twin of csrc/families/convolution_tile.c.
using namespace gems;

struct Implicit {
    const void *image, *other, *bias; // image: what is read; other: the weight, or the result's gradient
    void *out;
    float *partial;                   // sums of parts of the depth, [part][group][row][column]; null: one part
    int32_t channels, lines;          // of a group: of what is read; of the other operand
    int32_t groups, split, split_k;   // parts of the depth, each split_k deep but the last
    int32_t rows, cols, depth;        // of the product of a group
    int32_t in[3], to[3];             // z, y, x: of what is read; of the pixels
    int32_t tiles_n, wide;            // wide: whole vectors can be written
    int64_t weight[5];                // where the weight is written: its strides
    Window window[3];
    FastDiv space[3], step[3];        // by pixels of a sample, a plane and a row; by strides
    FastDiv taps[4];                  // by a group's channels, and by taps along z, y, x
};

// The parts of an operand: from line `first` of group `group` on, `depth` deep from `k0` on.
struct Part {
    const Implicit *p;
    int first, group, k0, depth;
};

enum { kPixels = 4, kTaps, kGrad }; // beside the modes of Feeding

// Place of a chunk in a tile along lines.
template <int CHUNKS, int BK> GEMS_DI int place_of(int k, int chunk) {
#ifdef GEMS_WARPGROUPS
    return lines_swizzle<BK>(k, chunk);
#else
    return swizzle<CHUNKS>(k, chunk);
#endif
}

// Where the windows of a pixel begin, and the element of what is read that lies there (which need not exist).
struct Origin {
    int at[3], base;
};

GEMS_DI Origin origin_of(const Implicit &p, int pixel, bool exists) {
    Origin o;
    int sample, rest = exists ? pixel : 0;
    divmod(rest, p.space[0], sample, rest);
    o.at[0] = o.at[1] = 0;
    if constexpr (kRank > 2) divmod(rest, p.space[1], o.at[0], rest);
    if constexpr (kRank > 1) divmod(rest, p.space[2], o.at[1], rest);
    o.at[2] = rest;
    GEMS_UNROLL for (int d = 3 - kRank; d < 3; d++)
        o.at[d] = kBack ? o.at[d] + p.window[d].pad : window_start(p.window[d], o.at[d]);
    o.base = kStrided ? sample * p.in[0] : sample * p.in[0] + o.at[0];
    if constexpr (!kStrided) o.base = (o.base * p.in[1] + o.at[1]) * p.in[2] + o.at[2];
    if (!exists) o.at[2] = -(1 << 30);
    return o;
}

// A tap of a window: how far it is from the begin.
struct Tap {
    int far[3], shift;
    bool exists;
    GEMS_DI Tap(const Implicit &p, int z, int y, int x) {
        far[0] = kRank > 2 ? z * p.window[0].dilation : 0;
        far[1] = kRank > 1 ? y * p.window[1].dilation : 0;
        far[2] = x * p.window[2].dilation;
        if constexpr (kBack) { GEMS_UNROLL for (int d = 0; d < 3; d++) far[d] = -far[d]; }
        shift = (far[0] * p.in[1] + far[1]) * p.in[2] + far[2];
        exists = kRank > 2 ? z < p.window[0].size : kRank > 1 ? y < p.window[1].size : x < p.window[2].size;
    }
    // The pixel that is read; false: there is none.
    GEMS_DI bool find(const Implicit &p, const Origin &o, int &pixel) const {
        bool there = exists;
        if constexpr (kStrided) {
            pixel = o.base;
            GEMS_UNROLL for (int d = 3 - kRank; d < 3; d++) {
                int at = o.at[d] + far[d], q, r;
                divmod(at < 0 ? 0 : at, p.step[d], q, r);
                there = there && at >= 0 && r == 0 && q < p.in[d];
                pixel = d == 0 ? pixel + q : pixel * p.in[d] + q;
            }
        } else {
            pixel = o.base + shift;
            GEMS_UNROLL for (int d = 3 - kRank; d < 3; d++) there = there && (uint32_t)(o.at[d] + far[d]) < (uint32_t)p.in[d];
        }
        return there;
    }
};

template <class T, int LINES, int BK, int THREADS, int MODE> struct WindowFeed : Feed<T, LINES, BK, THREADS, MODE> {
    GEMS_DI explicit WindowFeed(const Source<T> &s) : Feed<T, LINES, BK, THREADS, MODE>(s) {}
};

// Lines are pixels; along k taps, and the channels of each.
template <class T, int LINES, int BK, int THREADS> struct WindowFeed<T, LINES, BK, THREADS, kPixels> {
    static constexpr bool kFollowsK = true;
    static constexpr int kVec = 16 / (int)sizeof(T), kChunks = BK / kVec, kTotal = kChunks * LINES;
    static constexpr int kEach = (kTotal + THREADS - 1) / THREADS, kPass = THREADS / kChunks;
    static_assert(THREADS % kChunks == 0 && (kTotal % THREADS == 0 || kTotal < THREADS), "chunks do not split evenly");

    const Implicit &p;
    const T *image;
    int64_t pitch;
    int row, chunk, channel, left, z, y, x;
    Origin origin[kEach];

    GEMS_DI explicit WindowFeed(const Part &s) : p(*s.p) {
        row = (int)threadIdx.x / kChunks;
        chunk = (int)threadIdx.x - row * kChunks;
        int tap;
        divmod(s.k0 + chunk * kVec, p.taps[0], tap, channel);
        x = tap, y = z = 0;
        if constexpr (kRank > 1) divmod(tap, p.taps[3], y, x);
        if constexpr (kRank > 2) divmod(y, p.taps[2], z, y);
        left = s.depth - chunk * kVec;
        pitch = (int64_t)p.groups * p.channels;
        image = static_cast<const T *>(p.image) + s.group * p.channels;
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int line = row + i * kPass;
            origin[i] = origin_of(p, s.first + line, line < LINES && s.first + line < p.rows);
        }
    }

    GEMS_DI void begin(T *tile) const {
        if (kTotal < THREADS && (int)threadIdx.x >= kTotal) return;
        const Tap tap(p, z, y, x);
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int pixel;
            bool there = tap.find(p, origin[i], pixel) && left > 0;
            cp_async16(tile + swizzle<kChunks>(row + i * kPass, chunk) * kVec, there ? image + pixel * pitch + channel : image,
                       there ? 16 : 0);
        }
    }
    GEMS_DI void end(T *) {}

    GEMS_DI void next() {
        left -= BK;
        channel += BK;
        while (channel >= p.channels) {
            channel -= p.channels;
            if (kRank == 1 || ++x < p.window[2].size) {
                if (kRank == 1) x++;
            } else {
                x = 0;
                if (kRank > 2 && y + 1 == p.window[1].size) y = 0, z++;
                else y++;
            }
        }
    }
};

// Along k pixels; lines are taps, and the channels of each.
template <class T, int LINES, int BK, int THREADS> struct WindowFeed<T, LINES, BK, THREADS, kTaps> {
    static constexpr bool kFollowsK = false;
    static constexpr int kVec = 16 / (int)sizeof(T), kChunks = LINES / kVec, kTotal = kChunks * BK;
    static constexpr int kEach = (kTotal + THREADS - 1) / THREADS, kPass = THREADS / kChunks;
    static_assert(THREADS % kChunks == 0 && (kTotal % THREADS == 0 || kTotal < THREADS), "chunks do not split evenly");

    const Implicit &p;
    const T *image;
    int64_t pitch;
    int row, chunk, pixel, end_pixel, z, y, x;
    bool line;

    GEMS_DI explicit WindowFeed(const Part &s) : p(*s.p) {
        row = (int)threadIdx.x / kChunks;
        chunk = (int)threadIdx.x - row * kChunks;
        int tap, channel, first = s.first + chunk * kVec;
        line = first < p.cols;
        divmod(line ? first : 0, p.taps[0], tap, channel);
        x = tap, y = z = 0;
        if constexpr (kRank > 1) divmod(tap, p.taps[3], y, x);
        if constexpr (kRank > 2) divmod(y, p.taps[2], z, y);
        pixel = s.k0 + row;
        end_pixel = s.k0 + s.depth;
        pitch = (int64_t)p.groups * p.channels;
        image = static_cast<const T *>(p.image) + s.group * p.channels + channel;
    }

    GEMS_DI void begin(T *tile) const {
        if (kTotal < THREADS && (int)threadIdx.x >= kTotal) return;
        const Tap tap(p, z, y, x);
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            int from;
            bool there = line && pixel + i * kPass < end_pixel;
            there = tap.find(p, origin_of(p, pixel + i * kPass, there), from) && there;
            cp_async16(tile + place_of<kChunks, BK>(row + i * kPass, chunk) * kVec,
                       there ? image + from * pitch : static_cast<const T *>(p.image), there ? 16 : 0);
        }
    }
    GEMS_DI void end(T *) {}
    GEMS_DI void next() { pixel += BK; }
};

// Along k pixels; lines are the channels of a group of the result's gradient.
template <class T, int LINES, int BK, int THREADS> struct WindowFeed<T, LINES, BK, THREADS, kGrad> {
    static constexpr bool kFollowsK = false;
    static constexpr int kVec = 16 / (int)sizeof(T), kChunks = LINES / kVec, kTotal = kChunks * BK;
    static constexpr int kEach = (kTotal + THREADS - 1) / THREADS, kPass = THREADS / kChunks;
    static_assert(THREADS % kChunks == 0 && (kTotal % THREADS == 0 || kTotal < THREADS), "chunks do not split evenly");

    const T *safe, *at;
    int64_t pitch;
    int row, chunk, left;
    bool line;

    GEMS_DI explicit WindowFeed(const Part &s) {
        const Implicit &p = *s.p;
        row = (int)threadIdx.x / kChunks;
        chunk = (int)threadIdx.x - row * kChunks;
        line = s.first + chunk * kVec < p.lines;
        left = s.depth - row;
        pitch = (int64_t)p.groups * p.lines;
        safe = static_cast<const T *>(p.other);
        at = safe + (s.k0 + row) * pitch + s.group * p.lines + s.first + chunk * kVec;
    }

    GEMS_DI void begin(T *tile) const {
        if (kTotal < THREADS && (int)threadIdx.x >= kTotal) return;
        GEMS_UNROLL for (int i = 0; i < kEach; i++) {
            bool there = line && i * kPass < left;
            cp_async16(tile + place_of<kChunks, BK>(row + i * kPass, chunk) * kVec, there ? at + i * kPass * pitch : safe,
                       there ? 16 : 0);
        }
    }
    GEMS_DI void end(T *) {}
    GEMS_DI void next() {
        at += BK * pitch;
        left -= BK;
    }
};

// scatter along a dim whose lines fit shared memory: a block has kSide lines side by side, each destination a cell. Places go
// in chunks, in their order (all lanes of a place, then the next). kOp 0: the last place of a cell claims it. Else each round
// adds the first pending place of every cell, so that a cell gets its places in their order, whatever the threads do; the
// rounds of a chunk end after kRounds, then the thread with the first pending place of a cell goes through the rest of the
// chunk for it. Beside scatter.cuh the head names kThreads, kSide, kRank. Twin of csrc/families/scatter_rows.c. Right on
// an H200 for float32; other dtypes have not been looked at there.
using namespace gems;
typedef scatter_acc<T> Acc;

constexpr int kOwn = 8, kChunk = kOwn * kThreads, kRounds = 16;
constexpr int32_t kNever = 0x7fffffff;

// Along the dim and from lane to lane, of out, self, index, src; destinations and places of a line; lines that are side by side.
struct Shape {
    int64_t step[4], lane[4];
    int32_t size, places, lanes;
};

// Operands of groups: out, self, index, src, the first lane. self NULL: out has its elements, and others are left alone.
extern "C" __global__ void __launch_bounds__(kThreads, (GEMS_ARCH >= 1000 ? 512 : 1024) / kThreads)
scatter_rows(T* out, const T* self, const Int* __restrict__ index, const T* __restrict__ src, Strided<5, Index> groups, Shape s,
             Bits value, Bits factor, int32_t* flag) {
    __shared__ int32_t cells[kOp ? kChunk : 1], left[3];
    GEMS_DYN_SMEM(Acc, sums);
    const int t = (int)threadIdx.x;
    const int32_t size = s.size * kSide, all = s.places * kSide;
    int32_t* first = reinterpret_cast<int32_t*>(sums + (kOp ? size : 0)); // of a cell: who has it
    int32_t* counts = first + size;                                       // kMean alone
    const T fill = value_of<T>(value);
    const Acc alpha = value_of<Acc>(factor);
    for (Index g = (Index)blockIdx.x; g < groups.n; g += (Index)gridDim.x) {
        Index off[5];
        strided_offsets<kRank>(groups, g, off);
        const int32_t lanes = s.lanes - (int32_t)off[4] < kSide ? s.lanes - (int32_t)off[4] : kSide;
        T* to = out + off[0];
        const T* was = self ? self + off[1] : to;
        const int64_t was_step = s.step[self ? 1 : 0], was_lane = s.lane[self ? 1 : 0];
        const Int* at = index + off[2];
        const T* from = src + off[3];
        auto source = [&](int32_t p) { return kFill ? fill : from[(p / kSide) * s.step[3] + (p % kSide) * s.lane[3]]; };
        GEMS_FOR_BLOCK(c, size) {
            first[c] = kOp ? kNever : -1;
            if constexpr (kMean) counts[c] = 0;
            if constexpr (kOp != 0) {
                sums[c] = scatter_identity<Acc>();
                if (kInclude && c % kSide < lanes) sums[c] = to_op(was[(c / kSide) * was_step + (c % kSide) * was_lane]);
            }
        }
        if (t < 3) left[t] = 0;
        __syncthreads();
        int32_t turn = kNever / kChunk; // goes down with each round: a later round's claim is lower than all before
        for (int32_t base = 0; base < all; base += kChunk) {
            int32_t cell[kOwn];
            uint32_t pending = 0;
            GEMS_UNROLL for (int k = 0; k < kOwn; k++) {
                int32_t p = base + k * kThreads + t, lane = p % kSide;
                cell[k] = -1;
                if (p >= all || lane >= lanes) continue;
                int64_t go = (int64_t)at[(p / kSide) * s.step[2] + lane * s.lane[2]];
                if (!in_range(go, s.size, flag)) continue;
                cell[k] = (int32_t)go * kSide + lane;
                pending |= 1u << k;
            }
            if constexpr (kOp == 0) {
                GEMS_UNROLL for (int k = 0; k < kOwn; k++)
                    if (cell[k] >= 0) atomicMax(&first[cell[k]], base + k * kThreads + t);
            } else {
                T own[kOwn];
                GEMS_UNROLL for (int k = 0; k < kOwn; k++) own[k] = cell[k] >= 0 ? source(base + k * kThreads + t) : T{};
                auto add = [&](int32_t c, Acc& sum, T v) {
                    sum = scatter_merge<Acc, T>(sum, v, alpha);
                    if constexpr (kMean) counts[c]++;
                };
                for (int round = 0;; round++) {
                    turn--;
                    const bool last = round == kRounds;
                    GEMS_UNROLL for (int k = 0; k < kOwn; k++)
                        if (pending >> k & 1) atomicMin(&first[cell[k]], turn * kChunk + k * kThreads + t);
                    if (last)
                        GEMS_UNROLL for (int k = 0; k < kOwn; k++) cells[k * kThreads + t] = pending >> k & 1 ? cell[k] : -1;
                    if (t == 0) left[(round + 1) % 3] = 0;
                    __syncthreads();
                    GEMS_UNROLL for (int k = 0; k < kOwn; k++) {
                        if (!(pending >> k & 1) || first[cell[k]] != turn * kChunk + k * kThreads + t) continue;
                        Acc sum = sums[cell[k]];
                        add(cell[k], sum, own[k]);
                        pending &= ~(1u << k);
                        if (last)
                            for (int32_t j = k * kThreads + t + 1; j < kChunk; j++)
                                if (cells[j] == cell[k]) add(cell[k], sum, source(base + j));
                        sums[cell[k]] = sum;
                    }
                    uint32_t more = __ballot_sync(0xffffffffu, pending != 0);
                    if (more && t % kWarp == 0) atomicAdd(&left[round % 3], 1);
                    __syncthreads();
                    if (last || !left[round % 3]) break;
                }
            }
            __syncthreads();
            if (t == 0) left[0] = left[1] = left[2] = 0;
        }
        GEMS_FOR_BLOCK(c, size) {
            const int32_t j = c / kSide, lane = c % kSide, who = first[c];
            if (lane >= lanes) continue;
            const bool mine = kOp ? who != kNever : who >= 0;
            if (!mine && !self) continue;
            T v;
            if (!mine) v = was[j * was_step + lane * was_lane];
            else if constexpr (kOp == 0) v = source(who);
            else if constexpr (kMean) v = from_op<T>(scatter_mean(sums[c], counts[c] + (kInclude ? 1 : 0)));
            else v = from_op<T>(sums[c]);
            to[j * s.step[0] + lane * s.lane[0]] = v;
        }
        __syncthreads();
    }
}

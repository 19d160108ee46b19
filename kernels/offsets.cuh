// Where the results of each tile begin, from how many it has. The head names Count, the type of those numbers.
// starts[tile] = the sum over the tiles before it; starts[tiles]: over all. One block, a thread has kRun tiles of a stretch.
extern "C" __global__ void __launch_bounds__(1024, 1) offsets(const Count* __restrict__ counts, int64_t* starts, int64_t tiles) {
    constexpr int kRun = 16;
    __shared__ int64_t buf[33];
    int64_t before = 0;
    for (int64_t first = 0; first < tiles; first += kRun * (int64_t)blockDim.x) {
        int64_t tile = first + kRun * (int64_t)threadIdx.x, all, sum = 0;
        Count c[kRun];
        GEMS_UNROLL for (int k = 0; k < kRun; k++) {
            c[k] = tile + k < tiles ? counts[tile + k] : Count(0);
            sum += c[k];
        }
        int64_t mine = before + gems::block_exclusive_sum(sum, all, buf);
        GEMS_UNROLL for (int k = 0; k < kRun; k++) {
            if (tile + k < tiles) starts[tile + k] = mine;
            mine += c[k];
        }
        before += all;
    }
    if (threadIdx.x == 0) starts[tiles] = before;
}

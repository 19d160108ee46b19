// Where the results of each tile begin, from how many it has. The head names Count, the type of those numbers.
// starts[tile] = the sum over the tiles before it; starts[tiles]: over all. One block.
extern "C" __global__ void __launch_bounds__(1024, 1) offsets(const Count* __restrict__ counts, int64_t* starts, int64_t tiles) {
    __shared__ int64_t buf[33];
    int64_t before = 0;
    for (int64_t first = 0; first < tiles; first += blockDim.x) {
        int64_t tile = first + threadIdx.x, all, c = tile < tiles ? counts[tile] : 0;
        int64_t mine = before + gems::block_exclusive_sum(c, all, buf);
        if (tile < tiles) starts[tile] = mine;
        before += all;
    }
    if (threadIdx.x == 0) starts[tiles] = before;
}

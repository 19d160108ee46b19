/* Few long lines in one reading: a block a tile, which waits for what the tiles before it have (lookback.cuh). */

/* words: the counter, then those of each line; all 0. tiles: of a line. */
extern "C" __global__ void __launch_bounds__(256, sizeof(Carry) > 8 ? 3 : 4)
chain(const In* x, Out* y, int64_t* where, uint64_t* words, Lines s, int32_t tiles) {
    __shared__ Carry buf[33];
    __shared__ uint32_t ticket;
    if (threadIdx.x == 0) ticket = atomicAdd((uint32_t*)words, 1u);
    __syncthreads();
    const uint32_t line = ticket / (uint32_t)tiles;
    const int32_t tile = (int32_t)(ticket - line * (uint32_t)tiles);
    const Start at = start_of(s, (Index)line);
    const Index first = (Index)tile * (kSpan * ((int)blockDim.x / kTeam)) +
                        (Index)((int)threadIdx.x / kTeam * kSpan + team_lane() * kVec) - before_line(at.at[0]);
    Part part;
    part.take(x + at.at[0], first, step_of(s, 0), (Index)s.n);
    Acc run = part.share(buf);
    if (threadIdx.x < kFan) {
        Carry before = before_tile(words + 1 + line * line_words<Carry>(tiles), tiles, tile, part.total, no_carry<Carry>(), Join{});
        if (threadIdx.x == 0) buf[32] = before;
    }
    __syncthreads();
    part.write(y, where, s, at, first, (Index)s.n, buf[32], run, true);
}

extern "C" __global__ void clear(uint64_t* words, int64_t n) {
    GEMS_FOR_GRID(i, n) words[i] = 0;
}

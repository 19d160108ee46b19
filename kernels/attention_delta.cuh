// What the gradients of attention need first. delta: the sum of a row of dO times O, by a warp.
extern "C" __global__ void __launch_bounds__(256) attention_delta(const __grid_constant__ AttentionParams p) {
    const int64_t rows = (int64_t)p.batch * p.heads * p.queries;
    const int warps = (int)blockDim.x / kWarp, lane = (int)threadIdx.x % kWarp;
    for (int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / kWarp; row < rows; row += (int64_t)gridDim.x * warps) {
        int position = (int)(row % p.queries), line = (int)(row / p.queries), head = line % p.heads, batch = line / p.heads;
        const Scalar *g = static_cast<const Scalar *>(p.grad) + batch * p.gs.batch + head * p.gs.head + position * p.gs.row;
        const Scalar *o = static_cast<const Scalar *>(p.o) + batch * p.os.batch + head * p.os.head + position * p.os.row;
        Op sum = 0;
        for (int c = lane; c < p.dim_v; c += kWarp) sum += to_op(g[c]) * to_op(o[c]);
        sum = warp_reduce(sum, Sum{});
        if (lane == 0) static_cast<Op *>(const_cast<void *>(p.delta))[row] = sum;
    }
}

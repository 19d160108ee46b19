// nll_loss: one entry of each row, picked by the target. The head names T, LOSS_BACKWARD, kNone and kMean (the reduction),
// kWeight. Operands of m: the loss of each row (or its gradient), the target, the row of self (or of its gradient).
// Twin of csrc/families/gather_nll.c.
using namespace gems;

typedef opmath_t<T> Acc;
typedef Strided<3, int64_t> Rows;

struct Sums { Acc loss, weight; };
struct AddSums {
    GEMS_DI Sums operator()(Sums a, Sums b) const { return {a.loss + b.loss, a.weight + b.weight}; }
};

GEMS_DI Acc weight_of(const T* weight, int64_t target) {
    if constexpr (kWeight) return to_op(weight[target]);
    else return Acc(1);
}

#if !LOSS_BACKWARD
GEMS_DI void finish(T* out, T* total, Sums s) {
    if (threadIdx.x == 0) {
        out[0] = from_op<T>(kMean ? s.loss / s.weight : s.loss);
        total[0] = from_op<T>(s.weight);
    }
}

extern "C" __global__ void nll_forward(T* __restrict__ out, T* __restrict__ total, Sums* __restrict__ partial,
                                       const T* __restrict__ self, const int64_t* __restrict__ target,
                                       const T* __restrict__ weight, Rows m, int64_t class_stride, int64_t classes,
                                       int64_t ignored, int32_t* flag) {
    if constexpr (kNone) {
        if (blockIdx.x == 0 && threadIdx.x == 0) total[0] = from_op<T>(Acc(0));
        for_each_strided<4>(m, [&](const int64_t (&off)[3]) {
            int64_t at = target[off[1]];
            Acc loss = 0;
            if (at != ignored && in_range(at, classes, flag))
                loss = -to_op(self[off[2] + at * class_stride]) * weight_of(weight, at);
            out[off[0]] = from_op<T>(loss);
        });
    } else {
        __shared__ Sums buf[33];
        Sums s = {0, 0};
        GEMS_FOR_GRID(i, m.n) {
            int64_t off[3];
            strided_offsets<4>(m, i, off);
            int64_t at = target[off[1]];
            if (at != ignored && in_range(at, classes, flag)) {
                Acc w = weight_of(weight, at);
                s.loss -= to_op(self[off[2] + at * class_stride]) * w;
                s.weight += w;
            }
        }
        s = block_reduce(s, AddSums(), buf);
        if (gridDim.x == 1) finish(out, total, s);
        else if (threadIdx.x == 0) partial[blockIdx.x] = s;
    }
}

// Adds what the blocks left, in order; one block.
extern "C" __global__ void nll_finish(T* __restrict__ out, T* __restrict__ total, const Sums* __restrict__ partial,
                                      int32_t parts) {
    __shared__ Sums buf[33];
    Sums s = {0, 0};
    GEMS_FOR_BLOCK(i, parts) s = AddSums()(s, partial[i]);
    finish(out, total, block_reduce(s, AddSums(), buf));
}
#else
// out is zero but for the entries that are written here.
extern "C" __global__ void nll_backward(T* __restrict__ out, const T* __restrict__ grad, const int64_t* __restrict__ target,
                                        const T* __restrict__ weight, const T* __restrict__ total, Rows m,
                                        int64_t class_stride, int64_t classes, int64_t ignored, int32_t* flag) {
    Acc divisor = kMean ? to_op(total[0]) : Acc(1);
    for_each_strided<4>(m, [&](const int64_t (&off)[3]) {
        int64_t at = target[off[1]];
        if (at != ignored && in_range(at, classes, flag))
            out[off[2] + at * class_stride] = from_op<T>(-(to_op(grad[off[0]]) / divisor) * weight_of(weight, at));
    });
}
#endif

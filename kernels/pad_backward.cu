// Gradients of reflection and replication pads: each element of the input sums the elements of the gradient that came
// from it, in a fixed order. The head names T, Index, kReflect. Twin of csrc/families/pad_backward.c.
using namespace gems;

// Dims 0 to 2 are padded (a dim that is not there has size 1), innermost first; the others are batches.
struct Pads {
    Index n;
    FastDiv div[5];
    Index size[5], grad_size[3], lo[3];  // of the input, of the gradient, pads before
    Index stride[5][2];                  // of the result, of the gradient
};

typedef opmath_t<T> Op;

// Calls f with each index of the gradient in dim d that comes from index j.
template <class F> GEMS_DI void for_each_source(const Pads& p, int d, Index j, F f) {
    Index lo = p.lo[d], size = p.size[d], most = p.grad_size[d];
    if constexpr (kReflect) {
        Index places[3] = {lo - j, lo + j, lo + 2 * (size - 1) - j};
        GEMS_UNROLL for (int k = 0; k < 3; k++) {
            bool exists = k == 0 ? j > 0 : k == 2 ? j < size - 1 : true;
            if (exists && places[k] >= 0 && places[k] < most) f(places[k]);
        }
    } else {
        Index first = j == 0 ? 0 : lo + j, last = j == size - 1 ? most - 1 : lo + j;
        for (Index i = first < 0 ? 0 : first; i <= last && i < most; i++) f(i);
    }
}

// Part of a row, [begin, end): adds what one row of the gradient gives.
GEMS_DI void add_row(const Pads& p, const T* row, Index begin, Index end, Op* sum) {
    Index lo = p.lo[0], size = p.size[0], most = p.grad_size[0], step = p.stride[0][1];
    Index first = begin < -lo ? -lo : begin, last = end > most - lo ? most - lo : end;
    const T* from = row + lo * step;
    if (step == 1) GEMS_IVDEP for (Index j = first; j < last; j++) sum[j - begin] += to_op(from[j]);
    else GEMS_IVDEP for (Index j = first; j < last; j++) sum[j - begin] += to_op(from[j * step]);
    if constexpr (kReflect) {
        Index mirror = lo + 2 * (size - 1);
        for (Index j = begin < 1 ? 1 : begin; j <= lo && j < end; j++)
            if (lo - j < most) sum[j - begin] += to_op(row[(lo - j) * step]);
        for (Index j = begin < mirror - most + 1 ? mirror - most + 1 : begin; j < end && j < size - 1; j++)
            if (mirror - j >= 0) sum[j - begin] += to_op(row[(mirror - j) * step]);
    } else {
        if (begin == 0)
            for (Index i = 0; i < lo && i < most; i++) sum[0] += to_op(row[i * step]);
        if (end == size)
            for (Index i = lo + size < 0 ? 0 : lo + size; i < most; i++) sum[size - 1 - begin] += to_op(row[i * step]);
    }
}

extern "C" __global__ void pad_backward(T* __restrict__ out, const T* __restrict__ grad, const __grid_constant__ Pads p) {
    constexpr int kFirst = kFast ? 1 : 0, kPart = 256;  // the first dim that an item of the grid has one index of
    Index items = kFast ? p.n / p.size[0] : p.n;
    GEMS_FOR_GRID(f, items) {
        Index at[5] = {}, rest = f, to = 0, from = 0;
        GEMS_UNROLL for (int d = kFirst; d < 5; d++) {
            Index q = 0, i = rest;
            if (d < 4) divmod(rest, p.div[d], q, i);
            at[d] = i;
            rest = q;
            to += i * p.stride[d][0];
            if (d > 2) from += i * p.stride[d][1];
        }
        auto for_each_row = [&](auto f_row) {
            for_each_source(p, 2, at[2], [&](Index z) {
                for_each_source(p, 1, at[1], [&](Index y) {
                    f_row(grad + (from + z * p.stride[2][1] + y * p.stride[1][1]));
                });
            });
        };
        if constexpr (kFast) {
            Index size = p.size[0], step = p.stride[0][0];
            for (Index begin = 0; begin < size; begin += kPart) {
                Index end = begin + kPart < size ? begin + kPart : size;
                Op sum[kPart];
                for (int i = 0; i < kPart; i++) sum[i] = 0;
                for_each_row([&](const T* row) { add_row(p, row, begin, end, sum); });
                T* part = out + to + begin * step;
                if (step == 1) GEMS_IVDEP for (Index i = 0; i < end - begin; i++) part[i] = from_op<T>(sum[i]);
                else GEMS_IVDEP for (Index i = 0; i < end - begin; i++) part[i * step] = from_op<T>(sum[i]);
            }
        } else {
            Op sum = 0;
            for_each_row([&](const T* row) {
                for_each_source(p, 0, at[0], [&](Index x) { sum += to_op(row[x * p.stride[0][1]]); });
            });
            out[to] = from_op<T>(sum);
        }
    }
}

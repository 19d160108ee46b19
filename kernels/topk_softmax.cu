// The experts of each token: the largest of the softmax of a row of logits, with their probabilities. Twin of
// csrc/families/experts.c. A group of kGroup threads has a token, each of them kPer of its logits in registers, kVector of
// them one behind the other. Computed in float; of equal probabilities the first wins, NaN loses. In the fast mode a thread
// has all of them.
// The head names T (logits), W (weights), I (experts), J (places), kPer, kVector, kGroup.
using namespace gems;

#if GEMS_CPU && GEMS_FAST
extern "C" __global__ void topk_softmax(const T* __restrict__ logits, W* __restrict__ weights, I* __restrict__ experts,
                                        J* __restrict__ places, int64_t tokens, int32_t width, int32_t k) {
    constexpr int kSide = 16; // experts side by side; those behind the last one are never the largest
    int64_t part = (tokens + gridDim.x - 1) / gridDim.x, token = part * blockIdx.x;
    int64_t last = token + part < tokens ? token + part : tokens;
    int32_t padded = (width + kSide - 1) / kSide * kSide;
    for (; token < last; token++) {
        const T* row = logits + token * width;
        float p[kPer < kSide ? kSide : kPer], side[kSide];
        for (int32_t j = 0; j < width; j++) p[j] = to_op(row[j]);
        for (int32_t j = width; j < padded; j++) p[j] = -Limits<float>::inf();
        auto most_of = [&] {
            for (int q = 0; q < kSide; q++) side[q] = p[q];
            for (int32_t j = kSide; j < padded; j += kSide)
                for (int q = 0; q < kSide; q++) side[q] = p[j + q] > side[q] ? p[j + q] : side[q];
            return lane_reduce(side, [](float a, float b) { return a > b ? a : b; });
        };
        float most = most_of(), sum = 0;
        for (int q = 0; q < kSide; q++) side[q] = 0;
        for (int32_t j = 0; j < padded; j += kSide)
            for (int q = 0; q < kSide; q++) {
                p[j + q] = exp(p[j + q] - most);
                side[q] += p[j + q];
            }
        sum = lane_reduce(side, Sum{});
        bool broken = sum != sum; // a NaN or an infinity among the logits: all probabilities are NaN
        float scale = 1.0f / sum;
        for (int32_t j = 0; j < padded; j++) p[j] = j >= width ? -1.0f : broken ? 0.0f : p[j] * scale;
        for (int32_t i = 0; i < k; i++) {
            float best = most_of();
            int32_t at = 0;
            while (p[at] != best) at++;
            p[at] = -1.0f;
            weights[token * k + i] = convert<W>(broken ? Limits<float>::nan() : best);
            experts[token * k + i] = (I)at;
            places[token * k + i] = (J)(i * tokens + token);
        }
    }
}
#else
struct Best { float value; int32_t at; };
struct First {
    GEMS_DI Best operator()(Best a, Best b) const {
        return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
    }
};

template <class V, class F> GEMS_DI V group_reduce(V v, F f, V* buf) {
    if constexpr (kGroup == kWarp) return warp_reduce(v, f);
    else return block_reduce(v, f, buf);
}

extern "C" __global__ void __launch_bounds__(256)
    topk_softmax(const T* __restrict__ logits, W* __restrict__ weights, I* __restrict__ experts, J* __restrict__ places,
                 int64_t tokens, int32_t width, int32_t k) {
    constexpr int kThreads = kGroup;
    __shared__ float numbers[33];
    __shared__ Best bests[33];
    int groups = (int)blockDim.x / kThreads, lane = (int)threadIdx.x % kThreads;
    for (int64_t first = (int64_t)blockIdx.x * groups; first < tokens; first += (int64_t)gridDim.x * groups) {
        int64_t token = first + (int)threadIdx.x / kThreads;
        bool mine = token < tokens;
        const T* row = logits + (mine ? token : 0) * width;
        float p[kPer];
        auto expert = [&](int j) { return (j / kVector * kThreads + lane) * kVector + j % kVector; };
        GEMS_UNROLL for (int j = 0; j < kPer; j += kVector) {
            if constexpr (kVector > 1) {
                Vec<T, kVector> v{};
                bool there = expert(j) < width;
                if (there) v = load<kVector>(row + expert(j));
                GEMS_UNROLL for (int q = 0; q < kVector; q++) p[j + q] = there ? to_op(v.v[q]) : -Limits<float>::inf();
            } else {
                p[j] = expert(j) < width ? to_op(row[expert(j)]) : -Limits<float>::inf();
            }
        }
        float most = -Limits<float>::inf(), sum = 0;
        GEMS_UNROLL for (int j = 0; j < kPer; j++) most = max_nan(most, p[j]);
        most = group_reduce(most, Max{}, numbers);
        GEMS_UNROLL for (int j = 0; j < kPer; j++) {
            p[j] = exp(p[j] - most);
            sum += expert(j) < width ? p[j] : 0.0f;
        }
        sum = group_reduce(sum, Sum{}, numbers);
        bool broken = sum != sum; // a NaN or an infinity among the logits: all probabilities are NaN
        float scale = 1.0f / sum;
        GEMS_UNROLL for (int j = 0; j < kPer; j++) p[j] = expert(j) >= width ? -1.0f : broken ? 0.0f : p[j] * scale;
        Best held{0, 0};
        for (int32_t i = 0; i < k; i++) {
            Best best{-1.0f, 0x7fffffff};
            GEMS_UNROLL for (int j = 0; j < kPer; j++) best = p[j] > best.value ? Best{p[j], expert(j)} : best;
            best = group_reduce(best, First{}, bests);
            GEMS_UNROLL for (int j = 0; j < kPer; j++) p[j] = expert(j) == best.at ? -1.0f : p[j];
            int turn = i % kThreads;
            held = lane == turn ? best : held;
            if (mine && (turn == kThreads - 1 || i + 1 == k) && lane <= turn) { // those of the lanes are written together
                int64_t slot = i - turn + lane, at = token * k + slot;
                weights[at] = convert<W>(broken ? Limits<float>::nan() : held.value);
                experts[at] = (I)held.at;
                places[at] = (J)(slot * tokens + token);
            }
        }
    }
}
#endif

// Selecting by digits: of the key of a rank kStep bits at a time, from the highest, by counting the digits of those that agree
// with it so far. Counts are sums of integers, so that no order of threads and blocks changes them.
constexpr int kStep = kKeyBits < 11 ? kKeyBits : 11, kDigits = 1 << kStep;
constexpr int kSteps = (kKeyBits + kStep - 1) / kStep;

// The lowest bit of the digit of a step, and its size in bits.
GEMS_DI int step_shift(int step) { return (step + 1) * kStep < kKeyBits ? kKeyBits - (step + 1) * kStep : 0; }
GEMS_DI int step_bits(int step) { return kKeyBits - step * kStep < kStep ? kKeyBits - step * kStep : kStep; }

// What is known of a row after some steps: the key's bits from `shift` on, the rank among the `equal` ones that agree.
struct Known {
    uint64_t prefix;
    int32_t wanted, equal, shift, nans;
    GEMS_DI int side(Key key) const { // -1: before, 0: agrees, 1: after
        Key top = shift < kKeyBits ? (Key)(key >> shift) : (Key)0, p = (Key)prefix;
        return top < p ? -1 : top > p;
    }
    // Nothing more need be known: all that agree are wanted, or the one that does.
    GEMS_DI bool done() const { return shift == 0 || (kWhat == kWrite ? equal == wanted + 1 : equal == 1); }
};
struct Choice { int32_t digit, rank, equal; };

// The digit of a rank, by all Threads threads of a block. count: kDigits counts.
template <int Threads> GEMS_DI void choose_digit(Known& known, int step, const int32_t* count, int32_t* buf, Choice* chosen) {
    constexpr int kBins = kDigits > Threads ? kDigits / Threads : 1;
    int first = (int)threadIdx.x * kBins;
    int32_t own[kBins], sum = 0, total;
    GEMS_UNROLL for (int j = 0; j < kBins; j++) {
        own[j] = first + j < kDigits ? count[first + j] : 0;
        sum += own[j];
    }
    int32_t before = block_exclusive_sum(sum, total, buf);
    GEMS_UNROLL for (int j = 0; j < kBins; j++) {
        if (known.wanted >= before && known.wanted < before + own[j]) *chosen = Choice{first + j, known.wanted - before, own[j]};
        before += own[j];
    }
    __syncthreads();
    Choice c = *chosen;
    known.prefix = known.prefix << step_bits(step) | (uint64_t)c.digit;
    known.wanted = c.rank;
    known.equal = c.equal;
    known.shift = step_shift(step);
}

// Whether a key agrees with what is known, and then its digit of a step.
GEMS_DI bool digit_of(const Known& known, int step, Key key, int& digit) {
    digit = (int)(key >> step_shift(step)) & ((1 << step_bits(step)) - 1);
    return step == 0 || known.side(key) == 0;
}

// How many of a warp's lanes before this one say yes; *counter, of the block's or of the grid's, goes up by all that do.
GEMS_DI int32_t take_places(bool yes, int32_t* counter) {
    uint32_t votes = __ballot_sync(0xffffffffu, yes);
    int lane = (int)threadIdx.x % kWarp;
    int32_t first = 0;
    if (lane == 0 && votes) first = atomicAdd(counter, __popc(votes));
    return __shfl_sync(0xffffffffu, first, 0) + __popc(votes & ((1u << lane) - 1u));
}

// Rows of tokens written to the slots of a cache, both tensors in one launch; a slot below 0 is none. The head names From,
// To, Int (of slots), Index (of items), kV (elements of an item), kScaled (divided by a scale, and fp8 without infinities).
// A thread writes an item: where whole vectors lie in the cache, the items of a token are neighbours, else the tokens of an
// item are, so that threads write neighbouring slots. Twin of csrc/families/kv_cache.c.
using namespace gems;

struct Part {
    int64_t from_token, from_head, from_step;
    int64_t block, slot, head, group;
    int32_t heads, size, run, units;
    FastDiv in_units, in_head, in_run;
    float scale_value;
    int32_t whole;
};

struct Cache {
    Part part[2];
    int64_t first, items, tokens, slot_step, slots;
    FastDiv in_tokens, in_block;
};

// Where a token's rows begin in a part's cache; null: nowhere.
GEMS_DI To* place_of(const Cache& c, const Part& p, To* to, const Int* slots, int64_t token) {
    int64_t slot = slots[token * c.slot_step];
    if (slot < 0) return nullptr;
    if (slot >= c.slots) {
#if !GEMS_CPU
        __assertfail("slot is out of range of the cache", "kv_cache.cu", 1, "kv_cache", 1);
#endif
        return nullptr;
    }
    if (c.slots <= 0x7fffffff) {
        int32_t block, at;
        divmod((int32_t)slot, c.in_block, block, at);
        return to + block * p.block + at * p.slot;
    }
    int64_t block = slot / c.in_block.d;
    return to + block * p.block + (slot - block * c.in_block.d) * p.slot;
}

GEMS_DI To stored(From v, float scale) {
    if constexpr (kScaled) {
        return saturated<To>((float)to_op(v) / scale);
    } else {
        return convert<To>(v);
    }
}

// ---- fast mode: a token at a time
GEMS_DI void store_token(const Cache& c, const Part& p, const From* source, To* to, const float* scales, const Int* slots,
                         int64_t token) {
    To* place = place_of(c, p, to, slots, token);
    if (!place) return;
    const From* rows = source + token * p.from_token;
    float scale = kScaled && scales ? *scales : p.scale_value;
    for (int32_t h = 0; h < p.heads; h++) {
        const From* from = rows + h * p.from_head;
        To* head = place + h * p.head;
        int32_t run = p.run;
        int64_t step = p.from_step, group = p.group;
        if (run == 1) {
            GEMS_IVDEP for (int32_t d = 0; d < p.size; d++) head[d * group] = stored(from[d * step], scale);
            continue;
        }
        for (int32_t first = 0; first < p.size; first += run, head += group, from += run * step) {
            if constexpr (is_same<From, To>) {
                if (step == 1) {
                    memcpy(head, from, (size_t)run * sizeof(To));
                    continue;
                }
            }
            if (step == 1) GEMS_IVDEP for (int32_t d = 0; d < run; d++) head[d] = stored(from[d], scale);
            else for (int32_t d = 0; d < run; d++) head[d] = stored(from[d * step], scale);
        }
    }
}

// ---- GPU
constexpr int kRead = kV * (int)sizeof(From) > 16 ? 16 / (int)sizeof(From) : kV;
constexpr int kWritten = kV * (int)sizeof(To) > 16 ? 16 / (int)sizeof(To) : kV;

template <class A, class B, int N>
GEMS_DI void convert_into(Vec<B, N>& made, const A* from, float scale) {
    if constexpr (is_same<A, B>) {
        made = load<N>(from);
    } else {
        GEMS_UNROLL for (int i = 0; i < N; i += kRead) {
            Vec<A, (N < kRead ? N : kRead)> v = load<(N < kRead ? N : kRead)>(from + i);
            GEMS_UNROLL for (int j = 0; j < (N < kRead ? N : kRead); j++) made.v[i + j] = stored(v.v[j], scale);
        }
    }
}

GEMS_DI void store_item(const Cache& c, const Part& p, const From* source, To* to, const float* scales, const Int* slots,
                        Index item) {
    Index token, unit, head, within;
    if (p.whole) divmod(item, p.in_units, token, unit);
    else divmod(item, c.in_tokens, unit, token);
    To* place = place_of(c, p, to, slots, token);
    if (!place) return;
    divmod(unit, p.in_head, head, within);
    const From* from = source + token * p.from_token + head * p.from_head + within * kV * p.from_step;
    float scale = kScaled && scales ? *scales : p.scale_value;
    int32_t d = (int32_t)within * kV, group, at;
    place += head * p.head;
    if (p.whole) {
        divmod(d, p.in_run, group, at);
        place += group * (p.group - p.run) + d;  // with `at` NVRTC takes the vector's store apart
        GEMS_UNROLL for (int i = 0; i < kV; i += kWritten) {
            Vec<To, kWritten> made;
            convert_into(made, from + i, scale);
            store<kWritten>(place + i, made);
        }
    } else {
        GEMS_UNROLL for (int i = 0; i < kV; i += kRead) {
            Vec<From, kRead> v = load<kRead>(from + i);
            GEMS_UNROLL for (int j = 0; j < kRead; j++) {
                divmod(d + i + j, p.in_run, group, at);
                place[group * p.group + at] = stored(v.v[j], scale);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(kThreads)
kv_cache(const From* __restrict__ from0, const From* __restrict__ from1, const float* __restrict__ scale0,
         const float* __restrict__ scale1, const Int* __restrict__ slots, To* to0, To* to1, const __grid_constant__ Cache c) {
    if constexpr (kFast) {
        GEMS_FOR_GRID(token, c.tokens) {
            store_token(c, c.part[0], from0, to0, scale0, slots, token);
            store_token(c, c.part[1], from1, to1, scale1, slots, token);
        }
    } else {
        Index items = (Index)c.items, first = (Index)c.first;
        GEMS_FOR_GRID(item, items) {
            bool second = item >= first;
            store_item(c, c.part[second], second ? from1 : from0, second ? to1 : to0, second ? scale1 : scale0, slots,
                       second ? item - first : item);
        }
    }
}

// What the kernels of attention share: the problem, the part of it that a block does, and what happens to a score between
// the two products.
//
// The head gives: Scalar (q, k, v, o), Mask (elements of the mask), and the constants kMask (0: none, 1: bool, 2: added),
// kPaged (keys lie in pages), kCapped, kAlibi, kDropout.
//
// Queries are rows. Where several heads of queries share one of keys, `pack` of them can be rows of one tile: row r is
// position r / pack of head first + r % pack.
using namespace gems;

struct Strides {
    int64_t batch, head, row;
};

// The twin of gems_attention_params in csrc/families/attention.h.
struct AttentionParams {
    const void *q, *k, *v, *mask, *grad, *delta;
    void *o, *lse, *partial, *dq, *dk, *dv;
    const int32_t *cu_q, *cu_k, *used_k, *table;
    const float *alibi;
    uint32_t *counter; // of tiles that blocks draw; null: they are divided beforehand
    Strides qs, ks, vs, os, gs, dqs, dks, dvs;
    int64_t mask_batch, mask_head, mask_row, mask_col;
    int64_t lse_batch, lse_head, lse_row;
    int64_t table_row, alibi_batch, rows_q, rows_k;
    uint64_t seed, offset;
    double scale, cap, keep, empty_lse;
    int32_t batch, heads, group, queries, keys, dim, dim_v;
    int32_t left, right, from_end; // a query sees the keys from left before to right after its own place
    int32_t splits, split_keys, tiles, section, wide, wide_o;
    FastDiv pack, page;
};

namespace {

typedef opmath_t<Scalar> Op;

constexpr Op kLog2E = (Op)1.44269504088896340736, kLn2 = (Op)0.69314718055994530942;
constexpr bool kPlain = kMask != 2 && !kCapped && !kAlibi; // a score is only scaled

GEMS_DI int lesser(int a, int b) { return a < b ? a : b; }
GEMS_DI int greater(int a, int b) { return a > b ? a : b; }

// A sequence: its queries of one head (or of `pack` heads), and its keys.
struct Sequence {
    int batch, head, kv, queries, keys, shift;
    int64_t first_q, first_k; // rows before it in packed tensors

    GEMS_DI Sequence(const AttentionParams &p, int b, int h) {
        batch = b;
        head = h;
        kv = h / p.group;
        first_q = first_k = 0;
        queries = p.queries;
        keys = p.keys;
        if (p.cu_q) {
            first_q = p.cu_q[b];
            queries = p.cu_q[b + 1] - (int)first_q;
        }
        if (p.cu_k) {
            first_k = p.cu_k[b];
            keys = p.cu_k[b + 1] - (int)first_k;
        }
        if (p.used_k) keys = p.used_k[b];
        shift = p.from_end ? keys - queries : 0;
    }
    // The rows of a tensor that has this sequence.
    template <class T> GEMS_DI T *rows(T *t, const Strides &s, int h, int64_t first) const {
        return t + batch * s.batch + h * s.head + first * s.row;
    }
    GEMS_DI int64_t lse_place(const AttentionParams &p, int h, int position) const {
        return batch * p.lse_batch + h * p.lse_head + (first_q + position) * p.lse_row;
    }
    // Keys that some position from `low` to `high` sees.
    GEMS_DI int first_key(const AttentionParams &p, int low) const { return greater(low + shift - p.left, 0); }
    GEMS_DI int last_key(const AttentionParams &p, int high) const { return lesser(keys, high + shift + p.right + 1); }
    GEMS_DI bool sees(const AttentionParams &p, int position, int key) const {
        int away = key - position - shift;
        return (away <= p.right) & (away >= -p.left) & (key < keys);
    }
};

// Where the keys of a sequence lie.
struct Keys {
    const Scalar *base;
    int64_t row, page;
    const int32_t *table;
    FastDiv size;

    GEMS_DI Keys(const AttentionParams &p, const Sequence &s, const void *data, const Strides &strides)
        : row(strides.row), page(strides.batch), table(nullptr), size(p.page) {
        base = static_cast<const Scalar *>(data) + s.kv * strides.head;
        if constexpr (kPaged) table = p.table + s.batch * p.table_row;
        else base += s.batch * strides.batch + s.first_k * strides.row;
    }
    // Any rows, not in pages.
    GEMS_DI Keys(const Scalar *data, int64_t step) : base(data), row(step), page(0), table(nullptr), size{1, 0, 0} {}
    GEMS_DI const Scalar *at(int key) const {
        if constexpr (kPaged) {
            int q, r;
            divmod(key, size, q, r);
            return base + table[q] * page + r * row;
        } else return base + key * row;
    }
};

// A row of the mask.
GEMS_DI const Mask *mask_row(const AttentionParams &p, int batch, int head, int position) {
    if constexpr (kMask == 0) return nullptr;
    return static_cast<const Mask *>(p.mask) + batch * p.mask_batch + head * p.mask_head + position * p.mask_row;
}

// What is added for how far a key is away.
struct Slope {
    Op value;
    GEMS_DI Slope(const AttentionParams &p, int batch, int head) : value(0) {
        if constexpr (kAlibi) value = (Op)p.alibi[batch * p.alibi_batch + head] * kLog2E;
    }
};

GEMS_DI Mask mask_at(const AttentionParams &p, const Mask *row, int key) {
    if constexpr (kMask == 0) return Mask{};
    return row[key * p.mask_col];
}

// A product of query and key as an exponent of 2. away: places from the query to the key.
GEMS_DI Op exponent(const AttentionParams &p, Op s, Op slope, Mask mask, int away) {
    if constexpr (kCapped) s = (Op)p.cap * tanh(s * (Op)(p.scale / p.cap)) * kLog2E;
    else s *= (Op)p.scale * kLog2E;
    if constexpr (kAlibi) s -= slope * (Op)(away < 0 ? -away : away);
    if constexpr (kMask == 1) s = convert<bool>(mask) ? s : -Limits<Op>::inf();
    if constexpr (kMask == 2) s += (Op)to_op(mask) * kLog2E;
    return s;
}

// What dropout makes of the weight of a key: 0, or one over the probability of staying. A pure function of the place.
GEMS_DI Op dropout(const AttentionParams &p, int batch, int head, int position, int key) {
    if constexpr (!kDropout) return 1;
    uint64_t line = ((uint64_t)batch * p.heads + head) * p.queries + position;
    Random4 r = Philox(p.seed, line, p.offset + (key & ~3)).next4();
    return uniform01(r.v[key & 3]) <= (float)p.keep ? (Op)(1 / p.keep) : (Op)0;
}

// Sum of a row's exponentials, and the largest exponent, to its logsumexp.
GEMS_DI Op logsumexp(const AttentionParams &p, Op top, Op sum) {
    return sum == 0 ? (Op)p.empty_lse : (top + log2(sum)) * kLn2;
}

// The part of the grid that a block does.
struct Part {
    int tile, head, batch, split;
    GEMS_DI Part(const AttentionParams &p, int heads) {
        int x = (int)blockIdx.x, rest = x / p.tiles;
        tile = p.tiles - 1 - (x - rest * p.tiles); // those that see most keys first
        x = rest / heads;
        head = rest - x * heads;
        batch = x / p.splits;
        split = x - batch * p.splits;
    }
};

// Where a split writes a row's result: dim_v numbers; behind all of them one logsumexp for each row.
GEMS_DI int64_t partial_row(const AttentionParams &p, int split, int batch, int head, int position) {
    return (((int64_t)split * p.batch + batch) * p.heads + head) * p.queries + position;
}
GEMS_DI int64_t partial_rows(const AttentionParams &p) { return (int64_t)p.splits * p.batch * p.heads * p.queries; }

}  // namespace

/* Blocks that wait for what blocks before them have found, so that data is read once (docs/contract.md). After the single-pass
 * scan of Merrill and Garland, but with a fixed order of joining: a tile takes no matter what its predecessors have ready,
 * always the same values joined in the same way, so that sums of floats have the same bits in every run.
 *
 * Tiles come in groups of kFan, groups in clusters of kFan. Every tile posts what it has; the last tile of a group posts what
 * the group has; the last tile of a cluster posts what is there up to its end. A tile joins, each by a warp in the order of a
 * tree: the tiles before it in its group, the groups before it in its cluster, and what there was before the cluster. Only
 * clusters wait for each other in a chain, which is short.
 *
 * A block has its tile from a counter, not from its number: whoever it waits for has drawn before, is running or done, and
 * waits in turn only for those that drew before it.
 *
 * The checked mode does not see the order of memory between blocks; the tests of scans pass on an H200.
 */
namespace gems {

constexpr int kFan = 32;

/* A word: 32 bits of a value and the mark that they are there. Both are written and read at once, so nothing else need be
 * ordered. Before the launch all words are 0. */
GEMS_DI void post_word(uint64_t* p, uint32_t v) {
    uint64_t word = (uint64_t)1 << 32 | v;
#if GEMS_CPU
    __atomic_store_n(p, word, __ATOMIC_RELAXED);
#else
    asm volatile("st.relaxed.gpu.global.u64 [%0],%1;" ::"l"(p), "l"(word) : "memory");
#endif
}
GEMS_DI uint64_t look_at_word(const uint64_t* p) {
#if GEMS_CPU
    return __atomic_load_n(p, __ATOMIC_RELAXED);
#else
    uint64_t word;
    asm volatile("ld.relaxed.gpu.global.u64 %0,[%1];" : "=l"(word) : "l"(p) : "memory");
    return word;
#endif
}

template <class T> constexpr int words_of = (sizeof(T) + 3) / 4;
template <class T> GEMS_DI void post(uint64_t* at, T v) {
    uint32_t w[words_of<T>] = {};
    memcpy(w, &v, sizeof(T));
    GEMS_UNROLL for (int i = 0; i < words_of<T>; i++) post_word(at + i, w[i]);
}
/* Waits until a value has been posted. */
template <class T> GEMS_DI T await(const uint64_t* at) {
    uint32_t w[words_of<T>];
    for (bool there = false; !there;) {
        there = true;
        GEMS_UNROLL for (int i = 0; i < words_of<T>; i++) {
            uint64_t word = look_at_word(at + i);
            there = there && word >> 32;
            w[i] = (uint32_t)word;
        }
    }
    T v;
    memcpy(&v, w, sizeof(T));
    return v;
}

/* Words of a line of tiles; the host counts alike. */
template <class T> GEMS_DI int64_t line_words(int64_t tiles) {
    return words_of<T> * (tiles + tiles / kFan + tiles / (kFan * kFan));
}

/* What the tiles of a line before `tile` have; own: what this one has. By the lanes of one warp, all of which have the result. */
template <class T, class F> GEMS_DI T before_tile(uint64_t* line, int32_t tiles, int32_t tile, T own, T nothing, F join) {
    constexpr int N = words_of<T>;
    const int lane = (int)threadIdx.x % kFan;
    const int32_t group = tile / kFan, in_group = tile % kFan, cluster = group / kFan, in_cluster = group % kFan;
    uint64_t *groups = line + (int64_t)N * tiles, *clusters = groups + (int64_t)N * (tiles / kFan);
    if (lane == 0 && in_group < kFan - 1) post(line + (int64_t)N * tile, own);
    T near = lane < in_group ? await<T>(line + (int64_t)N * (tile - in_group + lane)) : nothing;
    near = warp_reduce(near, join);
    if (lane == 0 && in_group == kFan - 1 && in_cluster < kFan - 1) post(groups + (int64_t)N * group, join(near, own));
    T far = lane < in_cluster ? await<T>(groups + (int64_t)N * (group - in_cluster + lane)) : nothing;
    far = warp_reduce(far, join);
    T before = cluster ? await<T>(clusters + (int64_t)N * (cluster - 1)) : nothing;
    if (lane == 0 && in_group == kFan - 1 && in_cluster == kFan - 1)
        post(clusters + (int64_t)N * cluster, join(before, join(far, join(near, own))));
    return join(before, join(far, near));
}

} // namespace gems

// Blocks of a cluster, which sm_90 and later run at the same time and which read each other's shared memory: part of the contract
// for the programs that name this file. A launch says how many blocks a cluster has, along x.
//
// cluster_arrive and cluster_wait are one barrier in two steps, for every thread: what threads wrote before they arrived is seen
// behind the wait, and each waits before it arrives again. No block may end while another one still reads from it.
// Faithful and checked modes run the blocks of a cluster in turns, each as far as it can; what is read of another block is
// not looked at for races.
namespace gems {
#if !GEMS_CPU
GEMS_DI int cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0,%%cluster_ctarank;" : "=r"(r));
    return (int)r;
}
// Waits for all threads of the cluster; orders no memory.
GEMS_DI void cluster_sync() {
    asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
}
// Four floats at this place in the shared memory of another block of the cluster.
GEMS_DI Vec<float, 4> cluster_load(const float* p, int block) {
    Vec<float, 4> r;
    asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r,%4,%5;\nld.shared::cluster.v4.f32 {%0,%1,%2,%3},[r];\n}"
                 : "=f"(r.v[0]), "=f"(r.v[1]), "=f"(r.v[2]), "=f"(r.v[3]) : "r"(shared_address(p)), "r"(block) : "memory");
    return r;
}
// The barrier in two steps. All threads arrive by one instruction: a warp whose threads arrived by two did not come back.
GEMS_DI void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
GEMS_DI void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// What another block of the cluster has at this place of its shared memory.
template <class V> GEMS_DI V cluster_read(const V* p, int block) {
    constexpr int words = sizeof(V) / 4;
    static_assert(sizeof(V) % 4 == 0, "read by words");
    uint32_t w[words], at;
    V v;
    asm volatile("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(at) : "r"(shared_address(p)), "r"(block));
    GEMS_UNROLL for (int i = 0; i < words; i++)
        asm volatile("ld.shared::cluster.u32 %0,[%1];" : "=r"(w[i]) : "r"(at + 4 * i) : "memory");
    memcpy(&v, w, sizeof(V));
    return v;
}
#elif GEMS_FAST
GEMS_DI void cluster_arrive() {}
GEMS_DI void cluster_wait() {}
template <class V> GEMS_DI V cluster_read(const V* p, int) { return *p; }
#else
// Programs that ask for the first two run in clusters of one block on a CPU.
GEMS_DI int cluster_rank() { return 0; }
GEMS_DI void cluster_sync() {}
GEMS_UNSEEN inline Vec<float, 4> cluster_load(const float* p, int block) {
    Vec<float, 4> v;
    memcpy(&v, gems_cpu_runtime->peer(p, block, sizeof v), sizeof v);
    return v;
}
GEMS_DI void cluster_arrive(GEMS_LINE_) { gems_cpu_runtime->cluster_arrive(line); }
GEMS_DI void cluster_wait(GEMS_LINE_) { gems_cpu_runtime->cluster_wait(line); }
template <class V> GEMS_UNSEEN V cluster_read(const V* p, int block) {
    V v;
    memcpy(&v, gems_cpu_runtime->peer(p, block, sizeof v), sizeof v);
    return v;
}
#endif

// The same value, of which the compiler knows nothing: what was made of it before is made again, not kept in registers.
template <class V> GEMS_DI V made_again(V v) {
#if !GEMS_CPU
    if constexpr (sizeof(V) == 16) {
        uint32_t w[4];
        memcpy(w, &v, 16);
        asm volatile("" : "+r"(w[0]), "+r"(w[1]), "+r"(w[2]), "+r"(w[3]));
        memcpy(&v, w, 16);
    }
#endif
    return v;
}
} // namespace gems

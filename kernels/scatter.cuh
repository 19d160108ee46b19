// What the kernels of the scatter family share. The head names T (of the elements), Int (of the indices), Index (of offsets),
// kOp (0 set, 1 sum, 2 product, 3 largest, 4 smallest), kFill (a value instead of elements), kInclude, kMean, kWrap.
namespace gems {
struct Bits { uint64_t w[2]; };
template <class V> GEMS_DI V value_of(const Bits& bits) {
    V v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

// What is added up: halves in float32.
template <class T> using scatter_acc = either<kOp == 0, T, opmath_t<T>>;

template <class A> GEMS_DI A scatter_identity() {
    if constexpr (kOp == 0) return A{};
    else if constexpr (kOp == 1) return A(0);
    else if constexpr (kOp == 2) return A(1);
    else if constexpr (is_float<A>) return kOp == 3 ? -Limits<A>::inf() : Limits<A>::inf();
    else return kOp == 3 ? Limits<A>::lowest() : Limits<A>::max();
}
template <class A, class T> GEMS_DI A scatter_merge(A acc, T v, A alpha) {
    if constexpr (kOp == 0) return v;
    else if constexpr (kOp == 1) return (A)(acc + (A)(alpha * to_op(v)));
    else if constexpr (kOp == 2) return (A)(acc * to_op(v));
    else if constexpr (kOp == 3) return max_nan((A)to_op(v), acc);
    else return min_nan((A)to_op(v), acc);
}
// The mean of a sum of `count`; of integers, rounded down.
template <class A> GEMS_DI A scatter_mean(A sum, int32_t count) {
    if constexpr (!kMean) return sum;
    else if (count <= 1) return sum;
    else if constexpr (is_float<A>) return sum / (A)count;
    else return (A)div_floor((int64_t)sum, (int64_t)count);
}
GEMS_DI int64_t scatter_wrap(int64_t at, int64_t size) { return kWrap && at < 0 ? at + size : at; }
}  // namespace gems

// fp8 without infinities: what rounds beyond the largest number is that. e4m3 has none; of e5m2 the step from infinity to the
// largest is one of the bits, whatever the sign.
namespace gems {
template <class Q> GEMS_DI Q saturated(float v) {
    Q r = from_op<Q>(v);
    if constexpr (is_same<Q, f8e5m2>) r.x = (uint8_t)(r.x - ((r.x & 0x7f) == 0x7c));
    return r;
}
}  // namespace gems

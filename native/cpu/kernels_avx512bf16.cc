#include "cpu/matmul_strip.inc"

namespace tokenflow {

namespace {

// bf16: two k per step, products and sums in fp32.
struct Bf16 {
  using Element = uint16_t;
  static constexpr int kDepth = 2;
  static inline Vec B(const void* p) { return Load(static_cast<const float*>(p)); }
  static inline Vec A(const Element* p) {
    float pair;
    memcpy(&pair, p, 4);
    return (Vec)_mm512_set1_ps(pair);
  }
  static inline Vec Add(Vec a, Vec b, Vec sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
  }
};

}  // namespace

void MatmulBf16Avx512(const MatmulStrip& strip) {
  StripOfRows<Bf16, kStripRows>(strip);
}

}  // namespace tokenflow

// Quantisers without a stored codebook: every element of a row is rounded to one of a few levels of its own, and
// the row's index is the mixed-radix number of these levels.
//
//   FSQ  Mentzer et al., "Finite Scalar Quantization", arXiv:2309.15505, appendix A.1, eps = 1e-3:
//        h = (L - 1)(1 + eps) / 2, o = 1/2 for even L else 0, s = atanh(o / h)
//        level = round(tanh(z + s) h - o) + floor(L / 2); value = (level - floor(L / 2)) / floor(L / 2)
//        kClamp: the same with tanh and atanh replaced by the clamp to [-1, 1].
//        kSymmetric: level = floor((L - 1)(tanh(z) + 1) / 2 + 1/2), value = 2 level / (L - 1) - 1: the levels
//        of an even L too lie symmetrically about 0.
//        Rounding is to nearest even. The first element is the least significant digit.
//   LFQ  Yu et al., "Language Model Beats Diffusion" (MAGVIT-v2), arXiv:2310.05737: L = 2, level 1 where z > 0,
//        value +scale or -scale. The first element is the most significant digit.
//   BSQ  Zhao et al., "Binary Spherical Quantization", arXiv:2406.07548: LFQ of z / |z| with scale 1 / sqrt(d);
//        the division changes no sign and is left out.
//
// Levels are clamped into [0, L - 1]: beyond L = 1001 the margin eps of the published formula reaches past the
// last one. Bounds are evaluated in double; from the level on everything is integer arithmetic, and a value is
// one float32 division (or table entry) of integers, so that decoding an index gives back the very same bits.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/queue.h"

namespace tokenflow {

class ScalarQuantizer {
 public:
  enum class Rule { kTanh, kClamp, kSymmetric, kSign };

  // Levels of each element, 2 to 2^24; their product at most 2^53. kSign wants 2 each; `scale` is its alone.
  ScalarQuantizer(Rule rule, std::vector<int> levels, float scale);

  int dim() const { return static_cast<int>(levels_.size()); }
  int64_t codes() const { return codes_; }

  // Index is int32_t or double (whole numbers up to 2^53). Throws Error when a row is not finite.
  template <class Index>
  void Encode(const float* x,  // [N][d]
              int64_t n,
              Index* indices,    // [N]
              float* quantized,  // [N][d]
              const CancelFlag& cancelled) const;

  // Throws Error on an index out of range.
  template <class Index>
  void Decode(const Index* indices,  // [N]
              int64_t n,
              float* quantized,  // [N][d]
              const CancelFlag& cancelled) const;

 private:
  int64_t LevelOf(float z, int element) const;
  float ValueOf(int64_t level, int element) const;

  Rule rule_;
  std::vector<int> levels_;
  std::vector<int64_t> place_values_;
  std::vector<double> half_, offset_, shift_;  // h, o and s above
  float scale_;
  int64_t codes_ = 1;
};

}  // namespace tokenflow

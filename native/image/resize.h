// Separable resampling of 8-bit RGB, equal to Pillow's `Image.resize` in every bit.
//
// Pillow resamples along x first, rounds to 8 bits, then along y. A filter widens with the scale when it
// shrinks (that is its antialiasing); its weights are normalised in double and rounded to 22 fraction bits.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

namespace tokenflow {

enum class Filter { kBox, kBicubic };

struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// How `window`, a part of the `out` samples of one axis, is made from its `in` samples.
class Axis {
 public:
  Axis(Filter filter, int64_t in, int64_t out, Span window);

  // Declares that only the input samples `present` exist, sample 0 becoming present.begin. What a weight
  // would have read elsewhere counts as the constant `fill`.
  void Restrict(Span present, uint8_t fill);

  int64_t size() const { return window_; }
  Span support() const;  // the input samples that the window reads
  int MaxTaps() const;

  enum class Kind { kCopy, kHalve, kGeneral };
  Kind kind() const { return kind_; }

  struct Taps {
    int64_t first;           // the input sample of weights[0]
    int count;               // 0 when everything read is fill
    int32_t bias;            // rounding half, plus what fill contributes
    const int32_t* weights;  // [count]
  };
  Taps taps(int64_t i) const {
    return {first_[i], count_[i], bias_[i], weights_.data() + i * stride_ + skip_[i]};
  }

 private:
  Kind kind_;
  int64_t window_, stride_;
  std::vector<int64_t> first_;
  std::vector<int32_t> count_, skip_, bias_;
  std::vector<int32_t> weights_;  // [window][stride]
};

// Returns row y as RGB: a pointer into the picture, or into `scratch` (one row) after writing it there.
using RowReader = std::function<const uint8_t*(int64_t y, uint8_t* scratch)>;

// Resamples rows of `width` RGB pixels along x, then y.
void Resize(const RowReader& rows, int64_t width, const Axis& x, const Axis& y,
            uint8_t* out);  // [y.size()][x.size()][3]

}  // namespace tokenflow

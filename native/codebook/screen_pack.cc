// Packing for the screen: the order of the codes, their bytes, and the norms of a call.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>

#include "codebook/screen.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr double kSlack = 1 + 1e-9;  // over the rounding of a norm summed in double

// Puts similar codes together: halves each stretch by projection on the line between two codes that are far
// apart, down to blocks. Any order is correct; this one leaves few blocks with a code near a given query.
class Orderer {
 public:
  Orderer(const float* rows, int dim) : rows_(rows), dim_(dim) {}

  void Order(std::vector<int32_t>* order) {
    std::vector<Stretch> level = {{order->data(), static_cast<int64_t>(order->size())}};
    while (!level.empty()) {
      std::vector<Stretch> next(level.size() * 2, Stretch{nullptr, 0});
      ParallelTasks(static_cast<int64_t>(level.size()), [&](int64_t i) {
        const Stretch& stretch = level[i];
        const int64_t blocks = (stretch.size + kBlockCodes - 1) / kBlockCodes;
        if (blocks <= 1) return;
        const int64_t half = (blocks + 1) / 2 * kBlockCodes;
        Split(stretch, half);
        next[2 * i] = {stretch.codes, half};
        next[2 * i + 1] = {stretch.codes + half, stretch.size - half};
      });
      next.erase(
          std::remove_if(next.begin(), next.end(), [](const Stretch& s) { return s.size <= kBlockCodes; }),
          next.end());
      level = std::move(next);
    }
  }

 private:
  struct Stretch {
    int32_t* codes;
    int64_t size;
  };

  const float* Row(int32_t code) const { return rows_ + int64_t{code} * dim_; }

  float SquaredDistance(int32_t a, int32_t b) const {
    float sum[4] = {};
    for (int k = 0; k < dim_; k++) {
      const float difference = Row(a)[k] - Row(b)[k];
      sum[k % 4] += difference * difference;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }

  int32_t FarFrom(int32_t code, const Stretch& stretch) const {
    const int64_t stride = std::max<int64_t>(1, stretch.size / 256);
    int32_t far = stretch.codes[0];
    float most = -1.0f;
    for (int64_t i = 0; i < stretch.size; i += stride) {
      const float distance = SquaredDistance(code, stretch.codes[i]);
      if (distance <= most) continue;
      most = distance;
      far = stretch.codes[i];
    }
    return far;
  }

  void Split(const Stretch& stretch, int64_t half) const {
    const int32_t a = FarFrom(stretch.codes[stretch.size / 2], stretch);
    const int32_t b = FarFrom(a, stretch);
    std::vector<float> axis(dim_);
    for (int k = 0; k < dim_; k++) axis[k] = Row(a)[k] - Row(b)[k];
    std::vector<std::pair<float, int32_t>> along(stretch.size);
    for (int64_t i = 0; i < stretch.size; i++) {
      const float* row = Row(stretch.codes[i]);
      float sum[4] = {};
      int k = 0;
      for (; k + 4 <= dim_; k += 4) {
        for (int c = 0; c < 4; c++) sum[c] += axis[k + c] * row[k + c];
      }
      for (; k < dim_; k++) sum[0] += axis[k] * row[k];
      along[i] = {(sum[0] + sum[1]) + (sum[2] + sum[3]), stretch.codes[i]};
    }
    std::nth_element(along.begin(), along.begin() + half, along.end());
    for (int64_t i = 0; i < stretch.size; i++) stretch.codes[i] = along[i].second;
  }

  const float* rows_;
  int dim_;
};

std::vector<int32_t> FiniteCodes(const PackedCodes& packed) {
  std::vector<int32_t> finite;
  for (int64_t j = 0; j < packed.codes; j++) {
    if (std::isfinite(packed.part_norms[j])) finite.push_back(static_cast<int32_t>(j));
  }
  return finite;
}

// Raises `*most`, from any thread at the end of its share.
void Raise(double* most, double value) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  *most = std::max(*most, value);
}

}  // namespace

bool CanScreen(const PackedCodes& packed, int k) {
  const int64_t finite = packed.codes - packed.non_finite;
  const int64_t full_spans = finite / (kSpan * kSuperBlock);
  if (k > 1 && full_spans * 16 < 2 * k) return false;  // too few lane minima to bound the k-th best by
  if (finite < 2 * kSuperBlock) return false;
  return packed.largest > 1e-12f && packed.largest < 1e12f;
}

ScreenCodes PackScreen(const PackedCodes& packed, const ScreenKernels& kernels) {
  ScreenCodes screen{};
  const int dim = packed.dim;
  screen.kernels = &kernels;
  screen.dim = dim;
  screen.words = (dim + kernels.group - 1) / kernels.group;
  screen.order = FiniteCodes(packed);
  screen.codes = static_cast<int64_t>(screen.order.size());
  screen.blocks = (screen.codes + kBlockCodes - 1) / kBlockCodes;
  screen.super_blocks = (screen.codes + kSuperBlock - 1) / kSuperBlock;
  Orderer(packed.rows.data(), dim).Order(&screen.order);

  std::vector<float> low(dim, INFINITY), high(dim, -INFINITY);
  for (const int32_t j : screen.order) {
    const float* row = packed.rows.data() + int64_t{j} * dim;
    for (int k = 0; k < dim; k++) {
      low[k] = std::min(low[k], row[k]);
      high[k] = std::max(high[k], row[k]);
    }
  }
  screen.centre.resize(dim);
  double half_range = 0, centre_square = 0;
  for (int k = 0; k < dim; k++) {
    const double middle = screen.centre[k] = static_cast<float>((double{low[k]} + high[k]) / 2);
    half_range = std::max({half_range, high[k] - middle, middle - low[k]});
    centre_square += middle * middle;
  }
  screen.centre_norm = std::sqrt(centre_square) * kSlack;
  screen.step = std::max(half_range / kernels.code_limit, 1e-18);

  const int64_t places = screen.super_blocks * kSuperBlock;
  screen.bytes.assign(places * screen.words * kernels.group, 0);
  screen.panels.resize(places * dim);
  screen.indices.resize(places);
  screen.places.assign(packed.codes, 0);
  const int steps = kBlockCodes / kernels.vectors;
  const double inverse_step = 1 / screen.step;
  ParallelRanges(places, kSuperBlock, [&](int, int64_t begin, int64_t end) {
    double element_most = 0, residual_most = 0, code_most = 0;
    for (int64_t place = begin; place < end; place++) {
      const bool real = place < screen.codes;
      const int32_t j = screen.order[std::min(place, screen.codes - 1)];
      const float* row = packed.rows.data() + int64_t{j} * dim;
      float* panel = screen.panels.data() + place / kPanelCodes * kPanelCodes * dim + place % kPanelCodes;
      for (int k = 0; k < dim; k++) panel[k * kPanelCodes] = real ? row[k] : 0.0f;
      screen.indices[place] = real ? j : INT32_MAX;
      if (real) screen.places[j] = static_cast<int32_t>(place);

      const int64_t super = place / kSuperBlock, lane = place % kSuperBlock / kBlockCodes;
      const int64_t step = place % kBlockCodes / kernels.vectors,
                    vector = place % kBlockCodes % kernels.vectors;
      const int64_t width = 16 * kernels.group;  // bytes of a vector
      uint8_t* bytes = screen.bytes.data() +
                       ((super * steps + step) * screen.words * kernels.vectors + vector) * width +
                       lane * kernels.group;
      double element_square = 0, residual_square = 0, code_square = 0;
      for (int k = 0; k < dim; k++) {
        const double element = double{row[k]} - screen.centre[k];
        const float nearest = std::nearbyintf(static_cast<float>(element * inverse_step));
        const float limit = static_cast<float>(kernels.code_limit);
        const int level = static_cast<int>(std::min(limit, std::max(-limit, nearest)));
        bytes[k / kernels.group * kernels.vectors * width + k % kernels.group] =
            static_cast<uint8_t>(level + kernels.code_limit + 1);
        const double residual = element - level * screen.step;
        element_square += element * element;
        residual_square += residual * residual;
        code_square += double{row[k]} * row[k];
      }
      element_most = std::max(element_most, element_square);
      residual_most = std::max(residual_most, residual_square);
      code_most = std::max(code_most, code_square);
    }
    Raise(&screen.element_most, std::sqrt(element_most) * kSlack);
    Raise(&screen.residual_most, std::sqrt(residual_most) * kSlack);
    Raise(&screen.code_most, std::sqrt(code_most) * kSlack);
  });
  return screen;
}

int64_t ScreenCodes::bytes_resident() const {
  return static_cast<int64_t>(bytes.size() + panels.size() * sizeof(float) +
                              (indices.size() + places.size() + order.size()) * sizeof(int32_t));
}

ScreenNorms PackScreenNorms(const PackedCodes& packed, const ScreenCodes& screen,
                            const std::vector<PartSpan>& spans, const float* norms) {
  ScreenNorms result{};
  const int dim = screen.dim;
  result.shift.assign(dim, 0.0f);
  if (packed.metric == Metric::kL2) {
    for (const PartSpan& part : spans) {
      for (int k = part.begin; k < part.end; k++) result.shift[k] = 2.0f * part.weight * screen.centre[k];
    }
  }
  double shift_square = 0;
  for (const float u : result.shift) shift_square += double{u} * u;
  result.shift_norm = std::sqrt(shift_square) * kSlack;

  const int64_t places = screen.super_blocks * kSuperBlock;
  std::vector<double> shifted(screen.codes);  // n_j - u . e_j
  ParallelRanges(screen.codes, kSuperBlock, [&](int, int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; place++) {
      const float* row = packed.rows.data() + int64_t{screen.order[place]} * dim;
      double along = 0;
      for (int k = 0; k < dim; k++) along += double{result.shift[k]} * (double{row[k]} - screen.centre[k]);
      shifted[place] = norms[screen.order[place]] - along;
    }
  });
  const auto [least, most] = std::minmax_element(shifted.begin(), shifted.end());
  result.middle = (*least + *most) / 2;
  result.seeds.resize(places);
  result.norms.resize(places);
  for (int64_t place = 0; place < places; place++) {
    const int64_t code = std::min(place, screen.codes - 1);
    const double exact = shifted[code] - result.middle;
    const float seed = static_cast<float>(exact);
    const int64_t super = place / kSuperBlock, lane = place % kSuperBlock / kBlockCodes;
    result.seeds[super * kSuperBlock + place % kBlockCodes * 16 + lane] = seed;
    const float norm = norms[screen.order[code]];
    result.norms[place] = place < screen.codes ? norm : INFINITY;
    result.seed_most = std::max(result.seed_most, double{std::fabs(seed)});
    result.seed_error = std::max(result.seed_error, std::fabs(seed - exact));
    result.norm_most = std::max(result.norm_most, double{std::fabs(norm)});
  }
  return result;
}

}  // namespace tokenflow

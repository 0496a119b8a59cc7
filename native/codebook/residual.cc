#include "codebook/residual.h"

#include <algorithm>
#include <string>

#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kChunkHypotheses = 16384;  // what bounds the memory of a call
constexpr int64_t kGrain = 64;               // rows of a parallel loop

// The hypotheses of a chunk of rows after some stages: `width` per row, best first.
struct Beam {
  int width = 0;
  std::vector<float> residuals;  // [rows][width][d]
  std::vector<int32_t> paths;    // [rows][width][stages]
};

struct Extension {
  double error;
  int parent;
  int32_t code;
};

// What `x` leaves over once `code` is taken off it, and the square of that.
double Subtract(const float* x, const float* code, int dim, float* rest) {
  double error = 0;
  for (int k = 0; k < dim; k++) {
    rest[k] = x[k] - code[k];
    error += double{rest[k]} * rest[k];
  }
  return error;
}

// Every hypothesis extended by one stage, cut back to the `beam` best of each row.
Beam Extend(const Beam& from, const Codebook& codebook, int64_t first_row, int64_t rows, int stage,
            int stages, int beam, const CancelFlag& cancelled) {
  const int dim = codebook.dim();
  const int k = static_cast<int>(std::min(int64_t{beam}, codebook.codes() - codebook.non_finite()));
  std::vector<int32_t> found(rows * from.width * k);
  codebook.Nearest(from.residuals.data(), rows * from.width, k, nullptr, {found.data(), nullptr, nullptr},
                   cancelled);
  Beam next;
  if (cancelled.load(std::memory_order_relaxed)) return next;
  const auto missing = std::find(found.begin(), found.end(), kNoCode);
  if (missing != found.end()) {
    const int64_t row = first_row + (missing - found.begin()) / (int64_t{from.width} * k);
    throw InvalidArgument("Expected finite vectors but row " + std::to_string(row) +
                          " has NaN, infinity or values too large to square at stage " +
                          std::to_string(stage));
  }

  next.width = std::min(beam, from.width * k);
  next.residuals.resize(rows * next.width * dim);
  next.paths.resize(rows * next.width * stages);
  ParallelRanges(rows, kGrain, [&](int, int64_t begin, int64_t end) {
    std::vector<Extension> extensions;
    std::vector<float> rest(dim);
    for (int64_t row = begin; row < end; row++) {
      extensions.clear();
      for (int parent = 0; parent < from.width; parent++) {
        const int64_t at = row * from.width + parent;
        for (int rank = 0; rank < k; rank++) {
          const int32_t code = found[at * k + rank];
          const float* values = codebook.rows() + int64_t{code} * dim;
          extensions.push_back({Subtract(&from.residuals[at * dim], values, dim, rest.data()), parent, code});
        }
      }
      std::stable_sort(extensions.begin(), extensions.end(),
                       [](const Extension& a, const Extension& b) { return a.error < b.error; });
      for (int place = 0; place < next.width; place++) {
        const Extension& chosen = extensions[place];
        const int64_t parent = row * from.width + chosen.parent, to = row * next.width + place;
        Subtract(&from.residuals[parent * dim], codebook.rows() + int64_t{chosen.code} * dim, dim,
                 &next.residuals[to * dim]);
        if (stage > 0) std::copy_n(&from.paths[parent * stages], stage, &next.paths[to * stages]);
        next.paths[to * stages + stage] = chosen.code;
      }
    }
  });
  return next;
}

}  // namespace

ResidualQuantizer::ResidualQuantizer(std::vector<std::shared_ptr<const Codebook>> stages)
    : stages_(std::move(stages)) {
  if (stages_.empty()) throw InvalidArgument("Expected at least one codebook");
  for (const auto& stage : stages_) {
    if (stage->dim() != dim()) {
      throw InvalidArgument("Expected codebooks of one dimension but received " + std::to_string(dim()) +
                            " and " + std::to_string(stage->dim()));
    }
    if (stage->non_finite() == stage->codes())
      throw InvalidArgument("Expected a finite code in every codebook but received one without any");
  }
}

void ResidualQuantizer::Encode(const float* x, int64_t n, int beam, int32_t* indices, float* sum,
                               float* errors, const CancelFlag& cancelled) const {
  const int64_t chunk = std::max<int64_t>(1, kChunkHypotheses / beam);
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t rows = std::min(chunk, n - first);
    Beam current;
    current.width = 1;
    current.residuals.assign(x + first * dim(), x + (first + rows) * dim());
    for (int stage = 0; stage < stages(); stage++) {
      current = Extend(current, *stages_[stage], first, rows, stage, stages(), beam, cancelled);
      if (cancelled.load(std::memory_order_relaxed)) return;
    }
    for (int64_t row = 0; row < rows; row++) {
      std::copy_n(&current.paths[row * current.width * stages()], stages(),
                  indices + (first + row) * stages());
    }
    Decode(indices + first * stages(), rows, stages(), sum + first * dim(), cancelled);
    std::vector<float> rest(dim());
    for (int64_t row = first; row < first + rows; row++) {
      errors[row] = static_cast<float>(Subtract(x + row * dim(), sum + row * dim(), dim(), rest.data()));
    }
  }
}

void ResidualQuantizer::Decode(const int32_t* indices, int64_t n, int stage_count, float* sum,
                               const CancelFlag& cancelled) const {
  for (int64_t i = 0; i < n * stage_count; i++) {
    const int64_t codes = stages_[i % stage_count]->codes();
    if (indices[i] >= 0 && indices[i] < codes) continue;
    throw InvalidArgument("Expected indices from 0 to " + std::to_string(codes - 1) + " for stage " +
                          std::to_string(i % stage_count) + " but received " + std::to_string(indices[i]) +
                          " at position " + std::to_string(i));
  }
  ParallelRanges(n, kGrain, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end && !cancelled.load(std::memory_order_relaxed); row++) {
      float* out = sum + row * dim();
      std::fill_n(out, dim(), 0.0f);
      for (int stage = 0; stage < stage_count; stage++) {
        const float* code = stages_[stage]->rows() + int64_t{indices[row * stage_count + stage]} * dim();
        for (int k = 0; k < dim(); k++) out[k] += code[k];
      }
    }
  });
}

}  // namespace tokenflow

#include "codebook/product.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kChunkRows = 16384;  // whose groups are cut out at a time

// A quantised row and how near it is: smaller is nearer, whatever the metric.
struct Neighbour {
  float order;
  int32_t row;
  bool operator<(const Neighbour& other) const { return Before(order, row, other.order, other.row); }
};

}  // namespace

ProductQuantizer::ProductQuantizer(std::vector<std::shared_ptr<const Codebook>> groups)
    : groups_(std::move(groups)), offsets_{0} {
  if (groups_.empty()) throw InvalidArgument("Expected at least one codebook");
  for (const auto& group : groups_) {
    if (group->metric() != groups_[0]->metric())
      throw InvalidArgument("Expected codebooks of one metric, since distances are added up over the groups");
    begins_.push_back(dim_);
    offsets_.push_back(offsets_.back() + group->codes());
    dim_ += group->dim();
  }
}

void ProductQuantizer::Encode(const float* x, int64_t n, int32_t* indices, float* quantized,
                              const CancelFlag& cancelled) const {
  std::vector<float> part;
  std::vector<int32_t> found;
  for (int64_t first = 0; first < n; first += kChunkRows) {
    const int64_t rows = std::min(kChunkRows, n - first);
    found.resize(rows);
    for (int g = 0; g < groups(); g++) {
      const int size = groups_[g]->dim();
      part.resize(rows * size);
      for (int64_t row = 0; row < rows; row++) {
        std::copy_n(x + (first + row) * dim_ + begins_[g], size, &part[row * size]);
      }
      groups_[g]->Nearest(part.data(), rows, 1, nullptr, {found.data(), nullptr, nullptr}, cancelled);
      if (cancelled.load(std::memory_order_relaxed)) return;
      for (int64_t row = 0; row < rows; row++) {
        if (found[row] == kNoCode) {
          throw InvalidArgument("Expected finite vectors and codes but found no code for group " +
                                std::to_string(g) + " of row " + std::to_string(first + row) +
                                " (NaN, infinity or values too large to square)");
        }
        indices[(first + row) * groups() + g] = found[row];
      }
    }
    Decode(indices + first * groups(), rows, quantized + first * dim_);
  }
}

void ProductQuantizer::CheckIndices(const int32_t* indices, int64_t n) const {
  for (int64_t i = 0; i < n * groups(); i++) {
    const int64_t codes = groups_[i % groups()]->codes();
    if (indices[i] >= 0 && indices[i] < codes) continue;
    throw InvalidArgument("Expected indices from 0 to " + std::to_string(codes - 1) + " for group " +
                          std::to_string(i % groups()) + " but received " + std::to_string(indices[i]) +
                          " at position " + std::to_string(i));
  }
}

void ProductQuantizer::Decode(const int32_t* indices, int64_t n, float* quantized) const {
  CheckIndices(indices, n);
  for (int64_t row = 0; row < n; row++) {
    for (int g = 0; g < groups(); g++) {
      const int size = groups_[g]->dim();
      const float* code = groups_[g]->rows() + int64_t{indices[row * groups() + g]} * size;
      std::copy_n(code, size, quantized + row * dim_ + begins_[g]);
    }
  }
}

void ProductQuantizer::Table(const float* query, float* table) const {
  const LookupKernels& kernels = ActiveLookup();
  std::vector<float> seen(dim_), scaled(dim_);
  for (int g = 0; g < groups(); g++) {
    const Codebook& codebook = *groups_[g];
    const PartSpan& span = codebook.parts()[0];
    const bool finite = kernels.prepare(query + begins_[g], &span, 1, seen.data(), scaled.data());
    float* out = table + offsets_[g];
    for (int64_t j = 0; j < codebook.codes(); j++) {
      const float* code = codebook.rows() + j * codebook.dim();
      float distance;
      kernels.distances(codebook.metric(), &span, 1, seen.data(), &code, 1, &distance, nullptr, 0);
      out[j] = finite && std::isfinite(distance) ? distance : NAN;
    }
  }
}

void ProductQuantizer::Tables(const float* queries, int64_t n, float* tables,
                              const CancelFlag& cancelled) const {
  ParallelTasks(n, [&](int64_t i) {
    if (!cancelled.load(std::memory_order_relaxed)) Table(queries + i * dim_, tables + i * table_size());
  });
}

void ProductQuantizer::Search(const float* queries, int64_t n, const int32_t* rows, int64_t row_count, int k,
                              int32_t* indices, float* distances, const CancelFlag& cancelled) const {
  CheckIndices(rows, row_count);
  const float sign = groups_[0]->metric() == Metric::kInnerProduct ? -1.0f : 1.0f;
  ParallelTasks(n, [&](int64_t i) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    std::vector<float> table(table_size());
    Table(queries + i * dim_, table.data());
    std::vector<Neighbour> heap;  // the k nearest so far, the farthest of them on top
    for (int64_t row = 0; row < row_count; row++) {
      float sum = 0.0f;
      for (int g = 0; g < groups(); g++) sum += table[offsets_[g] + rows[row * groups() + g]];
      const Neighbour neighbour{sign * sum, static_cast<int32_t>(row)};
      if (std::isnan(neighbour.order)) continue;
      if (static_cast<int>(heap.size()) == k) {
        if (!(neighbour < heap.front())) continue;
        std::pop_heap(heap.begin(), heap.end());
        heap.pop_back();
      }
      heap.push_back(neighbour);
      std::push_heap(heap.begin(), heap.end());
    }
    std::sort_heap(heap.begin(), heap.end());
    for (int rank = 0; rank < k; rank++) {
      const bool there = rank < static_cast<int>(heap.size());
      indices[i * k + rank] = there ? heap[rank].row : kNoCode;
      distances[i * k + rank] = there ? sign * heap[rank].order : NAN;
    }
  });
}

}  // namespace tokenflow

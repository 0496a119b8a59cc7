// Matrix products on all threads: the strips of kernels.h over rows that may lie anywhere, so that a linear
// layer and a direct convolution are the same thing with one tap or many.
//
// An element of the result is one chain of multiply-adds over taps and depth, whatever the strip it falls in:
// it depends neither on the batch nor on the threads.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/weight_store.h"
#include "runtime/parallel.h"

namespace tokenflow {

// B, packed in panels of Kernels::panel columns: [panel][taps][depth][column], in bf16
// [panel][taps][depth / 2][column][2] with an odd depth filled up by zeros.
struct PackedMatrix {
  Buffer buffer;
  int64_t columns, taps, depth;  // depth as packed
  bool bf16;

  const char* Panel(int64_t panel) const {
    return buffer.as<char>() + panel * taps * depth * ActiveKernels().panel * (bf16 ? 2 : 4);
  }
};

// From [columns][depth][taps], given as parts along the columns.
Packed<PackedMatrix> PackMatrix(const std::vector<WeightData>& parts, int64_t columns, int64_t depth,
                                int64_t taps, bool bf16);

struct MatmulCall {
  const PackedMatrix& b;
  const float* bias;  // padded to whole panels, or null
  Activation activation;
  const float* residual;  // null or [rows][columns]
  float* y;               // [rows][columns]
  int64_t rows;
  int64_t row_bytes;  // of A, that a row adds to what is read
};

// `fill(first, count, a)` writes the addresses of rows [first, first + count) as MatmulStrip::a wants them.
template <class Fill>
void RunMatmul(const MatmulCall& call, Fill&& fill) {
  constexpr int64_t kBlockBytes = 384 << 10;  // rows of A that stay in the second-level cache
  const Kernels& kernels = ActiveKernels();
  const int64_t strip = kernels.strip_rows;
  const int64_t panels = (call.b.columns + kernels.panel - 1) / kernels.panel;
  const int64_t block_strips = std::clamp<int64_t>(kBlockBytes / (call.row_bytes * strip), 8, 128);
  const int64_t blocks = (call.rows + strip * block_strips - 1) / (strip * block_strips);
  const int64_t groups = std::min<int64_t>(panels, (6 * Threads() + blocks - 1) / blocks);
  const auto multiply = call.b.bf16 ? kernels.matmul_bf16 : kernels.matmul;

  ParallelTasks(blocks * groups, [&](int64_t task) {
    const int64_t block = task / groups, group = task % groups;
    const int64_t first = call.rows * block / blocks, end = call.rows * (block + 1) / blocks;
    const int64_t strips = (end - first + strip - 1) / strip;
    thread_local std::vector<const void*> a;
    a.resize((end - first) * call.b.taps);
    const auto start = [&](int64_t s) { return first + (end - first) * s / strips; };
    for (int64_t s = 0; s < strips; s++) {
      fill(start(s), start(s + 1) - start(s), a.data() + (start(s) - first) * call.b.taps);
    }
    for (int64_t panel = panels * group / groups; panel < panels * (group + 1) / groups; panel++) {
      const int64_t column = panel * kernels.panel;
      for (int64_t s = 0; s < strips; s++) {
        const int64_t offset = start(s) * call.b.columns + column;
        multiply({a.data() + (start(s) - first) * call.b.taps, call.b.Panel(panel),
                  static_cast<int>(start(s + 1) - start(s)), static_cast<int>(call.b.taps), call.b.depth,
                  call.bias == nullptr ? nullptr : call.bias + column, call.activation,
                  call.residual == nullptr ? nullptr : call.residual + offset, call.y + offset,
                  call.b.columns,
                  static_cast<int>(std::min<int64_t>(kernels.panel, call.b.columns - column))});
      }
    }
  });
}

// fp32 [rows][columns] to bf16 [rows][padded], the columns filled up to an even number by zeros.
void RowsToBf16(const float* x, int64_t rows, int64_t columns, uint16_t* y);
inline int64_t EvenDepth(int64_t depth) {
  return (depth + 1) / 2 * 2;
}

}  // namespace tokenflow

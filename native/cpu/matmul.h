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
//
// A task is a block of rows times a group of panels. Its strips of A, cut to a depth, stay in the second-level cache
// beside the piece of a panel that they are multiplied with, while the next piece is fetched: a model's weights come
// from memory, and the first strip would otherwise wait for every line of them.
template <class Fill>
void RunMatmul(const MatmulCall& call, Fill&& fill) {
  constexpr int64_t kBlockBytes = 288 << 10;  // of A, as far as it is used at a time
  constexpr int64_t kDepthBytes = 3 << 10;    // of a row of A that are used at a time, if it has one tap
  constexpr int64_t kPanelsTogether = 4;      // whose sums are kept from one piece of the depth to the next
  const Kernels& kernels = ActiveKernels();
  const PackedMatrix& b = call.b;
  const int64_t strip_rows = kernels.strip_rows, width = kernels.panel;
  const int64_t element = b.bf16 ? 2 : 4, line_depth = b.bf16 ? 2 : 1;
  const int64_t pieces = b.taps > 1 ? 1 : (b.depth * element + kDepthBytes - 1) / kDepthBytes;
  const int64_t piece_bytes = call.row_bytes / pieces;
  const int64_t panels = (b.columns + width - 1) / width;
  const int64_t block_strips = std::clamp<int64_t>(kBlockBytes / (piece_bytes * strip_rows), 8, 128);
  const int64_t blocks = (call.rows + strip_rows * block_strips - 1) / (strip_rows * block_strips);
  const int64_t groups = std::min<int64_t>(panels, (6 * Threads() + blocks - 1) / blocks);
  const auto multiply = b.bf16 ? kernels.matmul_bf16 : kernels.matmul;

  ParallelTasks(blocks * groups, [&](int64_t task) {
    const int64_t block = task / groups, group = task % groups;
    const int64_t first = call.rows * block / blocks, end = call.rows * (block + 1) / blocks;
    const int64_t strips = (end - first + strip_rows - 1) / strip_rows;
    const auto start = [&](int64_t s) { return (end - first) * s / strips; };
    const auto piece_start = [&](int64_t piece) {
      return b.depth / line_depth * piece / pieces * line_depth;
    };
    const auto piece_of = [&](int64_t panel, int64_t piece) {
      return b.Panel(panel) + piece_start(piece) * width * element;
    };
    thread_local std::vector<const void*> a;
    thread_local std::vector<float> sums;
    a.resize((end - first) * b.taps);
    for (int64_t s = 0; s < strips; s++) {
      fill(first + start(s), start(s + 1) - start(s), a.data() + start(s) * b.taps);
    }
    const int64_t last_panel = panels * (group + 1) / groups;
    for (int64_t panel = panels * group / groups, next; panel < last_panel; panel = next) {
      next = pieces == 1 ? panel + 1 : std::min(panel + kPanelsTogether, last_panel);
      if (pieces > 1) sums.resize((next - panel) * (end - first) * width);
      for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t depth = piece_start(piece + 1) - piece_start(piece);
        for (int64_t p = panel; p < next; p++) {
          const char* ahead = p + 1 < next         ? piece_of(p + 1, piece)
                              : piece + 1 < pieces ? piece_of(panel, piece + 1)
                              : next < panels      ? piece_of(next, 0)
                                                   : piece_of(p, piece);
          for (int64_t s = 0; s < strips; s++) {
            const int64_t column = p * width, offset = (first + start(s)) * b.columns + column;
            MatmulStrip strip;
            strip.a = a.data() + start(s) * b.taps;
            strip.first = piece_start(piece);
            strip.b = piece_of(p, piece);
            strip.rows = static_cast<int>(start(s + 1) - start(s));
            strip.taps = static_cast<int>(b.taps);
            strip.depth = depth;
            strip.begins = piece == 0;
            strip.ends = piece + 1 == pieces;
            if (pieces > 1) strip.sums = sums.data() + ((p - panel) * (end - first) + start(s)) * width;
            if (call.bias != nullptr) strip.bias = call.bias + column;
            strip.activation = call.activation;
            if (call.residual != nullptr) strip.residual = call.residual + offset;
            strip.y = call.y + offset;
            strip.stride = b.columns;
            strip.columns = static_cast<int>(std::min<int64_t>(width, b.columns - column));
            strip.ahead_step = width * 4 / strips;  // of a row of the panel: every strip fetches its share
            strip.ahead = ahead + s * strip.ahead_step * b.taps * depth / line_depth;
            multiply(strip);
          }
        }
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

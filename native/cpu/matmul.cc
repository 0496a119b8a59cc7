#include "cpu/matmul.h"

namespace tokenflow {

Packed<PackedMatrix> PackMatrix(const std::vector<WeightData>& parts, int64_t columns, int64_t depth,
                                int64_t taps, bool bf16) {
  const int64_t width = ActiveKernels().panel;
  const int64_t panels = (columns + width - 1) / width;
  const int64_t padded = bf16 ? EvenDepth(depth) : depth;
  const int64_t part_columns = columns / static_cast<int64_t>(parts.size());
  const int64_t bytes = panels * taps * padded * width * (bf16 ? 2 : 4);
  auto matrix =
      std::make_unique<PackedMatrix>(PackedMatrix{Buffer(bytes, "weights"), columns, taps, padded, bf16});
  const auto row = [&](int64_t column) -> const float* {
    if (column >= columns) return nullptr;
    const float* data = parts[column / part_columns].data;
    return data == nullptr ? nullptr : data + column % part_columns * depth * taps;
  };

  ParallelTasks(panels, [&](int64_t panel) {
    std::vector<const float*> rows;
    for (int64_t n = 0; n < width; n++) rows.push_back(row(panel * width + n));
    for (int64_t tap = 0; tap < taps; tap++) {
      const int64_t at = (panel * taps + tap) * padded * width;
      if (!bf16) {
        float* to = matrix->buffer.as<float>() + at;
        for (int64_t k = 0; k < depth; k++) {
          for (int64_t n = 0; n < width; n++) *to++ = rows[n] == nullptr ? 0.0f : rows[n][k * taps + tap];
        }
        continue;
      }
      std::vector<float> pairs(2 * width);
      for (int64_t k = 0; k < padded; k += 2) {
        for (int64_t n = 0; n < width; n++) {
          pairs[2 * n] = rows[n] == nullptr ? 0.0f : rows[n][k * taps + tap];
          pairs[2 * n + 1] = rows[n] == nullptr || k + 1 == depth ? 0.0f : rows[n][(k + 1) * taps + tap];
        }
        ActiveKernels().to_bf16(pairs.data(), 2 * width, matrix->buffer.as<uint16_t>() + at + k * width);
      }
    }
  });
  return {std::move(matrix), bytes};
}

void RowsToBf16(const float* x, int64_t rows, int64_t columns, uint16_t* y) {
  const int64_t padded = EvenDepth(columns);
  ParallelRanges(rows, 16, [&](int, int64_t begin, int64_t end) {
    if (padded == columns) {
      return ActiveKernels().to_bf16(x + begin * columns, (end - begin) * columns, y + begin * columns);
    }
    for (int64_t row = begin; row < end; row++) {
      ActiveKernels().to_bf16(x + row * columns, columns, y + row * padded);
      y[row * padded + columns] = 0;
    }
  });
}

}  // namespace tokenflow

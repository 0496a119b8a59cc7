// softmax(scale q k^T) v per head. The keys of an image are turned and the values packed into panels once;
// then a block of queries at a time has its scores, their softmax and the product with the values, so that no
// more scores exist than a thread's block.
#include "cpu/kernels.h"
#include "cpu/op.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kBlockStrips = 8;

struct Geometry {
  int64_t batch, tokens, channels, heads, width;  // width: channels of a head
  int64_t panel, key_panels, value_panels, strip_rows;

  int64_t key_floats() const { return key_panels * width * panel; }       // of a head
  int64_t value_floats() const { return value_panels * tokens * panel; }  // of a head
  int64_t block_rows() const { return kBlockStrips * strip_rows; }
  int64_t score_stride() const { return key_panels * panel; }
  int64_t block_floats() const { return block_rows() * score_stride() + (block_rows() + 15) / 16 * 16; }
};

// [tokens][3 channels] to keys [panel of tokens][width][token] and values [panel of
// channels][tokens][channel].
void PackHead(const Geometry& g, const float* qkv, int64_t head, float* keys, float* values) {
  const int64_t stride = 3 * g.channels;
  const float* k = qkv + g.channels + head * g.width;
  const float* v = qkv + 2 * g.channels + head * g.width;
  for (int64_t panel = 0; panel < g.key_panels; panel++) {
    float* to = keys + panel * g.width * g.panel;
    for (int64_t n = 0; n < g.panel; n++) {
      const int64_t token = panel * g.panel + n;
      for (int64_t c = 0; c < g.width; c++)
        to[c * g.panel + n] = token < g.tokens ? k[token * stride + c] : 0.0f;
    }
  }
  for (int64_t panel = 0; panel < g.value_panels; panel++) {
    float* to = values + panel * g.tokens * g.panel;
    const int64_t first = panel * g.panel, count = std::min(g.panel, g.width - first);
    for (int64_t token = 0; token < g.tokens; token++, to += g.panel) {
      std::copy_n(v + token * stride + first, count, to);
      std::fill(to + count, to + g.panel, 0.0f);
    }
  }
}

// Queries [first, end) of one head.
void AttendBlock(const Geometry& g, const float* q, const float* keys, const float* values, float scale,
                 int64_t first, int64_t end, float* block, float* y) {
  const Kernels& kernels = ActiveKernels();
  const int64_t rows = end - first;
  float* inverse_sums = block + g.block_rows() * g.score_stride();
  const void* a[64];

  const auto product = [&](const float* from, int64_t from_stride, const float* b, int64_t depth, float* to,
                           int64_t to_stride, int64_t columns) {
    for (int64_t panel = 0; panel * g.panel < columns; panel++) {
      for (int64_t row = 0; row < rows; row += g.strip_rows) {
        const int64_t count = std::min(g.strip_rows, rows - row);
        for (int64_t i = 0; i < count; i++) a[i] = from + (row + i) * from_stride;
        kernels.matmul({a, b + panel * depth * g.panel, static_cast<int>(count), 1, depth, nullptr,
                        Activation::kNone, nullptr, to + row * to_stride + panel * g.panel, to_stride,
                        static_cast<int>(std::min(g.panel, columns - panel * g.panel))});
      }
    }
  };
  product(q + first * 3 * g.channels, 3 * g.channels, keys, g.width, block, g.score_stride(), g.tokens);
  kernels.softmax(block, rows, g.tokens, g.score_stride(), scale, inverse_sums);
  float* out = y + first * g.channels;
  product(block, g.score_stride(), values, g.tokens, out, g.channels, g.width);
  kernels.scale_rows(out, rows, g.width, g.channels, inverse_sums);
}

}  // namespace

CompiledOp Compile(const Attention& op, Compiler& compiler) {
  const std::vector<int64_t>& y = compiler.value(op.y).shape;
  const int64_t panel = ActiveKernels().panel, width = y[2] / op.heads;
  const Geometry g{y[0],
                   y[1],
                   y[2],
                   op.heads,
                   width,
                   panel,
                   (y[1] + panel - 1) / panel,
                   (width + panel - 1) / panel,
                   ActiveKernels().strip_rows};
  const int64_t packed_floats = g.heads * (g.key_floats() + g.value_floats());

  CompiledOp compiled;
  compiled.scratch_bytes = [=] { return (packed_floats + Threads() * g.block_floats()) * 4; };
  compiled.run = [=](const Frame& frame) {
    float* packed = reinterpret_cast<float*>(frame.scratch);
    float* blocks = packed + packed_floats;
    const int64_t head_floats = g.key_floats() + g.value_floats();
    const int64_t head_blocks = (g.tokens + g.block_rows() - 1) / g.block_rows();
    for (int64_t image = 0; image < g.batch; image++) {
      const float* qkv = frame.at(op.x) + image * g.tokens * 3 * g.channels;
      float* out = frame.at(op.y) + image * g.tokens * g.channels;
      ParallelRanges(g.heads, 1, [&](int, int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; head++) {
          float* keys = packed + head * head_floats;
          PackHead(g, qkv, head, keys, keys + g.key_floats());
        }
      });
      ParallelRanges(g.heads * head_blocks, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t head = i / head_blocks, first = i % head_blocks * g.block_rows();
          const float* keys = packed + head * head_floats;
          AttendBlock(g, qkv + head * g.width, keys, keys + g.key_floats(), op.scale, first,
                      std::min(first + g.block_rows(), g.tokens), blocks + thread * g.block_floats(),
                      out + head * g.width);
        }
      });
    }
  };
  return compiled;
}

}  // namespace tokenflow

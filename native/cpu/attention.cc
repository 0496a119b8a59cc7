// softmax(scale q k^T) v per head. The keys of an image are turned and the values packed into panels once;
// then a block of queries at a time has its scores, their softmax and the product with the values, so that no
// more scores exist than a thread's block. In bf16 the factors of both products are rounded; scores, softmax and
// sums stay in fp32.
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/matmul.h"
#include "cpu/op.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kBlockRows = 48;

int64_t Lines(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

struct Geometry {
  int64_t batch, tokens, channels, heads, width;  // width: channels of a head
  bool bf16;
  int64_t panel, key_panels, value_panels, strip_rows;

  int64_t element() const { return bf16 ? 2 : 4; }
  int64_t key_depth() const { return bf16 ? EvenDepth(width) : width; }
  int64_t value_depth() const { return bf16 ? EvenDepth(tokens) : tokens; }
  int64_t key_bytes() const { return key_panels * key_depth() * panel * element(); }  // of a head
  int64_t value_bytes() const { return value_panels * value_depth() * panel * element(); }
  int64_t head_bytes() const { return Lines(key_bytes()) + Lines(value_bytes()); }
  // A thread's block: scores, inverse sums, and in bf16 the rounded queries or softmax, or a panel that is packed.
  int64_t score_stride() const { return key_panels * panel; }
  int64_t score_bytes() const { return kBlockRows * score_stride() * 4; }
  int64_t rounded_bytes() const {
    const int64_t rows = kBlockRows * std::max(key_depth(), value_depth()) * 2;
    const int64_t packing = panel * std::max<int64_t>(2, key_depth()) * 4;
    return bf16 ? Lines(std::max(rows, packing)) : 0;
  }
  int64_t block_bytes() const { return score_bytes() + Lines(kBlockRows * 4) + rounded_bytes(); }
};

// [tokens][3 channels] to keys [panel of tokens][width][token] and values [panel of channels][tokens][channel].
void PackHead(const Geometry& g, const float* qkv, int64_t head, float* keys, float* values) {
  const Kernels& kernels = ActiveKernels();
  const int64_t stride = 3 * g.channels;
  const float* k = qkv + g.channels + head * g.width;
  const float* v = qkv + 2 * g.channels + head * g.width;
  for (int64_t first = 0; first < g.tokens; first += g.panel, keys += g.width * g.panel) {
    const int64_t count = std::min(g.panel, g.tokens - first);
    if (count < g.panel) std::memset(keys, 0, g.width * g.panel * 4);
    kernels.transpose(k + first * stride, stride, count, g.width, keys, g.panel);
  }
  for (int64_t first = 0; first < g.width; first += g.panel) {
    const int64_t count = std::min(g.panel, g.width - first);
    for (int64_t token = 0; token < g.tokens; token++, values += g.panel) {
      std::copy_n(v + token * stride + first, count, values);
      std::fill(values + count, values + g.panel, 0.0f);
    }
  }
}

// The same in pairs of bf16: keys [panel][width / 2][token][2], values [panel][tokens / 2][channel][2].
void PackHeadBf16(const Geometry& g, const float* qkv, int64_t head, float* packing, uint16_t* keys,
                  uint16_t* values) {
  const Kernels& kernels = ActiveKernels();
  const int64_t stride = 3 * g.channels, depth = g.key_depth();
  const float* k = qkv + g.channels + head * g.width;
  const float* v = qkv + 2 * g.channels + head * g.width;
  uint16_t* rows = reinterpret_cast<uint16_t*>(packing);
  for (int64_t first = 0; first < g.tokens; first += g.panel, keys += depth * g.panel) {
    const int64_t count = std::min(g.panel, g.tokens - first);
    for (int64_t i = 0; i < count; i++) {
      kernels.to_bf16(k + (first + i) * stride, g.width, rows + i * depth);
      if (depth > g.width) rows[i * depth + g.width] = 0;
    }
    if (count < g.panel) std::memset(keys, 0, depth * g.panel * 2);
    kernels.transpose(packing, depth / 2, count, depth / 2, reinterpret_cast<float*>(keys), g.panel);
  }
  for (int64_t first = 0; first < g.width; first += g.panel) {
    const int64_t count = std::min(g.panel, g.width - first);
    std::fill(packing, packing + 2 * g.panel, 0.0f);
    for (int64_t token = 0; token < g.tokens; token += 2, values += 2 * g.panel) {
      const float* even = v + token * stride + first;
      const bool pair = token + 1 < g.tokens;
      for (int64_t n = 0; n < count; n++) {
        packing[2 * n] = even[n];
        packing[2 * n + 1] = pair ? even[stride + n] : 0.0f;
      }
      kernels.to_bf16(packing, 2 * g.panel, values);
    }
  }
}

// Queries [first, end) of one head.
void AttendBlock(const Geometry& g, const float* q, const char* keys, const char* values, float scale,
                 int64_t first, int64_t end, char* block, float* y) {
  const Kernels& kernels = ActiveKernels();
  const int64_t rows = end - first;
  float* scores = reinterpret_cast<float*>(block);
  float* inverse_sums = reinterpret_cast<float*>(block + g.score_bytes());
  uint16_t* rounded = reinterpret_cast<uint16_t*>(block + g.score_bytes() + Lines(kBlockRows * 4));

  const auto product = [&](const void* from, int64_t from_bytes, const char* b, int64_t depth, float* to,
                           int64_t to_stride, int64_t columns) {
    const void* a[kBlockRows];
    for (int64_t i = 0; i < rows; i++) a[i] = static_cast<const char*>(from) + i * from_bytes;
    for (int64_t column = 0; column < columns; column += g.panel, b += depth * g.panel * g.element()) {
      for (int64_t row = 0; row < rows; row += g.strip_rows) {
        MatmulStrip strip;
        strip.a = a + row;
        strip.b = b;
        strip.rows = static_cast<int>(std::min(g.strip_rows, rows - row));
        strip.depth = depth;
        strip.y = to + row * to_stride + column;
        strip.stride = to_stride;
        strip.columns = static_cast<int>(std::min(g.panel, columns - column));
        (g.bf16 ? kernels.matmul_bf16 : kernels.matmul)(strip);
      }
    }
  };
  // Rows of fp32, rounded and filled up to an even number by a zero; or as they are.
  const auto factor = [&](const float* from, int64_t stride, int64_t depth, int64_t even) -> const void* {
    if (!g.bf16) return from;
    for (int64_t row = 0; row < rows; row++) {
      kernels.to_bf16(from + row * stride, depth, rounded + row * even);
      if (even > depth) rounded[row * even + depth] = 0;
    }
    return rounded;
  };
  const int64_t stride = 3 * g.channels;
  product(factor(q + first * stride, stride, g.width, g.key_depth()), g.bf16 ? g.key_depth() * 2 : stride * 4,
          keys, g.key_depth(), scores, g.score_stride(), g.tokens);
  kernels.softmax(scores, rows, g.tokens, g.score_stride(), scale, inverse_sums);
  float* out = y + first * g.channels;
  product(factor(scores, g.score_stride(), g.tokens, g.value_depth()),
          g.bf16 ? g.value_depth() * 2 : g.score_stride() * 4, values, g.value_depth(), out, g.channels,
          g.width);
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
                   compiler.precision == Precision::kBf16,
                   panel,
                   (y[1] + panel - 1) / panel,
                   (width + panel - 1) / panel,
                   ActiveKernels().strip_rows};

  CompiledOp compiled;
  compiled.scratch_bytes = [=] { return g.heads * g.head_bytes() + Threads() * g.block_bytes(); };
  compiled.run = [=](const Frame& frame) {
    char* const blocks = frame.scratch + g.heads * g.head_bytes();
    const int64_t head_blocks = (g.tokens + kBlockRows - 1) / kBlockRows;
    for (int64_t image = 0; image < g.batch; image++) {
      const float* qkv = frame.at(op.x) + image * g.tokens * 3 * g.channels;
      float* out = frame.at(op.y) + image * g.tokens * g.channels;
      ParallelRanges(g.heads, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; head++) {
          char* keys = frame.scratch + head * g.head_bytes();
          char* values = keys + Lines(g.key_bytes());
          if (g.bf16) {
            float* packing =
                reinterpret_cast<float*>(blocks + (thread + 1) * g.block_bytes() - g.rounded_bytes());
            PackHeadBf16(g, qkv, head, packing, reinterpret_cast<uint16_t*>(keys),
                         reinterpret_cast<uint16_t*>(values));
          } else {
            PackHead(g, qkv, head, reinterpret_cast<float*>(keys), reinterpret_cast<float*>(values));
          }
        }
      });
      ParallelRanges(g.heads * head_blocks, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t head = i / head_blocks, first = i % head_blocks * kBlockRows;
          const char* keys = frame.scratch + head * g.head_bytes();
          AttendBlock(g, qkv + head * g.width, keys, keys + Lines(g.key_bytes()), op.scale, first,
                      std::min(first + kBlockRows, g.tokens), blocks + thread * g.block_bytes(),
                      out + head * g.width);
        }
      });
    }
  };
  return compiled;
}

}  // namespace tokenflow

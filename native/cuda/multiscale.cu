// The multi-scale residual quantiser (codebook/multiscale.h) without a round trip to the host. For each scale s:
//
//   u = mean of the residual over each cell's bin             PoolKernel, a thread per (cell, channel)
//   index = nearest code of every cell                        lookup.cu: prepare, nearest or screen, settle
//   up = bicubic of the codes to g x g                        AddKernel, a thread per (pixel, channel):
//   sum += up, residual -= up                                  4 x 4 taps read straight from the codebook
//
// Neighbouring threads hold neighbouring channels of one pixel, so every load and store is contiguous; the codes of one image
// (at most g g rows) stay in the cache. Nothing is in shared memory, so the grid side is unlimited, and the work spreads
// over the card at any batch. Five launches a scale, in a CUDA graph with the rest of an encode.
//
// Every sum has the order of the CPU's loops (bins by rows then columns; taps ascending, columns before rows), products and
// sums rounded separately: the bits are the same.
#include "arena.h"
#include "multiscale.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t elements) {
  return static_cast<unsigned>(DivideUp<int64_t>(elements, kThreads));
}

// residual = features, sum = 0.
__global__ void __launch_bounds__(kThreads)
    StartKernel(const float* features, int64_t count, float* residual, float* sum) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  if (residual != nullptr) residual[i] = features[i];
  sum[i] = 0.0f;
}

struct PoolArgs {
  const float* residual;  // [batch][g][g][dim]
  int64_t count;          // batch s s dim
  int grid, scale, dim;
  float* cells;  // [batch][s][s][dim]
};

__global__ void __launch_bounds__(kThreads) PoolKernel(PoolArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const int channel = static_cast<int>(i % a.dim);
  const int64_t cell = i / a.dim;
  const int column = static_cast<int>(cell % a.scale);
  const int row = static_cast<int>(cell / a.scale % a.scale);
  const int64_t image = cell / (static_cast<int64_t>(a.scale) * a.scale);
  const int top = row * a.grid / a.scale, bottom = ((row + 1) * a.grid + a.scale - 1) / a.scale;
  const int left = column * a.grid / a.scale, right = ((column + 1) * a.grid + a.scale - 1) / a.scale;
  const float* pixels = a.residual + image * a.grid * a.grid * a.dim + channel;
  float sum = 0.0f;
  for (int y = top; y < bottom; y++) {
    for (int x = left; x < right; x++) sum += pixels[(static_cast<int64_t>(y) * a.grid + x) * a.dim];
  }
  a.cells[i] = __fdiv_rn(sum, static_cast<float>((bottom - top) * (right - left)));
}

struct AddArgs {
  const int32_t* indices;  // of image b from indices + b * stride on: [s][s]
  int64_t indices_stride;
  const BicubicUp::Taps* taps;  // [g]
  const float* codes;           // [codes][code_stride]
  int64_t code_count;
  int code_stride;
  int64_t count;  // batch g g dim
  int grid, scale, dim;
  float* sum;       // [batch][g][g][dim]
  float* residual;  // likewise, or null
  int32_t* tokens;  // where the indices go: image b from tokens + b * tokens_stride on, or null
  int64_t tokens_stride;
  int* invalid;
};

__global__ void __launch_bounds__(kThreads) AddKernel(AddArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  const int channel = static_cast<int>(i % a.dim);
  const int64_t pixel = i / a.dim;
  const int x = static_cast<int>(pixel % a.grid);
  const int y = static_cast<int>(pixel / a.grid % a.grid);
  const int64_t image = pixel / (static_cast<int64_t>(a.grid) * a.grid);
  const int32_t* indices = a.indices + image * a.indices_stride;
  const auto code = [&](int row, int column) {
    const int32_t index = indices[row * a.scale + column];
    return index < 0 || index >= a.code_count
               ? 0.0f
               : a.codes[static_cast<int64_t>(index) * a.code_stride + channel];
  };

  float up;
  if (a.scale == a.grid) {
    up = code(y, x);
  } else {
    const BicubicUp::Taps rows = a.taps[y], columns = a.taps[x];
    up = 0.0f;
#pragma unroll
    for (int v = 0; v < 4; v++) {
      float wide = 0.0f;
#pragma unroll
      for (int h = 0; h < 4; h++) wide += code(rows.at[v], columns.at[h]) * columns.weight[h];
      up += wide * rows.weight[v];
    }
  }
  a.sum[i] += up;
  if (a.residual != nullptr) a.residual[i] -= up;

  // The first threads of an image pass its indices on, and look at them.
  const int64_t place = i - image * a.grid * a.grid * a.dim;
  if (place < static_cast<int64_t>(a.scale) * a.scale) {
    const int32_t index = indices[place];
    if (index < 0 || index >= a.code_count) *a.invalid = 1;
    if (a.tokens != nullptr) a.tokens[image * a.tokens_stride + place] = index;
  }
}

int64_t Tokens(const std::vector<int>& scales, size_t count) {
  int64_t total = 0;
  for (size_t i = 0; i < count; i++) total += static_cast<int64_t>(scales[i]) * scales[i];
  return total;
}

LookupPlan PlanFor(int64_t batch, int scale, const CodebookView& book, const CardShape& card) {
  return PlanLookup(batch * scale * scale, book.padded, book.dim, 1, card);
}

struct Workspace {
  float* residual;   // [batch][g][g][dim]
  float* cells;      // [batch][g][g][dim], as many as the largest scale has
  int32_t* indices;  // [batch][g][g]
  unsigned char* lookup;

  Workspace(Arena& arena, int64_t batch, const std::vector<int>& scales, const CodebookView& book,
            const CardShape& card) {
    const int64_t pixels = batch * scales.back() * scales.back();
    residual = arena.Take<float>(pixels * book.dim);
    cells = arena.Take<float>(pixels * book.dim);
    indices = arena.Take<int32_t>(pixels);
    size_t most = 0;
    for (int scale : scales)
      most = std::max(most, LookupWorkspaceBytes(book, PlanFor(batch, scale, book, card)));
    lookup = arena.Take<unsigned char>(static_cast<int64_t>(most));
  }
};

}  // namespace

std::vector<BicubicUp::Taps> MultiscaleTaps(const std::vector<int>& scales) {
  std::vector<BicubicUp::Taps> all;
  for (int scale : scales) {
    const BicubicUp up(scale, scales.back());
    all.insert(all.end(), up.taps().begin(), up.taps().end());
  }
  return all;
}

size_t MultiscaleWorkspaceBytes(int64_t batch, const std::vector<int>& scales, const CodebookView& book,
                                const CardShape& card) {
  Arena arena(nullptr);
  Workspace counted(arena, batch, scales, book, card);
  return arena.used();
}

void MultiscaleEncode(const float* features, int64_t batch, const std::vector<int>& scales,
                      const BicubicUp::Taps* taps, const CodebookView& book, const CardShape& card,
                      int32_t* tokens, float* sum, int* invalid, void* workspace, cudaStream_t stream) {
  if (batch == 0) return;
  const int grid = scales.back();
  const int64_t elements = batch * grid * grid * book.dim;
  const int64_t all_tokens = Tokens(scales, scales.size());
  Arena arena(workspace);
  Workspace space(arena, batch, scales, book, card);
  Launch(StartKernel, dim3(Blocks(elements)), dim3(kThreads), 0, stream, features, elements, space.residual,
         sum);
  for (size_t s = 0; s < scales.size(); s++) {
    const int scale = scales[s];
    const int64_t cells = batch * scale * scale;
    const PoolArgs pool{space.residual, cells * book.dim, grid, scale, book.dim, space.cells};
    Launch(PoolKernel, dim3(Blocks(pool.count)), dim3(kThreads), 0, stream, pool);
    const NearestResult found{space.indices, nullptr, nullptr, 0, nullptr};
    Lookup(space.cells, cells, book, 1, PlanFor(batch, scale, book, card), found, space.lookup, stream);
    const AddArgs add{space.indices,
                      static_cast<int64_t>(scale) * scale,
                      taps + s * grid,
                      book.codes,
                      book.count,
                      book.stride,
                      elements,
                      grid,
                      scale,
                      book.dim,
                      sum,
                      space.residual,
                      tokens + Tokens(scales, s),
                      all_tokens,
                      invalid};
    Launch(AddKernel, dim3(Blocks(elements)), dim3(kThreads), 0, stream, add);
  }
}

void MultiscaleDecode(const int32_t* tokens, int64_t batch, const std::vector<int>& scales, int scale_count,
                      const BicubicUp::Taps* taps, const CodebookView& book, float* sum, int* invalid,
                      cudaStream_t stream) {
  if (batch == 0) return;
  const int grid = scales.back();
  const int64_t elements = batch * grid * grid * book.dim;
  const int64_t given = Tokens(scales, scale_count);
  Launch(StartKernel, dim3(Blocks(elements)), dim3(kThreads), 0, stream, static_cast<const float*>(nullptr),
         elements, static_cast<float*>(nullptr), sum);
  for (int s = 0; s < scale_count; s++) {
    const AddArgs add{tokens + Tokens(scales, s),
                      given,
                      taps + static_cast<int64_t>(s) * grid,
                      book.codes,
                      book.count,
                      book.stride,
                      elements,
                      grid,
                      scales[s],
                      book.dim,
                      sum,
                      nullptr,
                      nullptr,
                      0,
                      invalid};
    Launch(AddKernel, dim3(Blocks(elements)), dim3(kThreads), 0, stream, add);
  }
}

}  // namespace tokenflow::cuda

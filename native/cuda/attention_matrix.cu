// Attention by way of the matrix of scores, from the matrix products of gemm.cu and sgemm.cu:
//
//   S = q k^T per head     rows and columns read where the packed linear layer left q and k
//   P = softmax(scale S)   a warp per row, max and sum by shuffles, columns padded to 16 bytes with zeros
//   V turned to [width][tokens], so that the next product finds its k contiguous
//   y = P V                written where the head's channels lie
//
// This is the way of every f32 program, where each score and each output is one chain of fused multiply-adds, and of the
// single heads of 512 or 1024 channels, whose outputs would not fit into the registers of attention.cu. Images are taken in
// passes, so the scores need at most kPassBytes (or one image).
#include <algorithm>

#include "activation.cuh"
#include "arena.h"
#include "attention_matrix.cuh"
#include "gemm.cuh"
#include "row8.cuh"
#include "sgemm.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kPassBytes = int64_t{128} << 20;

// Row of S to row of P; P may lie over S when the types agree (each element is read before its own place is written).
template <class T>
__global__ void __launch_bounds__(kThreads) SoftmaxKernel(const float* scores, int64_t rows, int tokens,
                                                          int score_stride, float scale, T* p, int p_stride) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + (threadIdx.x >> 5);
  if (row >= rows) return;  // whole warps leave
  const float* s = scores + row * score_stride;
  float most = -INFINITY;
  for (int c = lane; c < tokens; c += 32) most = fmaxf(most, s[c] * scale);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, step));
  float total = 0.0f;
  for (int c = lane; c < tokens; c += 32) total += Exp(s[c] * scale - most);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(kFullWarp, total, step);
  const float inverse = __fdiv_rn(1.0f, total);
  for (int c = lane; c < p_stride; c += 32) {
    StoreOne(p + row * p_stride + c, c < tokens ? Exp(s[c] * scale - most) * inverse : 0.0f);
  }
}

// v [tokens][3 heads width] of every (image, head) to [width][token_stride], zeros from tokens on.
template <class T>
__global__ void __launch_bounds__(kThreads)
    TurnKernel(const T* v, int64_t count, int tokens, int heads, int width, int token_stride, T* turned) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int channel = static_cast<int>(i % width);
  const int token = static_cast<int>(i / width % token_stride);
  const int64_t image_head = i / width / token_stride;
  const int64_t image = image_head / heads, head = image_head % heads;
  T value{};
  if (token < tokens) value = v[((image * tokens + token) * 3 * heads + head) * width + channel];
  turned[(image_head * width + channel) * token_stride + token] = value;
}

template <class T>
constexpr int kChunk = 16 / sizeof(T);

template <class T>
struct Workspace {
  int64_t per_pass;  // images
  int stride;        // of a row of scores, probabilities and turned values
  float* scores;     // [images heads][tokens][stride]
  T* p;              // likewise; the scores themselves for float
  T* turned;         // [images heads][width][stride]

  Workspace(Arena& arena, int64_t images, int tokens, int heads, int width) {
    stride = DivideUp(tokens, 8) * 8;
    const int64_t image_scores = static_cast<int64_t>(heads) * tokens * stride;
    per_pass = std::clamp<int64_t>(kPassBytes / (image_scores * 4), 1, std::max<int64_t>(images, 1));
    scores = arena.Take<float>(per_pass * image_scores);
    if constexpr (sizeof(T) == sizeof(float)) {
      p = scores;
    } else {
      p = arena.Take<T>(per_pass * image_scores);
    }
    turned = arena.Take<T>(per_pass * heads * width * stride);
  }
};

void Multiply(const MatrixRows<float>& a, const PackedColumns<float>& w, int count, int multiprocessors,
              const ResultRows<float>& y, cudaStream_t stream) {
  Sgemm(a, w, count, Epilogue{nullptr, false, Activation::kNone, nullptr}, multiprocessors, y, stream);
}

template <class Out>
void Multiply(const MatrixRows<uint16_t>& a, const PackedColumns<uint16_t>& w, int count, int multiprocessors,
              const ResultRows<Out>& y, cudaStream_t stream) {
  const GemmTile tile = ChooseGemmTile(a.rows, w.columns, count, multiprocessors);
  Gemm(a, w, count, Epilogue{nullptr, false, Activation::kNone, nullptr}, tile, y, w.columns, stream);
}

}  // namespace

template <class T>
size_t AttentionMatrixBytes(int64_t images, int tokens, int heads, int width) {
  Arena arena(nullptr);
  const Workspace<T> counted(arena, images, tokens, heads, width);
  return arena.used();
}

template <class T>
void AttentionMatrix(const T* qkv, int64_t images, int tokens, int heads, int width, float scale,
                     int multiprocessors, T* y, void* workspace, cudaStream_t stream) {
  if (images == 0 || tokens == 0) return;
  if (width < 1 || width % kChunk<T> != 0) {
    throw InvalidArgument("Expected heads of a width that is a multiple of " + std::to_string(kChunk<T>) +
                          " but received " + std::to_string(width));
  }
  Arena arena(workspace);
  const Workspace<T> space(arena, images, tokens, heads, width);
  const int64_t channels = static_cast<int64_t>(heads) * width;
  const Batch packed{heads, tokens * 3 * channels, width};
  const Batch square{1, static_cast<int64_t>(tokens) * space.stride, 0};
  for (int64_t begin = 0; begin < images; begin += space.per_pass) {
    const int64_t now = std::min(space.per_pass, images - begin);
    const int count = static_cast<int>(now * heads);
    const T* q = qkv + begin * tokens * 3 * channels;
    Multiply(MatrixRows<T>{q, tokens, width, 3 * channels, packed},
             PackedColumns<T>{q + channels, tokens, 3 * channels, packed}, count, multiprocessors,
             ResultRows<float>{space.scores, space.stride, square}, stream);
    const int64_t rows = static_cast<int64_t>(count) * tokens;
    Launch(SoftmaxKernel<T>, dim3(static_cast<unsigned>(DivideUp<int64_t>(rows, kThreads / 32))),
           dim3(kThreads), 0, stream, static_cast<const float*>(space.scores), rows, tokens, space.stride,
           scale, space.p, space.stride);
    const int64_t elements = static_cast<int64_t>(count) * width * space.stride;
    Launch(TurnKernel<T>, dim3(static_cast<unsigned>(DivideUp<int64_t>(elements, kThreads))), dim3(kThreads),
           0, stream, q + 2 * channels, elements, tokens, heads, width, space.stride, space.turned);
    Multiply(MatrixRows<T>{space.p, tokens, space.stride, space.stride, square},
             PackedColumns<T>{
                 space.turned, width, space.stride, {1, static_cast<int64_t>(width) * space.stride, 0}},
             count, multiprocessors,
             ResultRows<T>{y + begin * tokens * channels, channels, {heads, tokens * channels, width}},
             stream);
  }
}

template size_t AttentionMatrixBytes<float>(int64_t, int, int, int);
template size_t AttentionMatrixBytes<uint16_t>(int64_t, int, int, int);
template void AttentionMatrix(const float*, int64_t, int, int, int, float, int, float*, void*, cudaStream_t);
template void AttentionMatrix(const uint16_t*, int64_t, int, int, int, float, int, uint16_t*, void*,
                              cudaStream_t);

}  // namespace tokenflow::cuda

// The screen with AVX2: 7-bit codes by 8-bit queries, pairs of products into 16 bits.
//
// A code's byte is at most 127 and a query's at most 127 in magnitude, so a pair of products is at most
// 2 * 127 * 127 = 32258 and vpmaddubsw never saturates. The sums of 16 bits may wrap on the way: only the
// last one counts, and the caller has made sure that it fits. Tiles of up to 5 queries by 2 vectors of 16
// codes.
#include <immintrin.h>

#include "cpu/screen_kernels.h"

namespace tokenflow {

namespace {

#include "cpu/screen_rows.inc"

constexpr int kRowsMax = 5;
constexpr int kVectors = 2;
constexpr int kSteps = kBlockCodes / kVectors;

// Seeds of 16 codes, rounded, as 16-bit numbers.
inline __m256i Seed(const float* seeds, __m256 inverse) {
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(inverse, _mm256_load_ps(seeds)));
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(inverse, _mm256_load_ps(seeds + 8)));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

inline void StoreLower(int32_t* value, int32_t* least, __m128i low16) {
  const __m256i low = _mm256_cvtepi16_epi32(low16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(value), low);
  __m256i* lane = reinterpret_cast<__m256i*>(least);
  _mm256_storeu_si256(lane, _mm256_min_epi32(_mm256_loadu_si256(lane), low));
}

template <int kRows>
void Sweep(const ScreenView& view, int64_t first, int64_t last, const int32_t* words,
           const int32_t* row_offsets, float inverse_scale, int32_t* values, int64_t stride, int32_t* least,
           int64_t least_stride) {
  const __m256 inverse = _mm256_set1_ps(inverse_scale);
  const uint8_t* bytes = view.bytes + first * kSuperBlock * 2 * view.words;
  const float* seeds = view.seeds + first * kSuperBlock;
  for (int64_t super = first; super < last; super++, values += 16) {
    __m256i lowest[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) lowest[r] = _mm256_set1_epi16(INT16_MAX);
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; step++, seeds += kVectors * 16) {
      __m256i acc[kRows][kVectors];
      const __m256i seed0 = Seed(seeds, inverse), seed1 = Seed(seeds + 16, inverse);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) {
        const __m256i offset = _mm256_set1_epi16(static_cast<int16_t>(row_offsets[r]));
        acc[r][0] = _mm256_add_epi16(seed0, offset);
        acc[r][1] = _mm256_add_epi16(seed1, offset);
      }
#pragma GCC unroll 1
      for (int word = 0; word < view.words; word++, bytes += kVectors * 32) {
        const __m256i code0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
        const __m256i code1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes + 32));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
          const __m256i q = _mm256_set1_epi32(words[word * kRows + r]);
          acc[r][0] = _mm256_add_epi16(acc[r][0], _mm256_maddubs_epi16(code0, q));
          acc[r][1] = _mm256_add_epi16(acc[r][1], _mm256_maddubs_epi16(code1, q));
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) {
        lowest[r] = _mm256_min_epi16(lowest[r], _mm256_min_epi16(acc[r][0], acc[r][1]));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      int32_t* lanes = least + r * least_stride;
      StoreLower(values + r * stride, lanes, _mm256_castsi256_si128(lowest[r]));
      StoreLower(values + r * stride + 8, lanes + 8, _mm256_extracti128_si256(lowest[r], 1));
    }
  }
}

// The pair twice over, since lanes are pairs of 16 bits and a broadcast has 32.
void Join(const int8_t* q, int32_t* word) {
  int8_t* bytes = reinterpret_cast<int8_t*>(word);
  bytes[0] = bytes[2] = q[0];
  bytes[1] = bytes[3] = q[1];
}

int Scan(const int32_t* values, int64_t count, int32_t threshold, int most, int32_t* places) {
  const __m256i limit = _mm256_set1_epi32(threshold);
  int found = 0;
  for (int64_t at = 0; at < count; at += 8) {  // count is a multiple of 16
    const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + at));
    unsigned above = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(value, limit)));
    for (unsigned below = ~above & 0xff; __builtin_expect(below != 0, 0); below &= below - 1) {
      if (found == most) return found;
      places[found++] = static_cast<int32_t>(at + __builtin_ctz(below));
    }
  }
  return found;
}

// Scores of a panel: two vectors of 8.
inline __attribute__((always_inline)) void ScorePanel(const ExactView& view, int32_t block, const float* y,
                                                      __m256 (&score)[2]) {
  const int dim = view.panels.dim;
  const float* code = view.panels.codes + int64_t{block} * kPanelCodes * dim;
  score[0] = _mm256_load_ps(view.panels.norms + int64_t{block} * kPanelCodes);
  score[1] = _mm256_load_ps(view.panels.norms + int64_t{block} * kPanelCodes + 8);
  for (int k = 0; k < dim; k++) {
    const __m256 element = _mm256_broadcast_ss(y + k);
    score[0] = _mm256_fmadd_ps(element, _mm256_load_ps(code + k * kPanelCodes), score[0]);
    score[1] = _mm256_fmadd_ps(element, _mm256_load_ps(code + k * kPanelCodes + 8), score[1]);
  }
}

void ExactBest(const ExactView& view, const int32_t* blocks, int count, const float* y, LaneBest* best) {
  for (int i = 0; i < count; i++) {
    __m256 score[2];
    ScorePanel(view, blocks[i], y, score);
    for (int v = 0; v < 2; v++) {
      const __m256i index = _mm256_load_si256(
          reinterpret_cast<const __m256i*>(view.indices + int64_t{blocks[i]} * kPanelCodes + v * 8));
      const __m256 best_score = _mm256_load_ps(best->score + v * 8);
      const __m256i best_index = _mm256_load_si256(reinterpret_cast<const __m256i*>(best->index + v * 8));
      const __m256 less = _mm256_cmp_ps(score[v], best_score, _CMP_LT_OQ);
      const __m256 equal = _mm256_cmp_ps(score[v], best_score, _CMP_EQ_OQ);
      const __m256 lower = _mm256_castsi256_ps(_mm256_cmpgt_epi32(best_index, index));
      const __m256 before = _mm256_or_ps(less, _mm256_and_ps(equal, lower));
      _mm256_store_ps(best->score + v * 8, _mm256_blendv_ps(best_score, score[v], before));
      _mm256_store_ps(reinterpret_cast<float*>(best->index + v * 8),
                      _mm256_blendv_ps(_mm256_castsi256_ps(best_index), _mm256_castsi256_ps(index), before));
    }
  }
}

void ExactTop(const ExactView& view, const int32_t* blocks, int count, const float* y, TopState* top) {
  for (int i = 0; i < count; i++) {
    __m256 score[2];
    ScorePanel(view, blocks[i], y, score);
    alignas(32) float scores[kPanelCodes];
    _mm256_store_ps(scores, score[0]);
    _mm256_store_ps(scores + 8, score[1]);
    const int32_t* indices = view.indices + int64_t{blocks[i]} * kPanelCodes;
    for (int lane = 0; lane < kPanelCodes; lane++) {
      // Equal scores too: the order of the codes here is not that of their indices.
      if (!(scores[lane] <= top->threshold) || !(scores[lane] < __builtin_inff())) continue;
      top->scores[top->count] = scores[lane];
      top->indices[top->count++] = indices[lane];
    }
    if (top->count > top->limit) CutTop(top);
  }
}

}  // namespace

const ScreenKernels& Avx2Screen() {
  static const ScreenKernels kernels = {
      "int7-avx2",
      kRowsMax,
      2,
      kVectors,
      63,
      false,
      {nullptr, Sweep<1>, Sweep<2>, Sweep<3>, Sweep<4>, Sweep<5>},
      ShiftQuery,
      QuantiseQuery,
      Join,
      Minimum,
      Scan,
      ExactBest,
      ExactTop,
  };
  return kernels;
}

}  // namespace tokenflow

// The screen with AVX-512 VNNI: unsigned 8-bit codes by signed 8-bit queries, four products a lane into 32
// bits.
//
// Tiles of up to 6 queries by 4 vectors of codes: 24 accumulators, 4 code vectors, 1 broadcast.
#include "cpu/screen_kernels.h"

// GCC 12 warns of the undefined operands in its own header (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace tokenflow {

namespace {

#include "cpu/screen_rows.inc"

constexpr int kRowsMax = 6;
constexpr int kVectors = 4;
constexpr int kSteps = kBlockCodes / kVectors;

// kWords is the number of words where it is known to be small, else 0.
template <int kRows, int kWords>
inline __attribute__((always_inline)) void SweepWords(const ScreenView& view, int64_t first, int64_t last,
                                                      const int32_t* words, float inverse_scale,
                                                      int32_t* values, int64_t stride, int32_t* least,
                                                      int64_t least_stride) {
  const int count = kWords > 0 ? kWords : view.words;
  const __m512 inverse = _mm512_set1_ps(inverse_scale);
  const uint8_t* bytes = view.bytes + first * kSuperBlock * 4 * count;
  const float* seeds = view.seeds + first * kSuperBlock;
  for (int64_t super = first; super < last; super++, values += 16) {
    __m512i lowest[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) lowest[r] = _mm512_set1_epi32(INT32_MAX);
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; step++) {
      __m512i acc[kRows][kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++, seeds += 16) {
        const __m512i seed = _mm512_cvtps_epi32(_mm512_mul_ps(inverse, _mm512_load_ps(seeds)));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) acc[r][v] = seed;
      }
      const auto multiply = [&](int word) __attribute__((always_inline)) {
        __m512i code[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) code[v] = _mm512_load_si512(bytes + v * 64);
        bytes += kVectors * 64;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
          const __m512i q = _mm512_set1_epi32(words[word * kRows + r]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; v++) {
            // In assembly: from the intrinsic GCC 12 makes a copy of the accumulator in memory.
            asm("vpdpbusd %2, %1, %0" : "+v"(acc[r][v]) : "v"(code[v]), "v"(q));
          }
        }
      };
      if (kWords > 0) {
#pragma GCC unroll 4
        for (int word = 0; word < kWords; word++) multiply(word);
      } else {
#pragma GCC unroll 1
        for (int word = 0; word < count; word++) multiply(word);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) {
        const __m512i low =
            _mm512_min_epi32(_mm512_min_epi32(acc[r][0], acc[r][1]), _mm512_min_epi32(acc[r][2], acc[r][3]));
        lowest[r] = _mm512_min_epi32(lowest[r], low);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      _mm512_storeu_si512(values + r * stride, lowest[r]);
      int32_t* lane = least + r * least_stride;
      _mm512_storeu_si512(lane, _mm512_min_epi32(_mm512_loadu_si512(lane), lowest[r]));
    }
  }
}

template <int kRows>
void Sweep(const ScreenView& view, int64_t first, int64_t last, const int32_t* words, const int32_t*,
           float inverse_scale, int32_t* values, int64_t stride, int32_t* least, int64_t least_stride) {
  if (view.words == 2) {
    SweepWords<kRows, 2>(view, first, last, words, inverse_scale, values, stride, least, least_stride);
  } else {
    SweepWords<kRows, 0>(view, first, last, words, inverse_scale, values, stride, least, least_stride);
  }
}

void Join(const int8_t* q, int32_t* word) {
  __builtin_memcpy(word, q, 4);
}

int Scan(const int32_t* values, int64_t count, int32_t threshold, int most, int32_t* places) {
  const __m512i limit = _mm512_set1_epi32(threshold);
  int found = 0;
  for (int64_t at = 0; at < count; at += 16) {
    const __mmask16 valid = count - at < 16 ? static_cast<__mmask16>((1u << (count - at)) - 1) : 0xffff;
    const __m512i value = _mm512_maskz_loadu_epi32(valid, values + at);
    unsigned below = _mm512_mask_cmple_epi32_mask(valid, value, limit);
    for (; __builtin_expect(below != 0, 0); below &= below - 1) {
      if (found == most) return found;
      places[found++] = static_cast<int32_t>(at + __builtin_ctz(below));
    }
  }
  return found;
}

// Scores of up to 4 panels at once, so that their chains overlap.
template <int kCount>
inline __attribute__((always_inline)) void ScorePanels(const ExactView& view, const int32_t* blocks,
                                                       const float* y, __m512 (&score)[kCount]) {
  const int dim = view.panels.dim;
  const float* code[kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i++) {
    code[i] = view.panels.codes + int64_t{blocks[i]} * kPanelCodes * dim;
    score[i] = _mm512_load_ps(view.panels.norms + int64_t{blocks[i]} * kPanelCodes);
  }
  for (int k = 0; k < dim; k++) {
    const __m512 element = _mm512_set1_ps(y[k]);
#pragma GCC unroll 4
    for (int i = 0; i < kCount; i++) {
      score[i] = _mm512_fmadd_ps(element, _mm512_load_ps(code[i] + k * kPanelCodes), score[i]);
    }
  }
}

template <class Use>
inline __attribute__((always_inline)) void ForScores(const ExactView& view, const int32_t* blocks, int count,
                                                     const float* y, Use use) {
  const auto pass = [&](auto& score, int first, int size) __attribute__((always_inline)) {
    ScorePanels(view, blocks + first, y, score);
    for (int i = 0; i < size; i++) {
      use(score[i], _mm512_load_si512(view.indices + int64_t{blocks[first + i]} * kPanelCodes));
    }
  };
  int first = 0;
  for (; first + 4 <= count; first += 4) {
    __m512 score[4];
    pass(score, first, 4);
  }
  for (; first + 2 <= count; first += 2) {
    __m512 score[2];
    pass(score, first, 2);
  }
  if (first < count) {
    __m512 score[1];
    pass(score, first, 1);
  }
}

void ExactBest(const ExactView& view, const int32_t* blocks, int count, const float* y, LaneBest* best) {
  __m512 best_score = _mm512_load_ps(best->score);
  __m512i best_index = _mm512_load_si512(best->index);
  ForScores(
      view, blocks, count, y, [&](__m512 score, __m512i index) __attribute__((always_inline)) {
        const __mmask16 less = _mm512_cmp_ps_mask(score, best_score, _CMP_LT_OQ);
        const __mmask16 equal = _mm512_cmp_ps_mask(score, best_score, _CMP_EQ_OQ);
        const __mmask16 before = less | (equal & _mm512_cmplt_epi32_mask(index, best_index));
        best_score = _mm512_mask_mov_ps(best_score, before, score);
        best_index = _mm512_mask_mov_epi32(best_index, before, index);
      });
  _mm512_store_ps(best->score, best_score);
  _mm512_store_si512(best->index, best_index);
}

void ExactTop(const ExactView& view, const int32_t* blocks, int count, const float* y, TopState* top) {
  ForScores(
      view, blocks, count, y, [&](__m512 score, __m512i index) __attribute__((always_inline)) {
        // Equal scores too: the order of the codes here is not that of their indices.
        const __m512 threshold = _mm512_set1_ps(top->threshold);
        const __mmask16 wanted = _mm512_cmp_ps_mask(score, threshold, _CMP_LE_OQ) &
                                 _mm512_cmp_ps_mask(score, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
        _mm512_storeu_ps(top->scores + top->count, _mm512_maskz_compress_ps(wanted, score));
        _mm512_storeu_si512(top->indices + top->count, _mm512_maskz_compress_epi32(wanted, index));
        top->count += __builtin_popcount(wanted);
        if (top->count > top->limit) CutTop(top);
      });
}

}  // namespace

const ScreenKernels& Avx512VnniScreen() {
  static const ScreenKernels kernels = {
      "int8-vnni",
      kRowsMax,
      4,
      kVectors,
      127,
      true,
      {nullptr, Sweep<1>, Sweep<2>, Sweep<3>, Sweep<4>, Sweep<5>, Sweep<6>},
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

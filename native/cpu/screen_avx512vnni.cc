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

#include "cpu/lookup_top_avx512.inc"

constexpr int kRowsMax = 6;
constexpr int kVectors = 4;
constexpr int kSteps = kBlockCodes / kVectors;

void RoundSeeds(const float* seeds, int64_t count, float inverse_scale, RoundedSeeds* rounded) {
  const __m512 inverse = _mm512_set1_ps(inverse_scale);
  for (int64_t at = 0; at < count * kSuperBlock; at += 16) {
    const __m512i seed = _mm512_cvtps_epi32(_mm512_mul_ps(inverse, _mm512_load_ps(seeds + at)));
    _mm512_store_si512(rounded->values + at, seed);
  }
}

template <int kRows>
void Sweep(const ScreenView& view, int64_t first, int64_t last, const int32_t* words, const int32_t*,
           const RoundedSeeds* rounded, int32_t* values, int64_t stride, int32_t* least,
           int64_t least_stride) {
  const uint8_t* bytes = view.bytes + first * kSuperBlock * 4 * view.words;
  const int32_t* seeds = rounded->values;
  int32_t* value = values;
  for (int64_t super = first; super < last; super++, value += 16) {
    __m512i lowest[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) lowest[r] = _mm512_set1_epi32(INT32_MAX);
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; step++) {
      __m512i acc[kRows][kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++, seeds += 16) {
        const __m512i seed = _mm512_load_si512(seeds);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) acc[r][v] = seed;
      }
#pragma GCC unroll 1
      for (int word = 0; word < view.words; word++, bytes += kVectors * 64) {
        __m512i code[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) code[v] = _mm512_load_si512(bytes + v * 64);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
          const __m512i q = _mm512_set1_epi32(words[word * kRows + r]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; v++) {
            // In assembly: from the intrinsic GCC 12 makes a copy of the accumulator in memory.
            asm("vpdpbusd %2, %1, %0" : "+v"(acc[r][v]) : "v"(code[v]), "v"(q));
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) lowest[r] = _mm512_min_epi32(lowest[r], acc[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) _mm512_storeu_si512(value + r * stride, lowest[r]);
  }
  // Read again rather than updated on the way: stores of 64 bytes are the scarcest of what the loop needs.
  for (int r = 0; r < kRows; r++) {
    int32_t* lanes = least + r * least_stride;
    __m512i lowest = _mm512_loadu_si512(lanes);
    for (int64_t at = 0; at < (last - first) * 16; at += 16) {
      lowest = _mm512_min_epi32(lowest, _mm512_loadu_si512(values + r * stride + at));
    }
    _mm512_storeu_si512(lanes, lowest);
  }
}

float SizeOf(const float* y, const float* shift, int dim) {
  __m512 most = _mm512_setzero_ps();
  for (int k = 0; k < dim; k += 16) {
    const __mmask16 valid = dim - k < 16 ? static_cast<__mmask16>((1u << (dim - k)) - 1) : 0xffff;
    const __m512 value =
        _mm512_add_ps(_mm512_maskz_loadu_ps(valid, y + k), _mm512_maskz_loadu_ps(valid, shift + k));
    most = _mm512_max_ps(most, _mm512_abs_ps(value));
  }
  return _mm512_reduce_max_ps(most);
}

void QuantiseQuery(const float* y, const float* shift, const float* centre, int dim, double scale, int8_t* q,
                   QuantisedQuery* out) {
  const __m256 inverse = _mm256_set1_ps(static_cast<float>(1.0 / scale));
  const __m256 limit = _mm256_set1_ps(127.0f), lower = _mm256_set1_ps(-127.0f);
  const __m512d step = _mm512_set1_pd(scale);
  __m512d y_square = _mm512_setzero_pd(), q_square = y_square, residual = y_square, along = y_square;
  __m256i sum = _mm256_setzero_si256();
  for (int k = 0; k < dim; k += 8) {
    const int left = dim - k;
    const __mmask8 valid = left < 8 ? static_cast<__mmask8>((1u << left) - 1) : 0xff;
    const __m256 y_k = _mm256_maskz_loadu_ps(valid, y + k), shift_k = _mm256_maskz_loadu_ps(valid, shift + k);
    const __m256 scaled = _mm256_mul_ps(_mm256_add_ps(y_k, shift_k), inverse);
    const __m256i level = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(scaled, limit), lower));
    const __m128i bytes = _mm256_cvtepi32_epi8(level);
    __builtin_memcpy(q + k, &bytes, left < 8 ? left : 8);
    sum = _mm256_add_epi32(sum, level);
    const __m512d element = _mm512_cvtps_pd(y_k);
    const __m512d rounded = _mm512_mul_pd(_mm512_cvtepi32_pd(level), step);
    const __m512d moved = _mm512_add_pd(element, _mm512_cvtps_pd(shift_k));
    const __m512d off = _mm512_sub_pd(moved, rounded);  // of the exact shifted query
    y_square = _mm512_fmadd_pd(element, element, y_square);
    q_square = _mm512_fmadd_pd(rounded, rounded, q_square);
    residual = _mm512_fmadd_pd(off, off, residual);
    along = _mm512_fmadd_pd(element, _mm512_cvtps_pd(_mm256_maskz_loadu_ps(valid, centre + k)), along);
  }
  out->y_norm = __builtin_sqrt(_mm512_reduce_add_pd(y_square));
  out->q_norm = __builtin_sqrt(_mm512_reduce_add_pd(q_square));
  out->residual = __builtin_sqrt(_mm512_reduce_add_pd(residual));
  out->along = _mm512_reduce_add_pd(along);
  out->sum = _mm512_reduce_add_epi32(_mm512_zextsi256_si512(sum));
}

void Join(const int8_t* q, int count, int32_t* words, int stride) {
  for (int word = 0; word < count; word++) __builtin_memcpy(words + word * stride, q + word * 4, 4);
}

int32_t Minimum(const int32_t* values, int64_t count) {
  __m512i least = _mm512_set1_epi32(INT32_MAX);
  for (int64_t at = 0; at < count; at += 16) least = _mm512_min_epi32(least, _mm512_loadu_si512(values + at));
  return _mm512_reduce_min_epi32(least);
}

int64_t CountAtMost(const int32_t* values, int64_t count, int32_t threshold) {
  const __m512i limit = _mm512_set1_epi32(threshold);
  int64_t found = 0;
  for (int64_t at = 0; at < count; at += 16) {
    found += __builtin_popcount(_mm512_cmple_epi32_mask(_mm512_loadu_si512(values + at), limit));
  }
  return found;
}

int Scan(const int32_t* values, int64_t count, int32_t threshold, int64_t first, int32_t* places) {
  const __m512i limit = _mm512_set1_epi32(threshold);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int found = 0;
  for (int64_t at = 0; at < count; at += 64) {
    __mmask16 below[4] = {};
    const int64_t vectors = count - at < 64 ? (count - at) / 16 : 4;
    for (int64_t v = 0; v < vectors; v++) {
      below[v] = _mm512_cmple_epi32_mask(_mm512_loadu_si512(values + at + v * 16), limit);
    }
    if ((below[0] | below[1] | below[2] | below[3]) == 0) continue;
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      const __m512i place = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first + at + v * 16)));
      _mm512_storeu_si512(places + found, _mm512_maskz_compress_epi32(below[v], place));
      found += __builtin_popcount(below[v]);
    }
  }
  return found;
}

// Panels come from the third-level cache, or from memory where others fill that: those of the tasks this far ahead are
// fetched line by line while earlier ones are scored. Long panels are left to the processor, which follows them by itself:
// so many would not stay in the first-level cache.
constexpr int kTasksAhead = 8;
constexpr int kLongestFetched = 64;  // dim

inline const float* PanelOf(const ExactView& view, const ExactTask& task) {
  return view.panels.codes + int64_t{task.block} * kPanelCodes * view.panels.dim;
}

inline void FetchNormsAndIndices(const ExactView& view, const ExactTask& task) {
  __builtin_prefetch(view.panels.norms + int64_t{task.block} * kPanelCodes);
  __builtin_prefetch(view.indices + int64_t{task.block} * kPanelCodes);
}

// Scores of several panels at once, so that their chains overlap.
template <int kCount>
inline __attribute__((always_inline)) void ScorePanels(const ExactView& view, const ExactTask* tasks,
                                                       const ExactTask* (&ahead)[kCount],
                                                       __m512 (&score)[kCount]) {
  const int dim = view.panels.dim;
  const float *code[kCount], *next[kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i++) {
    code[i] = PanelOf(view, tasks[i]);
    next[i] = PanelOf(view, *ahead[i]);
    FetchNormsAndIndices(view, *ahead[i]);
    score[i] = _mm512_load_ps(view.panels.norms + int64_t{tasks[i].block} * kPanelCodes);
  }
#pragma GCC unroll 1
  for (int k = 0; k < dim; k++) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; i++) {
      __builtin_prefetch(next[i] + k * kPanelCodes);
      score[i] =
          _mm512_fmadd_ps(_mm512_set1_ps(tasks[i].y[k]), _mm512_load_ps(code[i] + k * kPanelCodes), score[i]);
    }
  }
}

// Calls use(task, scores, indices) for each task.
template <class Use>
inline __attribute__((always_inline)) void ForScores(const ExactView& view, const ExactTask* tasks, int count,
                                                     Use use) {
  const int tasks_ahead = view.panels.dim <= kLongestFetched ? kTasksAhead : 0;
  for (int i = 0; i < count && i < tasks_ahead; i++) {
    FetchNormsAndIndices(view, tasks[i]);
    for (int k = 0; k < view.panels.dim; k++) __builtin_prefetch(PanelOf(view, tasks[i]) + k * kPanelCodes);
  }
  const auto pass = [&](auto& score, auto& ahead, int first, int size) __attribute__((always_inline)) {
    for (int i = 0; i < size; i++) {
      const int there = first + i + tasks_ahead;
      ahead[i] = tasks + (there < count ? there : count - 1);
    }
    ScorePanels(view, tasks + first, ahead, score);
#pragma GCC unroll 4
    for (int i = 0; i < size; i++) {
      const ExactTask& task = tasks[first + i];
      use(task, score[i], _mm512_load_si512(view.indices + int64_t{task.block} * kPanelCodes));
    }
  };
  int first = 0;
  for (; first + 4 <= count; first += 4) {
    __m512 score[4];
    const ExactTask* ahead[4];
    pass(score, ahead, first, 4);
  }
  for (; first < count; first++) {
    __m512 score[1];
    const ExactTask* ahead[1];
    pass(score, ahead, first, 1);
  }
}

void ExactBest(const ExactView& view, const ExactTask* tasks, int count, LaneBest* bests) {
  ForScores(
      view, tasks,
      count, [&](const ExactTask& task, __m512 score, __m512i index) __attribute__((always_inline)) {
        LaneBest& best = bests[task.place];
        const __m512 best_score = _mm512_load_ps(best.score);
        const __m512i best_index = _mm512_load_si512(best.index);
        const __mmask16 less = _mm512_cmp_ps_mask(score, best_score, _CMP_LT_OQ);
        const __mmask16 equal = _mm512_cmp_ps_mask(score, best_score, _CMP_EQ_OQ);
        const __mmask16 before = less | (equal & _mm512_cmplt_epi32_mask(index, best_index));
        _mm512_store_ps(best.score, _mm512_mask_mov_ps(best_score, before, score));
        _mm512_store_si512(best.index, _mm512_mask_mov_epi32(best_index, before, index));
      });
}

Candidate BestOf(const LaneBest& lanes) {
  const __m512 score = _mm512_load_ps(lanes.score);
  const float least = _mm512_reduce_min_ps(score);
  const __mmask16 equal = _mm512_cmp_ps_mask(score, _mm512_set1_ps(least), _CMP_EQ_OQ);
  return {least, _mm512_mask_reduce_min_epi32(equal, _mm512_load_si512(lanes.index))};
}

void ExactTop(const ExactView& view, const ExactTask* tasks, int count, TopState* tops) {
  ForScores(
      view, tasks,
      count, [&](const ExactTask& task, __m512 score, __m512i index) __attribute__((always_inline)) {
        TopState* top = tops + task.place;
        // Equal scores too: the order of the codes here is not that of their indices.
        const __m512 threshold = _mm512_set1_ps(top->threshold);
        const __mmask16 wanted = _mm512_cmp_ps_mask(score, threshold, _CMP_LE_OQ) &
                                 _mm512_cmp_ps_mask(score, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
        if (top->k <= kMaxSortedTop) {
          if (wanted != 0) InsertTop(score, index, wanted, top);
          return;
        }
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
      RoundSeeds,
      SizeOf,
      QuantiseQuery,
      Join,
      Minimum,
      CountAtMost,
      Scan,
      BestOf,
      ExactBest,
      ExactTop,
  };
  return kernels;
}

}  // namespace tokenflow

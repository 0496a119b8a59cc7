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

constexpr int kRowsMax = 5;
constexpr int kVectors = 2;
constexpr int kSteps = kBlockCodes / kVectors;

// Seeds of 16 codes, rounded, as 16-bit numbers.
inline __m256i Seed(const float* seeds, __m256 inverse) {
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(inverse, _mm256_load_ps(seeds)));
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(inverse, _mm256_load_ps(seeds + 8)));
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

// As 16-bit numbers, in the first half of their room.
void RoundSeeds(const float* seeds, int64_t count, float inverse_scale, RoundedSeeds* rounded) {
  const __m256 inverse = _mm256_set1_ps(inverse_scale);
  for (int64_t super = 0; super < count; super++) {
    __m256i* out = reinterpret_cast<__m256i*>(rounded[super].values);
    for (int at = 0; at < kSuperBlock; at += 16, seeds += 16) _mm256_store_si256(out++, Seed(seeds, inverse));
  }
}

template <int kRows>
void Sweep(const ScreenView& view, int64_t first, int64_t last, const int32_t* words,
           const int32_t* row_offsets, const RoundedSeeds* rounded, int32_t* values, int64_t stride,
           int32_t* least, int64_t least_stride) {
  const uint8_t* bytes = view.bytes + first * kSuperBlock * 2 * view.words;
  int32_t* value = values;
  for (int64_t super = first; super < last; super++, rounded++, value += 16) {
    const __m256i* seeds = reinterpret_cast<const __m256i*>(rounded->values);
    __m256i lowest[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) lowest[r] = _mm256_set1_epi16(INT16_MAX);
#pragma GCC unroll 1
    for (int step = 0; step < kSteps; step++, seeds += kVectors) {
      __m256i acc[kRows][kVectors];
      const __m256i seed0 = _mm256_load_si256(seeds), seed1 = _mm256_load_si256(seeds + 1);
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
      __m256i* out = reinterpret_cast<__m256i*>(value + r * stride);
      _mm256_storeu_si256(out, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(lowest[r])));
      _mm256_storeu_si256(out + 1, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(lowest[r], 1)));
    }
  }
  for (int r = 0; r < kRows; r++) {
    __m256i* lanes = reinterpret_cast<__m256i*>(least + r * least_stride);
    __m256i low = _mm256_loadu_si256(lanes), high = _mm256_loadu_si256(lanes + 1);
    const __m256i* stored = reinterpret_cast<const __m256i*>(values + r * stride);
    for (int64_t super = first; super < last; super++, stored += 2) {
      low = _mm256_min_epi32(low, _mm256_loadu_si256(stored));
      high = _mm256_min_epi32(high, _mm256_loadu_si256(stored + 1));
    }
    _mm256_storeu_si256(lanes, low);
    _mm256_storeu_si256(lanes + 1, high);
  }
}

float SizeOf(const float* y, const float* shift, int dim) {
  float most = 0.0f;
  for (int k = 0; k < dim; k++) {
    const float magnitude = __builtin_fabsf(y[k] + shift[k]);
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

void QuantiseQuery(const float* y, const float* shift, const float* centre, int dim, double scale, int8_t* q,
                   QuantisedQuery* out) {
  const float inverse = static_cast<float>(1.0 / scale);
  constexpr int kChains = 4;  // sums side by side, so that no addition waits for another
  double y_square[kChains] = {}, q_square[kChains] = {}, residual[kChains] = {}, along[kChains] = {};
  int32_t sum = 0;
  for (int k = 0; k < dim; k++) {
    const float value = __builtin_rintf((y[k] + shift[k]) * inverse);
    const int level = static_cast<int>(value > 127.0f ? 127.0f : value < -127.0f ? -127.0f : value);
    q[k] = static_cast<int8_t>(level);
    sum += level;
    const int c = k % kChains;
    const double element = y[k], rounded = level * scale;
    const double off = element + shift[k] - rounded;  // of the exact shifted query
    y_square[c] += element * element;
    q_square[c] += rounded * rounded;
    residual[c] += off * off;
    along[c] += element * centre[k];
  }
  const auto total = [](const double(&s)[kChains]) { return (s[0] + s[1]) + (s[2] + s[3]); };
  out->y_norm = __builtin_sqrt(total(y_square));
  out->q_norm = __builtin_sqrt(total(q_square));
  out->residual = __builtin_sqrt(total(residual));
  out->along = total(along);
  out->sum = sum;
}

int32_t Minimum(const int32_t* values, int64_t count) {
  int32_t least = INT32_MAX;
  for (int64_t i = 0; i < count; i++) least = values[i] < least ? values[i] : least;
  return least;
}

int64_t CountAtMost(const int32_t* values, int64_t count, int32_t threshold) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i++) found += values[i] <= threshold;
  return found;
}

// The pair twice over, since lanes are pairs of 16 bits and a broadcast has 32.
void Join(const int8_t* q, int count, int32_t* words, int stride) {
  for (int word = 0; word < count; word++) {
    int8_t* bytes = reinterpret_cast<int8_t*>(words + word * stride);
    bytes[0] = bytes[2] = q[2 * word];
    bytes[1] = bytes[3] = q[2 * word + 1];
  }
}

int Scan(const int32_t* values, int64_t count, int32_t threshold, int64_t first, int32_t* places) {
  const __m256i limit = _mm256_set1_epi32(threshold);
  int found = 0;
  for (int64_t at = 0; at < count; at += 8) {
    const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + at));
    unsigned above = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(value, limit)));
    for (unsigned below = ~above & 0xff; __builtin_expect(below != 0, 0); below &= below - 1) {
      places[found++] = static_cast<int32_t>(first + at + __builtin_ctz(below));
    }
  }
  return found;
}

// Scores of several panels at once, so that their chains overlap: two vectors of 8 each.
template <int kCount>
inline __attribute__((always_inline)) void ScorePanels(const ExactView& view, const ExactTask* tasks,
                                                       __m256 (&score)[kCount][2]) {
  const int dim = view.panels.dim;
  const float* code[kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i++) {
    code[i] = view.panels.codes + int64_t{tasks[i].block} * kPanelCodes * dim;
    score[i][0] = _mm256_load_ps(view.panels.norms + int64_t{tasks[i].block} * kPanelCodes);
    score[i][1] = _mm256_load_ps(view.panels.norms + int64_t{tasks[i].block} * kPanelCodes + 8);
  }
#pragma GCC unroll 1
  for (int k = 0; k < dim; k++) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; i++) {
      const __m256 element = _mm256_broadcast_ss(tasks[i].y + k);
      score[i][0] = _mm256_fmadd_ps(element, _mm256_load_ps(code[i] + k * kPanelCodes), score[i][0]);
      score[i][1] = _mm256_fmadd_ps(element, _mm256_load_ps(code[i] + k * kPanelCodes + 8), score[i][1]);
    }
  }
}

// Calls use(task, scores) for each task.
template <class Use>
inline __attribute__((always_inline)) void ForScores(const ExactView& view, const ExactTask* tasks, int count,
                                                     Use use) {
  int first = 0;
  for (; first + 4 <= count; first += 4) {
    __m256 score[4][2];
    ScorePanels(view, tasks + first, score);
    for (int i = 0; i < 4; i++) use(tasks[first + i], score[i]);
  }
  for (; first < count; first++) {
    __m256 score[1][2];
    ScorePanels(view, tasks + first, score);
    use(tasks[first], score[0]);
  }
}

void ExactBest(const ExactView& view, const ExactTask* tasks, int count, LaneBest* bests) {
  ForScores(
      view, tasks, count, [&](const ExactTask& task, __m256(&score)[2]) __attribute__((always_inline)) {
        LaneBest* best = bests + task.place;
        for (int v = 0; v < 2; v++) {
          const __m256i index = _mm256_load_si256(
              reinterpret_cast<const __m256i*>(view.indices + int64_t{task.block} * kPanelCodes + v * 8));
          const __m256 best_score = _mm256_load_ps(best->score + v * 8);
          const __m256i best_index = _mm256_load_si256(reinterpret_cast<const __m256i*>(best->index + v * 8));
          const __m256 less = _mm256_cmp_ps(score[v], best_score, _CMP_LT_OQ);
          const __m256 equal = _mm256_cmp_ps(score[v], best_score, _CMP_EQ_OQ);
          const __m256 lower = _mm256_castsi256_ps(_mm256_cmpgt_epi32(best_index, index));
          const __m256 before = _mm256_or_ps(less, _mm256_and_ps(equal, lower));
          _mm256_store_ps(best->score + v * 8, _mm256_blendv_ps(best_score, score[v], before));
          _mm256_store_ps(
              reinterpret_cast<float*>(best->index + v * 8),
              _mm256_blendv_ps(_mm256_castsi256_ps(best_index), _mm256_castsi256_ps(index), before));
        }
      });
}

Candidate BestOf(const LaneBest& lanes) {
  Candidate best{lanes.score[0], lanes.index[0]};
  for (int lane = 1; lane < 16; lane++) {
    if (Before(lanes.score[lane], lanes.index[lane], best.score, best.index)) {
      best = {lanes.score[lane], lanes.index[lane]};
    }
  }
  return best;
}

void ExactTop(const ExactView& view, const ExactTask* tasks, int count, TopState* tops) {
  ForScores(
      view, tasks, count, [&](const ExactTask& task, __m256(&score)[2]) __attribute__((always_inline)) {
        TopState* top = tops + task.place;
        alignas(32) float scores[kPanelCodes];
        _mm256_store_ps(scores, score[0]);
        _mm256_store_ps(scores + 8, score[1]);
        const int32_t* indices = view.indices + int64_t{task.block} * kPanelCodes;
        for (int lane = 0; lane < kPanelCodes; lane++) {
          // Equal scores too: the order of the codes here is not that of their indices.
          if (!(scores[lane] <= top->threshold) || !(scores[lane] < __builtin_inff())) continue;
          top->scores[top->count] = scores[lane];
          top->indices[top->count++] = indices[lane];
        }
        if (top->count > top->limit) CutTop(top);
      });
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

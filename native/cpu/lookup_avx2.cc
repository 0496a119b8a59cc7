// The lookup with AVX2 and FMA: tiles of up to 6 queries by 1 panel (16 codes, two vectors).
//
// 12 accumulators, 2 vectors of codes and 1 broadcast query element fill 15 of the 16 registers.
#include <immintrin.h>

#include "cpu/lookup_kernels.h"

namespace tokenflow {

namespace {

#include "cpu/lookup_rows.inc"

constexpr int kRowsMax = 6;
constexpr int kLanes = 8;
constexpr int kVectors = kPanelCodes / kLanes;

// The scores of kRows queries against the 16 codes of a panel.
template <int kRows>
inline __attribute__((always_inline)) void Scores(const PanelView& view, int64_t panel, const float* tile,
                                                  __m256 (&acc)[kRows][kVectors]) {
  const float* code = view.codes + panel * kPanelCodes * view.dim;
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; v++) {
    const __m256 norm = _mm256_load_ps(view.norms + panel * kPanelCodes + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) acc[r][v] = norm;
  }
#pragma GCC unroll 1
  for (int k = 0; k < view.dim; k++) {
    const __m256 c0 = _mm256_load_ps(code + k * kPanelCodes);
    const __m256 c1 = _mm256_load_ps(code + k * kPanelCodes + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const __m256 y = _mm256_broadcast_ss(tile + k * kRows + r);
      acc[r][0] = _mm256_fmadd_ps(y, c0, acc[r][0]);
      acc[r][1] = _mm256_fmadd_ps(y, c1, acc[r][1]);
    }
  }
}

// _mm256_min_ps returns its second operand when either is NaN: a NaN score never replaces `than`.
inline __m256 Smaller(__m256 score, __m256 than) {
  return _mm256_min_ps(score, than);
}

template <int kRows>
void Fold(const PanelView& view, int64_t first, int64_t last, const float* tile, LaneState* states) {
  for (int64_t panel = first; panel < last; panel++) {
    __m256 acc[kRows][kVectors];
    Scores<kRows>(view, panel, tile, acc);
    const __m256i here = _mm256_set1_epi32(static_cast<int>(panel));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const __m256 best = _mm256_load_ps(states[r].best);
      const __m256 least = Smaller(acc[r][1], Smaller(acc[r][0], best));
      const __m256 better = _mm256_cmp_ps(least, best, _CMP_LT_OQ);
      _mm256_store_ps(states[r].best, least);
      _mm256_maskstore_epi32(states[r].tile, _mm256_castps_si256(better), here);
    }
  }
}

template <int kRows>
void FoldTop(const PanelView& view, int64_t first, int64_t last, const float* tile, TopState* tops) {
  for (int64_t panel = first; panel < last; panel++) {
    __m256 acc[kRows][kVectors];
    Scores<kRows>(view, panel, tile, acc);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      TopState& top = tops[r];
      const __m256 threshold = _mm256_set1_ps(top.threshold);
      const __m256 least = Smaller(acc[r][1], Smaller(acc[r][0], threshold));
      if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(least, threshold, _CMP_LT_OQ)) == 0, 1)) continue;
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) {
        alignas(32) float scores[kLanes];
        _mm256_store_ps(scores, acc[r][v]);
        unsigned below = _mm256_movemask_ps(_mm256_cmp_ps(acc[r][v], threshold, _CMP_LT_OQ));
        for (; below != 0; below &= below - 1) {
          const int lane = __builtin_ctz(below);
          top.scores[top.count] = scores[lane];
          top.indices[top.count++] = static_cast<int32_t>(panel * kPanelCodes + v * kLanes + lane);
        }
      }
      if (top.count > top.limit) CutTop(&top);
    }
  }
}

Candidate Resolve(const RowView& rows, const float* y, const LaneState& state) {
  float least = __builtin_inff();
  for (int lane = 0; lane < kLanes; lane++) least = state.best[lane] < least ? state.best[lane] : least;
  if (!(least < __builtin_inff())) return {least, kNoCode};
  int32_t first = INT32_MAX;
  for (int lane = 0; lane < kLanes; lane++) {
    if (state.best[lane] != least) continue;
    const int32_t index =
        FirstScored<kVectors>(rows, y, state.tile[lane] * kPanelCodes + lane, kLanes, least);
    first = index < first ? index : first;
  }
  return {least, first};
}

void Approach(const RowView& rows, const LaneState& state) {
  int best = 0;
  for (int lane = 1; lane < kLanes; lane++) best = state.best[lane] < state.best[best] ? lane : best;
  if (!(state.best[best] < __builtin_inff())) return;  // no lane has found a code
  ApproachRows(rows, kVectors, state.tile[best] * kPanelCodes + best, kLanes);
}

}  // namespace

const LookupKernels& Avx2Lookup() {
  static const LookupKernels kernels = {
      kRowsMax,
      {nullptr, Fold<1>, Fold<2>, Fold<3>, Fold<4>, Fold<5>, Fold<6>},
      {nullptr, FoldTop<1>, FoldTop<2>, FoldTop<3>, FoldTop<4>, FoldTop<5>, FoldTop<6>},
      Resolve,
      Approach,
      PrepareQuery,
      DistancesOf,
  };
  return kernels;
}

}  // namespace tokenflow

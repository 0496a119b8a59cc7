// The lookup with AVX-512: tiles of up to 6 queries by 4 panels (64 codes).
//
// 24 accumulators, 4 vectors of codes and 1 broadcast query element fill 29 of the 32 registers; each code
// vector that is loaded serves 6 multiply-adds, each broadcast 4, so the two load ports are busy 10 cycles
// of 12.
#include <immintrin.h>

#include "cpu/lookup_kernels.h"

namespace tokenflow {

namespace {

#include "cpu/lookup_rows.inc"
#include "cpu/lookup_top_avx512.inc"

constexpr int kRowsMax = 6;
constexpr int kVectors = kPanelGroup;

// The scores of kRows queries against the 64 codes of a group of panels.
template <int kRows>
inline __attribute__((always_inline)) void Scores(const PanelView& view, int64_t panel, const float* tile,
                                                  __m512 (&acc)[kRows][kVectors]) {
  const int64_t stride = static_cast<int64_t>(view.dim) * kPanelCodes;
  const float* code[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; v++) {
    code[v] = view.codes + (panel + v) * stride;
    const __m512 norm = _mm512_load_ps(view.norms + (panel + v) * kPanelCodes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) acc[r][v] = norm;
  }
#pragma GCC unroll 1
  for (int k = 0; k < view.dim; k++) {
    __m512 c[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) c[v] = _mm512_load_ps(code[v] + k * kPanelCodes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const __m512 y = _mm512_set1_ps(tile[k * kRows + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) acc[r][v] = _mm512_fmadd_ps(y, c[v], acc[r][v]);
    }
  }
}

// _mm512_min_ps returns its second operand when either is NaN: a NaN score never replaces `than`.
inline __m512 Smaller(__m512 score, __m512 than) {
  return _mm512_min_ps(score, than);
}

template <int kRows>
void Fold(const PanelView& view, int64_t first, int64_t last, const float* tile, LaneState* states) {
  for (int64_t panel = first; panel < last; panel += kPanelGroup) {
    __m512 acc[kRows][kVectors];
    Scores<kRows>(view, panel, tile, acc);
    const __m512i here = _mm512_set1_epi32(static_cast<int>(panel));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const __m512 best = _mm512_load_ps(states[r].best);
      __m512 least = best;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) least = Smaller(acc[r][v], least);
      _mm512_store_ps(states[r].best, least);
      _mm512_mask_store_epi32(states[r].tile, _mm512_cmp_ps_mask(least, best, _CMP_LT_OQ), here);
    }
  }
}

template <int kRows>
void FoldTop(const PanelView& view, int64_t first, int64_t last, const float* tile, TopState* tops) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t panel = first; panel < last; panel += kPanelGroup) {
    __m512 acc[kRows][kVectors];
    Scores<kRows>(view, panel, tile, acc);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      TopState& top = tops[r];
      const __m512 threshold = _mm512_set1_ps(top.threshold);
      __m512 least = threshold;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) least = Smaller(acc[r][v], least);
      if (__builtin_expect(_mm512_cmp_ps_mask(least, threshold, _CMP_LT_OQ) == 0, 1)) continue;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        const __mmask16 below = _mm512_cmp_ps_mask(acc[r][v], threshold, _CMP_LT_OQ);
        const __m512i index = _mm512_add_epi32(lanes, _mm512_set1_epi32((panel + v) * kPanelCodes));
        if (top.k <= kMaxSortedTop) {
          if (below != 0) InsertTop(acc[r][v], index, below, &top);
          continue;
        }
        _mm512_storeu_ps(top.scores + top.count, _mm512_maskz_compress_ps(below, acc[r][v]));
        _mm512_storeu_si512(top.indices + top.count, _mm512_maskz_compress_epi32(below, index));
        top.count += __builtin_popcount(below);
      }
      if (top.count > top.limit) CutTop(&top);
    }
  }
}

Candidate Resolve(const RowView& rows, const float* y, const LaneState& state) {
  const __m512 best = _mm512_load_ps(state.best);
  const float least = _mm512_reduce_min_ps(best);
  if (!(least < __builtin_inff())) return {least, kNoCode};
  unsigned lanes = _mm512_cmp_ps_mask(best, _mm512_set1_ps(least), _CMP_EQ_OQ);
  int32_t first = INT32_MAX;
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    const int32_t index =
        FirstScored<kVectors>(rows, y, state.tile[lane] * kPanelCodes + lane, kPanelCodes, least);
    first = index < first ? index : first;
  }
  return {least, first};
}

void Approach(const RowView& rows, const LaneState& state) {
  const __m512 best = _mm512_load_ps(state.best);
  const float least = _mm512_reduce_min_ps(best);
  if (!(least < __builtin_inff())) return;  // no lane has found a code
  const __mmask16 lanes = _mm512_cmp_ps_mask(best, _mm512_set1_ps(least), _CMP_EQ_OQ);
  const int lane = __builtin_ctz(lanes);
  ApproachRows(rows, kVectors, state.tile[lane] * kPanelCodes + lane, kPanelCodes);
}

}  // namespace

const LookupKernels& Avx512Lookup() {
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

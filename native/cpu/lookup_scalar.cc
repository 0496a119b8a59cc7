// The lookup without vector instructions: the definition of codebook/score.h, word for word.
#include <cmath>

#include "cpu/lookup_kernels.h"

namespace tokenflow {

namespace {

#include "cpu/lookup_rows.inc"

float Score(const PanelView& view, int64_t panel, int lane, const float* y, int stride) {
  float score = view.norms[panel * kPanelCodes + lane];
  const float* code = view.codes + panel * kPanelCodes * view.dim + lane;
  for (int k = 0; k < view.dim; k++) score = std::fma(y[k * stride], code[k * kPanelCodes], score);
  return score;
}

template <int kRows>
void Fold(const PanelView& view, int64_t first, int64_t last, const float* tile, LaneState* states) {
  for (int64_t panel = first; panel < last; panel++) {
    for (int lane = 0; lane < kPanelCodes; lane++) {
      for (int r = 0; r < kRows; r++) {
        const float score = Score(view, panel, lane, tile + r, kRows);
        if (!(score < states[r].best[0])) continue;
        states[r].best[0] = score;
        states[r].tile[0] = static_cast<int32_t>(panel * kPanelCodes + lane);  // one lane: the code itself
      }
    }
  }
}

template <int kRows>
void FoldTop(const PanelView& view, int64_t first, int64_t last, const float* tile, TopState* tops) {
  for (int64_t panel = first; panel < last; panel++) {
    for (int lane = 0; lane < kPanelCodes; lane++) {
      for (int r = 0; r < kRows; r++) {
        TopState& top = tops[r];
        const float score = Score(view, panel, lane, tile + r, kRows);
        if (!(score < top.threshold)) continue;
        top.scores[top.count] = score;
        top.indices[top.count++] = static_cast<int32_t>(panel * kPanelCodes + lane);
        if (top.count > top.limit) CutTop(&top);
      }
    }
  }
}

Candidate Resolve(const RowView&, const float*, const LaneState& state) {
  return {state.best[0], state.best[0] < INFINITY ? state.tile[0] : kNoCode};
}

void Approach(const RowView&, const LaneState&) {}  // the code is known

}  // namespace

const LookupKernels& ScalarLookup() {
  static const LookupKernels kernels = {
      4,
      {nullptr, Fold<1>, Fold<2>, Fold<3>, Fold<4>},
      {nullptr, FoldTop<1>, FoldTop<2>, FoldTop<3>, FoldTop<4>},
      Resolve,
      Approach,
      PrepareQuery,
      DistancesOf,
  };
  return kernels;
}

}  // namespace tokenflow

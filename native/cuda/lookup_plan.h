// How a lookup is carried out on a card: a pure function of its shape and of the card, testable without one. No plan
// changes a result.
#pragma once
#include <algorithm>
#include <cstdint>

#include "codebook/plan.h"
#include "lookup_view.h"

namespace tokenflow::cuda {

struct CardShape {
  int arch;  // 90 for compute capability 9.0
  int multiprocessors;
};

enum class LookupPath {
  kKeys,    // exact scores, running minimum per query: k = 1
  kMinima,  // exact scores, minima of groups
  kScreen,  // coarse scores, minima of groups, exact where the margin leaves a doubt
};

struct LookupPlan {
  LookupPath path;
  int splits;        // blocks that share the codes of one block of queries
  int64_t per_pass;  // queries at a time, so that the minima fit into kMinimaBytes
};

constexpr int64_t kMinimaBytes = int64_t{64} << 20;
constexpr int64_t kBlockQueries = 128;

// The screen costs two more passes over small arrays, so it wants work to save. Where it starts to pay is a guess from
// operation counts (twice the multiply-adds an exact kernel of one full wave does); no card has measured it.
constexpr int64_t kScreenWork = int64_t{1} << 31;

inline LookupPlan PlanLookup(int64_t queries, int64_t padded_codes, int dim, int k, const CardShape& card,
                             ScreenMode mode = ScreenMode::kAuto) {
  LookupPlan plan;
  const bool pays =
      mode == ScreenMode::kAuto ? queries * padded_codes >= kScreenWork / dim : mode == ScreenMode::kAlways;
  const bool screen = card.arch >= 80 && pays;
  plan.path = screen ? LookupPath::kScreen : k == 1 ? LookupPath::kKeys : LookupPath::kMinima;
  plan.per_pass = queries;
  if (plan.path != LookupPath::kKeys) {
    const int64_t row_bytes = padded_codes / kGroupCodes * 4;
    const int64_t rows = std::max<int64_t>(1, kMinimaBytes / row_bytes / kBlockQueries) * kBlockQueries;
    plan.per_pass = std::min(queries, rows);
  }
  // Two blocks live on a multiprocessor. Few queries make few blocks; the codes are then shared out until the card is
  // full, and the blocks' minima merge in any order.
  const int64_t query_tiles = std::max<int64_t>(1, (plan.per_pass + kBlockQueries - 1) / kBlockQueries);
  const int64_t tiles = padded_codes / kTileCodes;
  const int64_t wanted = int64_t{2} * card.multiprocessors;
  plan.splits = static_cast<int>(std::clamp<int64_t>((wanted + query_tiles - 1) / query_tiles, 1, tiles));
  return plan;
}

}  // namespace tokenflow::cuda

// How a lookup is carried out: a pure function of its shape and of the machine, so that it can be tested
// without either. No plan changes a result.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/lookup_kernels.h"
#include "runtime/cpu_features.h"

namespace tokenflow {

struct LookupPlan {
  bool split_codes;      // tasks share out the codes instead of the queries
  int64_t tasks;         // pieces of work, handed out to the threads
  int64_t share;         // queries of a task, or panels of a task
  int64_t block_panels;  // panels that stay in the first-level cache while the queries of a task pass
};

constexpr int64_t kBlockBytes = 24 << 10;  // half of a 48 KB first-level cache, the rest for what passes
constexpr int64_t kTaskBytes = 256 << 10;  // queries and their state, in the second-level cache

inline int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

inline LookupPlan PlanLookup(int64_t queries, int64_t panels, int dim, int tile_rows, int threads) {
  LookupPlan plan;
  const int64_t group_bytes = int64_t{kPanelGroup} * kPanelCodes * dim * sizeof(float);
  plan.block_panels = std::max<int64_t>(1, kBlockBytes / group_bytes) * kPanelGroup;
  // A thread that gets less than two tiles of queries is better used on a share of the codes.
  plan.split_codes = threads > 1 && queries < int64_t{2} * threads * tile_rows && panels > kPanelGroup;
  if (plan.split_codes) {
    plan.share = RoundUp((panels + threads - 1) / threads, kPanelGroup);
    plan.tasks = (panels + plan.share - 1) / plan.share;
  } else {
    // As many tasks as fill every thread equally. Each reads all codes, so they are as large as the cache allows.
    const int64_t query_bytes = int64_t{dim} * sizeof(float) + sizeof(LaneState);
    const int64_t most = std::clamp<int64_t>(kTaskBytes / query_bytes, tile_rows, 960);
    const int64_t tasks = RoundUp((queries + most - 1) / most, threads);
    plan.share = RoundUp((queries + tasks - 1) / std::max<int64_t>(1, tasks), tile_rows);
    plan.tasks = plan.share == 0 ? 0 : (queries + plan.share - 1) / plan.share;
  }
  return plan;
}

// How the queries of a screened lookup are shared out. Threads take batches as they come free, so that one whose
// processor is taken away for a while does not keep the others waiting.
struct ScreenPlan {
  int64_t round;  // queries prepared before their batches are taken up
  int64_t part;   // queries of a round that are sorted by size together
  int batch;      // queries swept together, a multiple of a tile
};

constexpr int64_t kRoundBytes = 4 << 20;  // of prepared queries
constexpr int64_t kPartQueries = 1024;
constexpr int kLeastBatch = 60;  // fewer sweep the codes too often
constexpr int kBatchesPerThread = 5;

inline ScreenPlan PlanScreened(int64_t queries, int dim, int tile_rows, int most_batch, int threads) {
  ScreenPlan plan;
  const int64_t most =
      std::max<int64_t>(kRoundBytes / (int64_t{dim} * 2 * sizeof(float)), threads * most_batch);
  const int64_t rounds = std::max<int64_t>(1, (queries + most - 1) / most);
  plan.round = RoundUp((queries + rounds - 1) / rounds, tile_rows);
  const int64_t parts = RoundUp((plan.round + kPartQueries - 1) / kPartQueries, threads);
  plan.part = std::max<int64_t>(tile_rows, RoundUp((plan.round + parts - 1) / parts, tile_rows));
  const int64_t share =
      RoundUp((plan.round + threads * kBatchesPerThread - 1) / (threads * kBatchesPerThread), tile_rows);
  plan.batch = static_cast<int>(std::min<int64_t>(most_batch, std::max<int64_t>(share, kLeastBatch)));
  return plan;
}

// Whether a lookup is to be screened.
enum class ScreenMode { kAuto, kOff, kAlways };

constexpr int64_t kScreenLeastWork =
    1 << 17;  // codes x dim; below, quantising and rescoring cost more than they save
constexpr int64_t kScreenLeastQueries =
    2048;  // over a codebook's life; fewer do not pay for packing the screen

inline bool PlanScreen(ScreenMode mode, int64_t codes, int dim, int64_t queries_so_far) {
  if (mode != ScreenMode::kAuto) return mode == ScreenMode::kAlways;
  return codes * dim >= kScreenLeastWork && queries_so_far >= kScreenLeastQueries;
}

// Whether a lookup takes less time than to wake another thread for it and be woken by it: some tens of microseconds.
inline bool PlanBrief(int64_t queries, int64_t codes, int dim, SimdLevel level, bool screened) {
  const int64_t most = level == SimdLevel::kScalar ? 1 << 16 : level == SimdLevel::kAvx2 ? 1 << 20 : 1 << 22;
  return queries * codes * dim <= most * (screened ? 6 : 1);  // multiply-adds
}

}  // namespace tokenflow

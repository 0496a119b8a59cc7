// The exact lookup: what each instruction set implements, and how the panels look.
//
// Codes lie in panels of 16: [panel][k][16 codes], so that one vector holds element k of 16 codes. A query
// tile holds a few queries, transposed: [k][rows]. A kernel starts the accumulators of rows x 4 panels (or 1)
// at the norms and adds y_k * c_k in order (codebook/score.h), so norms cost nothing.
//
// Per query the running minimum is kept lane by lane, with the number of the tile it came from ("tile-min"):
// the accumulators of a tile are folded into one vector of minima, and only that is compared. Which of the lane's
// codes it was is found at the end by scoring those again with the same chain, from their rows: a tile would take
// ten times the cache lines. The operand order of every
// minimum drops NaN, and a tile replaces an earlier one only when it is strictly smaller, so the first of
// equal codes stays.
#pragma once
#include <cstdint>

#include "codebook/score.h"

namespace tokenflow {

constexpr int kPanelCodes = 16;  // codes in a panel
constexpr int kPanelGroup = 4;   // a codebook is padded to a multiple of this many panels
constexpr int kMaxTileRows = 8;  // no kernel takes more queries at a time
constexpr int kMaxTopK = 64;

struct PanelView {
  const float* codes;  // [panels][dim][16], 64-byte aligned; zeros where there is no code
  const float* norms;  // [panels][16]; +inf where there is no code
  int dim;
};

// The same codes row by row, for scoring single ones.
struct RowView {
  const float* codes;  // [count][dim]; whatever was given where the norm is +inf
  const float* norms;  // [count]
  int64_t count;
  int dim;
};

// Running minimum of one query, lane by lane; how many lanes are used is the kernel's affair.
struct alignas(64) LaneState {
  float best[16];
  int32_t tile[16];  // first panel of the tile that holds it
};

// The best so far of one query when several are wanted: a reservoir of candidates below `threshold`, cut back
// to the k best whenever more than `limit` have gathered.
struct TopState {
  static constexpr int kLimit = 2 * kMaxTopK;
  static constexpr int kCapacity =
      kLimit + kPanelCodes * kPanelGroup + 16;  // + one tile + slack of a vector store

  float threshold;  // no score above it is among the k best
  int32_t count, k, limit;
  float scores[kCapacity];
  int32_t indices[kCapacity];
};

struct Candidate {
  float score;
  int32_t index;
};

void StartTop(TopState* top, int k);
void CutTop(TopState* top);                      // keeps the k best, in order, and lowers the threshold
void FinishTop(TopState* top, Candidate* best);  // [k], padded with {+inf, kNoCode}

using FoldFunction = void (*)(const PanelView& view, int64_t first,
                              int64_t last,        // panels, multiples of the group
                              const float* tile,   // [dim][rows]
                              LaneState* states);  // [rows]
using FoldTopFunction = void (*)(const PanelView& view, int64_t first, int64_t last, const float* tile,
                                 TopState* tops);  // [rows]

struct LookupKernels {
  int rows;                             // queries of a full tile
  FoldFunction fold[kMaxTileRows + 1];  // by number of queries, 1..rows
  FoldTopFunction fold_top[kMaxTileRows + 1];

  // The best code of a query: which of those behind its best lane.
  Candidate (*resolve)(const RowView& rows, const float* y,  // [dim]
                       const LaneState& state);
  // Prefetches what resolve will read: rows from all over the codebook.
  void (*approach)(const RowView& rows, const LaneState& state);

  // x as it is compared (normalised where the part says so) and y of the definition; false when the query has
  // no nearest code.
  bool (*prepare)(const float* x,                                      // [dim]
                  const PartSpan* parts, int part_count, float* seen,  // [dim]
                  float* y);                                           // [dim]

  // The distances of a row from `count` codes, and each part's own into part_distances[p * stride + i] when not null.
  void (*distances)(Metric metric, const PartSpan* parts, int part_count, const float* seen,  // [dim]
                    const float* const* codes,                                                // [count][dim]
                    int count, float* distances, float* part_distances, int64_t stride);
};

const LookupKernels& ScalarLookup();
const LookupKernels& Avx2Lookup();    // ask cpu_features.h first
const LookupKernels& Avx512Lookup();  // likewise

}  // namespace tokenflow

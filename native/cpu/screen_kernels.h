// The screen: a pass over 8-bit copies of the codes that can only discard. What each instruction set
// implements, and how the bytes lie. codebook/screen.h has the algorithm and the proof of its margin.
//
// Codes are taken in an order that puts similar ones together. 256 of them in a row are a super-block; lane l
// of a vector holds its 16 codes 16 l .. 16 l + 15, one after another, so that a running minimum over the
// vectors of a super-block leaves in each lane the minimum of a block of 16 neighbouring codes, with no
// reduction across lanes.
//
//   bytes  [super-block][16 / vectors][words][vectors][16 lanes][group]
//   seeds  [super-block][16][16 lanes]
//
// A word is what one multiply takes per lane: `group` elements. `vectors` codes of every lane are in work at
// a time. Block values [query][blocks] are int32: rint(seed / scale) + row offset + sum of q * byte.
//
// Sums start at the rounded seeds, which are made beforehand: in the sweep itself they would wait for the
// multiplies before them, and the multiplies after them for the seeds.
#pragma once
#include <cstdint>

#include "cpu/lookup_kernels.h"

namespace tokenflow {

constexpr int kSuperBlock = 256;
constexpr int kBlockCodes = 16;
constexpr int kSpan = 16;  // super-blocks whose lane minima are kept together
constexpr int kMaxScreenRows = 8;

struct ScreenView {
  const uint8_t* bytes;
  int words;  // per code: dim / group, rounded up
};

// Room for the rounded seeds of a super-block, whichever their width.
struct alignas(64) RoundedSeeds {
  int32_t values[kSuperBlock];
};

// The codes again in that order, in panels of 16, for scoring what is left.
struct ExactView {
  PanelView panels;
  const int32_t* indices;  // [panels][16]
};

// The best code of one query so far, lane by lane.
struct alignas(64) LaneBest {
  float score[16];
  int32_t index[16];
};

// One block to be scored exactly for one query.
struct ExactTask {
  const float* y;  // [dim]
  int32_t block;
  int32_t place;  // of the result that it goes into
};

// What the margin needs to know of a query. All in double, of the real vectors, not of their float32 sums.
struct QuantisedQuery {
  double y_norm;    // |y|
  double q_norm;    // |scale * q|
  double residual;  // |y + shift - scale * q|
  double along;     // y . centre
  int32_t sum;      // of q
};

// Block values of `rows` queries against super-blocks [first, last), and their minima lane by lane.
using SweepFunction = void (*)(const ScreenView& view, int64_t first, int64_t last,
                               const int32_t* words,        // [words][rows]
                               const int32_t* row_offsets,  // [rows]
                               const RoundedSeeds* seeds,   // of super-block `first` on
                               int32_t* values,             // [rows][stride], from block `first * 16` on
                               int64_t stride,
                               int32_t* least,  // [rows][least_stride], 16 lanes each, lowered
                               int64_t least_stride);

struct ScreenKernels {
  const char* name;
  int rows;   // queries of a full tile
  int group;  // elements in a word
  int vectors;
  int code_limit;  // codes are stored as -limit .. limit, plus limit + 1
  bool wide;       // 32-bit sums; otherwise they wrap at 16 bits and the caller keeps them below 2^15
  SweepFunction sweep[kMaxScreenRows + 1];  // by number of queries

  // rint(seed * inverse_scale), as the sweep adds them.
  void (*round_seeds)(const float* seeds,  // [count][256]
                      int64_t count, float inverse_scale, RoundedSeeds* rounded);

  // The largest magnitude in y + shift.
  float (*size)(const float* y, const float* shift, int dim);

  // q = rint((y + shift) / scale), -127 .. 127.
  void (*quantise)(const float* y, const float* shift, const float* centre, int dim, double scale, int8_t* q,
                   QuantisedQuery* out);

  // The words of a query as the sweep broadcasts them, `stride` apart.
  void (*join)(const int8_t* q, int count, int32_t* words, int stride);  // q: [count][group]

  // Count is a multiple of 16 in all three.
  int32_t (*minimum)(const int32_t* values, int64_t count);
  int64_t (*count_at_most)(const int32_t* values, int64_t count, int32_t threshold);

  // Places of values of at most `threshold`, in order, counted from `first`; returns how many.
  int (*scan)(const int32_t* values, int64_t count, int32_t threshold, int64_t first,
              int32_t* places);  // [count + 16], of which the last may be overwritten

  // The best of all lanes by (score, index); index INT32_MAX where no score is finite.
  Candidate (*best_of)(const LaneBest& lanes);

  // Scores blocks exactly and keeps, per place, the best by (score, index). One score is a chain of additions that wait
  // for each other: several are made at once, of whichever queries.
  void (*exact_best)(const ExactView& view, const ExactTask* tasks, int count, LaneBest* bests);
  void (*exact_top)(const ExactView& view, const ExactTask* tasks, int count, TopState* tops);
};

const ScreenKernels& Avx512VnniScreen();  // ask cpu_features.h first
const ScreenKernels& Avx2Screen();        // likewise

}  // namespace tokenflow

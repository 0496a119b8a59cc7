// The screened lookup: an 8-bit pass that may only discard, then the exact chain on what is left. Its answers
// are those of the plain lookup, bit for bit.
//
// Codes c_j are held as e_j = c_j - m around the middle m of each dimension's range, in steps of `step`:
// e_j = step * b_j + de_j with whole b_j. A query y (codebook/score.h) is shifted to y' = y + u, u fixed per
// call (2 w m for l2, which takes the bulk of the norms away; 0 otherwise), and quantised: y' = scale * q +
// dy. With
//   n'_j = n_j - u . e_j - mid   (mid the middle of its range, so that it is small; held in float32)
//   t_j  = n_j + y . c_j         (the score in real arithmetic)
// we have, exactly,  t_j = y.m + mid + n'_j + y'.e_j,  and with S = scale * step and
//   I_j = rint(n'_j / S) + q . b_j     (what the sweep computes)
//   t_j = A + S I_j + err,   A = y.m + mid,
//   |err| <= E = |scale q| max|de| + |dy| max|e| + (rounding of n') + S/2 + (float32 product under the rint)
// by Cauchy-Schwarz, and |s_j - t_j| <= rho for the float32 chain s_j. Hence
//   - if s_j <= s* for the exact score s* of some code, then I_j <= (s* + rho - A + E) / S;
//   - the k best codes all have I_j <= I_(k) + 2 (E + rho) / S, I_(k) the k-th smallest of I over k distinct
//   codes.
// What is dropped could not win, nor tie. Queries are sorted by size so that the queries of a tile, which
// share a scale, are alike. A query whose survivors are too many goes to the plain lookup; when most of a
// batch do, the rest go there at once.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "codebook/kept.h"
#include "codebook/pack.h"
#include "codebook/tile_scan.h"
#include "cpu/screen_kernels.h"
#include "runtime/queue.h"

namespace tokenflow {

// The codes as the screen reads them: independent of weights.
struct ScreenCodes {
  const ScreenKernels* kernels;
  int dim;
  int words;
  int64_t codes;               // finite ones
  int64_t blocks;              // of 16 codes, the last one filled up
  int64_t super_blocks;        // of 256; what is beyond the codes repeats the last one
  std::vector<int32_t> order;  // [codes] index of the code at each place
  AlignedVector<uint8_t> bytes;
  AlignedVector<float> panels;     // [super_blocks * 16][dim][16]
  AlignedVector<int32_t> indices;  // [super_blocks * 256]
  AlignedVector<int32_t> places;   // [all codes] where each lies, for those in `order`
  std::vector<float> centre;       // m
  double step;
  double element_most;   // max |e_j|
  double residual_most;  // max |de_j|
  double code_most;      // max |c_j|
  double centre_norm;    // |m|

  int64_t bytes_resident() const;
};

// What depends on the weights of a call.
struct ScreenNorms {
  AlignedVector<float> seeds;  // n'
  AlignedVector<float> norms;  // n_j at each place; +inf beyond the codes
  std::vector<float> shift;    // u
  double shift_norm;
  double middle;      // mid
  double seed_most;   // max |n'_j|
  double seed_error;  // largest rounding of n'_j
  double norm_most;   // max |n_j|
};

// Whether these codes can be screened for the k best: enough finite ones, of sizes that the arithmetic
// carries.
bool CanScreen(const PackedCodes& packed, int k);

ScreenCodes PackScreen(const PackedCodes& packed, const ScreenKernels& kernels);
ScreenNorms PackScreenNorms(const PackedCodes& packed, const ScreenCodes& screen,
                            const std::vector<PartSpan>& spans, const float* norms);  // [panels * 16]

struct ScreenCounts {
  std::atomic<int64_t> queries{0};       // looked up
  std::atomic<int64_t> screened{0};      // of these, answered by the screen
  std::atomic<int64_t> exact_scores{0};  // codes scored exactly for those
};

// A query and the largest magnitude in it once it is shifted.
struct SizedQuery {
  float size;
  int32_t row;

  bool operator<(const SizedQuery& other) const {
    return size < other.size || (size == other.size && row < other.row);
  }
};

// A screened lookup. Its batches may run on several threads at once.
class ScreenScan {
 public:
  // `hopeless` is shared by the tasks of a call: set once most of a batch had to fall back. `together`: all threads work
  // on each batch, for queries that are too few to be shared out; otherwise the calling one alone.
  ScreenScan(const ScreenCodes& codes, const ScreenNorms& norms, int k, ScreenCounts* counts,
             std::atomic<bool>* hopeless, bool together);
  ~ScreenScan();

  // What is done with the k best codes of query `i`, on whichever thread has found them and while their panels are in
  // its cache; `scratch` has room for k codes.
  using Settle = std::function<void(int64_t i, const Candidate* found, float* scratch)>;

  // The queries [begin, end) that are scored, by size.
  void Order(const QueryChunk& queries, int64_t begin, int64_t end, std::vector<SizedQuery>* order) const;

  // Finds the k best codes of every query of a batch, in order, and settles them. Queries left to the plain lookup are
  // added to left() instead.
  void Run(const QueryChunk& queries, const SizedQuery* batch, int count,  // at most batch_size()
           const Settle& settle, const CancelFlag& cancelled);

  int batch_size() const { return batch_size_; }
  std::vector<int32_t>* left() { return &left_; }  // once no batch runs

  // The code as it was packed: from the panels, which a lookup has just read, not from the rows, which are as large
  // again and elsewhere.
  void CopyCode(int32_t index, float* code) const;  // [dim]

 private:
  struct Query;
  struct Batch;
  struct Survivors;

  void Quantise(const QueryChunk& queries, Batch* batch) const;
  void Sweep(int64_t begin, int64_t end, Batch* batch) const;  // spans
  void Score(const QueryChunk& queries, int begin, int end, const Settle& settle, Batch* batch) const;
  void FindSurvivors(Query* query, int place, Batch* batch, Survivors* s) const;
  void DropBeaten(Query* query, int place, Batch* batch, Survivors* s) const;
  int32_t Bound(const int32_t* values, int64_t count, int least, double tolerance) const;
  void Prefetch(const int32_t* blocks, int count) const;

  const ScreenCodes& codes_;
  const ScreenNorms& norms_;
  const ScreenKernels& kernels_;
  const ExactView exact_;
  const int k_;
  ScreenCounts* const counts_;
  std::atomic<bool>* const hopeless_;
  const bool together_;
  const int64_t spans_;   // of kSpan super-blocks
  const int64_t stride_;  // of a query's block values
  const int batch_size_;  // queries swept together
  std::mutex left_mutex_;
  std::vector<int32_t> left_;
};

}  // namespace tokenflow

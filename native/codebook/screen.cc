#include "codebook/screen.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "codebook/plan.h"

namespace tokenflow {

namespace {

constexpr int64_t kBatchBytes =
    16 << 20;                   // of block values, which very large codebooks would fill memory with
constexpr int kMostBatch = 60;  // queries swept together; a multiple of every tile
constexpr int64_t kSweepBytes = 24 << 10;  // codes that stay in the first-level cache while they pass
constexpr double kSharedScale = 0.85;
constexpr int kSpanBlocks = kSpan * 16;
constexpr double kLargestQuery = 1e15;  // |y + u| that the arithmetic below carries
constexpr double kMarginMost = 1e9;     // of a block value, in int32

// A batch survives on less than an eighth of the blocks; beyond that the plain lookup is faster.
int64_t MostSurvivors(int64_t blocks) {
  return std::max<int64_t>(4, blocks / 8);
}

int BatchFor(int64_t stride, int rows) {
  const int64_t fitting = kBatchBytes / (stride * static_cast<int64_t>(sizeof(int32_t))) / rows * rows;
  return static_cast<int>(std::clamp<int64_t>(fitting, rows, kMostBatch));
}

int32_t Threshold(double value) {
  return static_cast<int32_t>(std::floor(std::clamp(value, -2e9, 2e9)));
}

}  // namespace

struct ScreenScan::Query {
  double offset;         // A / S, less what the unsigned codes add to a block value
  double margin;         // E / S
  double rounding;       // rho / S
  double inverse_scale;  // 1 / S
  bool usable;           // false: leave it to the plain lookup
  int32_t first, count;  // its survivors, in Scratch::survivors
  int32_t scored;        // of them, so far
};

// Kept from call to call: it is large enough for its page faults to show.
struct ScreenScan::Scratch {
  std::vector<int32_t> rows;                       // of the queries, by size
  std::vector<std::pair<float, int32_t>> by_size;  // size and row
  std::vector<float> sizes;                        // by query
  std::vector<float> shifted;                      // [n][dim]
  std::vector<int8_t> levels;                      // [batch][words * group]
  std::vector<Query> queries;                      // [batch]
  AlignedVector<int32_t> words;                    // tile by tile, [words][rows]
  std::vector<int32_t> row_offsets;                // [batch]
  std::vector<float> inverse_scales;               // [batch]; the first of a tile counts
  AlignedVector<RoundedSeeds> seeds;               // of the super-blocks that are swept together
  AlignedVector<int32_t> values;                   // [batch][stride]
  AlignedVector<int32_t> least;                    // [batch][spans][16]
  std::vector<int32_t> survivors;                  // blocks, query by query
  std::vector<int32_t> places, minima;
  int32_t found[kSpanBlocks];
  AlignedVector<LaneBest> bests;  // [batch]
  AlignedVector<TopState> tops;   // [batch]

  static Scratch& OfThread() {
    static thread_local Scratch scratch;
    return scratch;
  }
};

ScreenScan::ScreenScan(const ScreenCodes& codes, const ScreenNorms& norms, int k, ScreenCounts* counts,
                       std::atomic<bool>* hopeless)
    : codes_(codes),
      norms_(norms),
      kernels_(*codes.kernels),
      exact_{{codes.panels.data(), norms.norms.data(), codes.dim}, codes.indices.data()},
      k_(k),
      counts_(counts),
      hopeless_(hopeless),
      spans_((codes.super_blocks + kSpan - 1) / kSpan),
      // An odd number of cache lines, so that the rows of a tile do not meet in the same cache sets.
      stride_((codes.super_blocks | 1) * 16),
      batch_(BatchFor(stride_, codes.kernels->rows)),
      scratch_(Scratch::OfThread()) {
  scratch_.levels.resize(int64_t{batch_} * codes.words * kernels_.group);
  scratch_.queries.resize(batch_);
  scratch_.words.resize(int64_t{batch_} * codes.words);
  scratch_.row_offsets.resize(batch_);
  scratch_.inverse_scales.resize(batch_);
  scratch_.values.resize(batch_ * stride_);
  scratch_.least.resize(batch_ * spans_ * 16);
  scratch_.places.resize(spans_ * 16);
  if (k == 1) scratch_.bests.resize(batch_);
  if (k > 1) scratch_.tops.resize(batch_);
}

void ScreenScan::Run(const QueryChunk& queries, Candidate* best, std::vector<int32_t>* fallen,
                     const CancelFlag& cancelled) {
  Scratch& s = scratch_;
  s.by_size.clear();
  s.sizes.resize(queries.size());
  s.shifted.resize(queries.size() * codes_.dim);
  for (int64_t i = 0; i < queries.size(); i++) {
    if (!queries.scored(i)) continue;
    s.sizes[i] =
        kernels_.shift(queries.y(i), norms_.shift.data(), codes_.dim, s.shifted.data() + i * codes_.dim);
    s.by_size.push_back({s.sizes[i], static_cast<int32_t>(i)});
  }
  std::sort(s.by_size.begin(), s.by_size.end());
  s.rows.clear();
  for (const auto& [size, row] : s.by_size) s.rows.push_back(row);
  int64_t exact = 0, answered = 0;
  for (size_t first = 0; first < s.rows.size(); first += batch_) {
    if (cancelled.load(std::memory_order_relaxed)) break;
    const int32_t* rows = s.rows.data() + first;
    const int count = static_cast<int>(std::min<int64_t>(batch_, s.rows.size() - first));
    if (hopeless_->load(std::memory_order_relaxed)) {
      fallen->insert(fallen->end(), rows, rows + count);
      continue;
    }
    Quantise(queries, rows, count);
    Sweep(count);
    // Pass by pass over the batch, so that what one pass prefetches has arrived when the next one needs it.
    s.survivors.clear();
    for (int i = 0; i < count; i++) FindSurvivors(&s.queries[i], i);
    for (int i = 0; i < count; i++) ScoreFirst(&s.queries[i], i, queries.y(rows[i]));
    int failed = 0;
    for (int i = 0; i < count; i++) {
      if (!s.queries[i].usable) {
        fallen->push_back(rows[i]);
        failed++;
        continue;
      }
      ScoreRest(s.queries[i], i, queries.y(rows[i]), best + int64_t{rows[i]} * k_);
      exact += int64_t{s.queries[i].count} * kBlockCodes;
      answered++;
    }
    if (2 * failed > count && count >= kernels_.rows) hopeless_->store(true, std::memory_order_relaxed);
  }
  counts_->exact_scores += exact;
  counts_->screened += answered;
}

void ScreenScan::Quantise(const QueryChunk& queries, const int32_t* rows, int count) {
  Scratch& s = scratch_;
  const int dim = codes_.dim, group = kernels_.group;
  const int row_bytes = codes_.words * group;
  const int last = (count - 1) / kernels_.rows * kernels_.rows;
  double shared = INFINITY;  // scale of the tile before, which is of larger queries
  for (int first = last; first >= 0; first -= kernels_.rows) {
    const int tile = std::min(kernels_.rows, count - first);
    // One scale for the tile, large enough for the sums to fit.
    double size = 0;
    for (int r = 0; r < tile; r++) size = std::max<double>(size, s.sizes[rows[first + r]]);
    double scale = std::max({size / 127, norms_.seed_most / (codes_.step * (1 << 28)), 1e-18});
    if (!kernels_.wide) {
      const double norm = size * std::sqrt(static_cast<double>(dim));  // at least |y'|
      scale = std::max(scale, (1.01 * norm * codes_.element_most + norms_.seed_most) / (codes_.step * 31000));
    }
    // Tiles of nearly one scale share it, and with it the rounded seeds.
    if (scale > kSharedScale * shared && scale <= shared) scale = shared;
    shared = scale;
    const double combined = scale * codes_.step;  // S
    for (int r = 0; r < tile; r++) {
      const int place = first + r;
      const float* y = queries.y(rows[place]);
      int8_t* q = s.levels.data() + place * row_bytes;
      std::fill(q + dim, q + row_bytes, int8_t{0});
      QuantisedQuery measured;
      kernels_.quantise(y, s.shifted.data() + int64_t{rows[place]} * dim, norms_.shift.data(),
                        codes_.centre.data(), dim, scale, q, &measured);

      const double y_norm = measured.y_norm * (1 + 1e-9), q_norm = measured.q_norm * (1 + 1e-9);
      const double residual = measured.residual * (1 + 1e-9);
      // rho: each of dim roundings is at most 2^-24 of a partial sum, which is at most |n| + |y| |c|.
      const double rho = 1.01 * dim * 0x1p-24 * (norms_.norm_most + y_norm * codes_.code_most) + 1e-40;
      const double error = q_norm * codes_.residual_most + residual * codes_.element_most +
                           norms_.seed_error + 0.5 * combined + norms_.seed_most * 0x1p-22 +
                           1e-12 * ((y_norm + norms_.shift_norm) * codes_.centre_norm + norms_.norm_most +
                                    norms_.shift_norm * codes_.element_most + norms_.seed_most);
      const int64_t unsigned_sum = int64_t{kernels_.code_limit + 1} * measured.sum;
      Query& query = s.queries[place];
      query.inverse_scale = 1 / combined;
      query.margin = error / combined;
      query.rounding = rho / combined;
      query.offset = (measured.along + norms_.middle) / combined - (kernels_.wide ? unsigned_sum : 0);
      const double most_sum =
          (q_norm * (codes_.element_most + codes_.residual_most) + norms_.seed_most) / combined;
      query.usable = size < kLargestQuery && query.margin + query.rounding < kMarginMost / 4 &&
                     most_sum < (kernels_.wide ? kMarginMost : 32700);
      s.row_offsets[place] = kernels_.wide ? 0 : static_cast<int32_t>(-unsigned_sum);
      s.inverse_scales[place] = static_cast<float>(1 / combined);
    }
    int32_t* words = s.words.data() + int64_t{first} * codes_.words;
    for (int r = 0; r < tile; r++) {
      kernels_.join(s.levels.data() + (first + r) * row_bytes, codes_.words, words + r, tile);
    }
  }
}

void ScreenScan::Sweep(int count) {
  Scratch& s = scratch_;
  const ScreenView view{codes_.bytes.data(), codes_.words};
  std::fill_n(s.least.data(), count * spans_ * 16, INT32_MAX);
  const int64_t super_bytes = int64_t{kSuperBlock} * codes_.words * kernels_.group;
  int64_t together = kSpan;
  while (together > 1 && together * super_bytes > kSweepBytes) together /= 2;
  s.seeds.resize(together);
  for (int64_t super = 0; super < codes_.super_blocks; super += together) {
    const int64_t end = std::min(codes_.super_blocks, super + together);
    const int64_t span = super / kSpan;
    float rounded_for = 0.0f;
    for (int first = 0; first < count; first += kernels_.rows) {
      const int tile = std::min(kernels_.rows, count - first);
      if (s.inverse_scales[first] != rounded_for) {
        rounded_for = s.inverse_scales[first];
        kernels_.round_seeds(norms_.seeds.data() + super * kSuperBlock, end - super, rounded_for,
                             s.seeds.data());
      }
      kernels_.sweep[tile](view, super, end, s.words.data() + int64_t{first} * codes_.words,
                           s.row_offsets.data() + first, s.seeds.data(),
                           s.values.data() + first * stride_ + super * 16, stride_,
                           s.least.data() + (first * spans_ + span) * 16, spans_ * 16);
    }
  }
}

void ScreenScan::FindSurvivors(Query* query, int place) {
  Scratch& s = scratch_;
  query->first = static_cast<int32_t>(s.survivors.size());
  query->count = query->scored = 0;
  if (!query->usable) return;
  const int32_t* least = s.least.data() + place * spans_ * 16;
  const int32_t* values = s.values.data() + place * stride_;

  // The k-th smallest of k distinct codes: of lane minima, each the value of a code of its own. The last span
  // may repeat a code to fill up.
  int32_t bound;
  if (k_ == 1) {
    bound = kernels_.minimum(least, spans_ * 16);
  } else {
    s.minima.assign(least, least + codes_.codes / (kSpan * kSuperBlock) * 16);
    std::nth_element(s.minima.begin(), s.minima.begin() + k_ - 1, s.minima.end());
    bound = s.minima[k_ - 1];
  }
  const int32_t threshold = Threshold(bound + 2 * (query->margin + query->rounding) + 1e-3);
  const int lanes = kernels_.scan(least, spans_ * 16, threshold, s.places.data());
  const int64_t limit = 4 * MostSurvivors(codes_.blocks);
  for (int i = 0; i < lanes;) {
    const int64_t span = s.places[i] / 16;
    while (i < lanes && s.places[i] / 16 == span) i++;
    // A span's blocks, of which the last may be but fillers: they repeat the last code.
    const int64_t begin = span * kSpanBlocks,
                  size = std::min<int64_t>(kSpanBlocks, codes_.super_blocks * 16 - begin);
    const int count = kernels_.scan(values + begin, size, threshold, s.found);
    for (int at = 0; at < count; at++) {
      const int32_t block = static_cast<int32_t>(begin) + s.found[at];
      if (block < codes_.blocks) s.survivors.push_back(block);
    }
    if (static_cast<int64_t>(s.survivors.size()) - query->first > limit) {
      query->usable = false;
      s.survivors.resize(query->first);
      return;
    }
  }
  query->count = static_cast<int32_t>(s.survivors.size()) - query->first;
  // The best first: their exact scores are what the others are held against.
  int32_t* blocks = s.survivors.data() + query->first;
  if (k_ == 1) {
    int closest = 0;
    for (int i = 1; i < query->count; i++)
      closest = values[blocks[i]] < values[blocks[closest]] ? i : closest;
    std::swap(blocks[0], blocks[closest]);
  } else {
    std::sort(blocks, blocks + query->count,
              [values](int32_t a, int32_t b) { return values[a] < values[b]; });
  }
  Prefetch(blocks, std::min(k_, query->count));
}

void ScreenScan::ScoreFirst(Query* query, int place, const float* y) {
  if (!query->usable) return;
  Scratch& s = scratch_;
  int32_t* blocks = s.survivors.data() + query->first;
  query->scored = std::min(k_, query->count);
  float worst;  // the exact score that a survivor must reach
  if (k_ == 1) {
    LaneBest& best = s.bests[place];
    std::fill(best.score, best.score + 16, INFINITY);
    std::fill(best.index, best.index + 16, INT32_MAX);
    kernels_.exact_best(exact_, blocks, query->scored, y, &best);
    worst = kernels_.best_of(best).score;
  } else {
    TopState& top = s.tops[place];
    StartTop(&top, k_);
    kernels_.exact_top(exact_, blocks, query->scored, y, &top);
    CutTop(&top);
    worst = top.threshold;
  }
  if (!(worst < INFINITY)) {
    query->usable = false;  // scores that are not finite: outside what the margin covers
    return;
  }
  const int32_t* values = s.values.data() + place * stride_;
  const double reach = worst * query->inverse_scale + query->rounding - query->offset + query->margin;
  const double slack = 1e-9 * (std::fabs(worst * query->inverse_scale) + std::fabs(query->offset)) + 1e-3;
  const int32_t threshold = Threshold(reach + slack);
  int kept = query->scored;
  for (int i = query->scored; i < query->count; i++) {
    blocks[kept] = blocks[i];
    kept += values[blocks[i]] <= threshold;
  }
  query->count = kept;
  query->usable = kept <= MostSurvivors(codes_.blocks);
  if (query->usable) Prefetch(blocks + query->scored, kept - query->scored);
}

void ScreenScan::ScoreRest(const Query& query, int place, const float* y, Candidate* best) {
  Scratch& s = scratch_;
  const int32_t* blocks = s.survivors.data() + query.first + query.scored;
  const int count = query.count - query.scored;
  if (k_ > 1) {
    if (count > 0) kernels_.exact_top(exact_, blocks, count, y, &s.tops[place]);
    FinishTop(&s.tops[place], best);
    return;
  }
  LaneBest& lanes = s.bests[place];
  if (count > 0) kernels_.exact_best(exact_, blocks, count, y, &lanes);
  *best = kernels_.best_of(lanes);
  if (!(best->score < INFINITY)) *best = {INFINITY, kNoCode};
}

void ScreenScan::Prefetch(const int32_t* blocks, int count) const {
  const int64_t bytes = int64_t{kPanelCodes} * codes_.dim * sizeof(float);
  for (int i = 0; i < std::min(count, 16); i++) {
    const char* panel = reinterpret_cast<const char*>(exact_.panels.codes) + blocks[i] * bytes;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(panel + at);
    __builtin_prefetch(exact_.panels.norms + int64_t{blocks[i]} * kPanelCodes);
    __builtin_prefetch(exact_.indices + int64_t{blocks[i]} * kPanelCodes);
  }
}

}  // namespace tokenflow

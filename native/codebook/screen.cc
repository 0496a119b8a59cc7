#include "codebook/screen.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "codebook/plan.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

constexpr int64_t kBatchBytes =
    16 << 20;                    // of block values, which very large codebooks would fill memory with
constexpr int kMostBatch = 90;   // queries swept together; a multiple of every tile
constexpr int kUsualBatch = 60;  // likewise, where that many would leave the caches:
constexpr int64_t kCachedValueBytes = 768 << 10;  // block values of a batch, in the second level
constexpr int64_t kCachedWordBytes = 8 << 10;     // its queries, beside the codes in the first level
constexpr int64_t kSweepBytes = 24 << 10;         // codes that stay in the first-level cache while they pass
constexpr int64_t kScoredBytes = 256 << 10;       // of panels on their way into the second-level cache
constexpr double kSharedScale = 0.85;
constexpr int kSpanBlocks = kSpan * 16;
constexpr int kFewestScored = 4;        // queries whose survivors are worth another thread
constexpr double kLargestQuery = 1e15;  // |y + u| that the arithmetic below carries
constexpr double kMarginMost = 1e9;     // of a block value, in int32

// A batch survives on less than an eighth of the blocks; beyond that the plain lookup is faster.
int64_t MostSurvivors(int64_t blocks) {
  return std::max<int64_t>(4, blocks / 8);
}

int BatchFor(int64_t stride, int row_bytes, int rows) {
  const int64_t value_bytes = stride * static_cast<int64_t>(sizeof(int32_t));
  const bool cached =
      kMostBatch * value_bytes <= kCachedValueBytes && int64_t{kMostBatch} * row_bytes <= kCachedWordBytes;
  const int64_t fitting = kBatchBytes / value_bytes / rows * rows;
  return static_cast<int>(std::clamp<int64_t>(fitting, rows, cached ? kMostBatch : kUsualBatch));
}

void PrefetchRow(const float* row, int dim) {
  for (int k = 0; k < dim; k += 16) __builtin_prefetch(row + k);
  __builtin_prefetch(row + dim - 1);
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
  int32_t first, count;  // its survivors, in Survivors
  int32_t scored;        // of them, so far
};

// What is kept of a batch. From call to call too: it is large enough for its page faults to show.
struct ScreenScan::Batch {
  const SizedQuery* sized;  // [count]
  int count;
  std::vector<int8_t> levels;         // [count][words * group]
  std::vector<Query> queries;         // [count]
  AlignedVector<int32_t> words;       // tile by tile, [words][rows]
  std::vector<int32_t> row_offsets;   // [count]
  std::vector<float> inverse_scales;  // [count]; the first of a tile counts
  AlignedVector<int32_t> values;      // [count][stride]
  AlignedVector<int32_t> least;       // [count][spans][16]
  AlignedVector<LaneBest> bests;      // [count]
  AlignedVector<TopState> tops;       // [count]
};

// What one thread needs to choose and score what survives.
struct ScreenScan::Survivors {
  std::vector<int32_t> blocks;    // query by query
  AlignedVector<int32_t> values;  // theirs, for the query in hand
  std::vector<int32_t> others;    // likewise
  std::vector<int32_t> places;    // of lanes
  std::vector<Candidate> found;   // [queries][k]
  AlignedVector<float> codes;     // [k][dim]
  std::vector<ExactTask> tasks;
};

ScreenScan::ScreenScan(const ScreenCodes& codes, const ScreenNorms& norms, int k, ScreenCounts* counts,
                       std::atomic<bool>* hopeless, bool together)
    : codes_(codes),
      norms_(norms),
      kernels_(*codes.kernels),
      exact_{{codes.panels.data(), norms.norms.data(), codes.dim}, codes.indices.data()},
      k_(k),
      counts_(counts),
      hopeless_(hopeless),
      together_(together),
      spans_((codes.super_blocks + kSpan - 1) / kSpan),
      // An odd number of cache lines, so that the rows of a tile do not meet in the same cache sets.
      stride_((codes.super_blocks | 1) * 16),
      batch_size_(BatchFor(stride_, codes.words * codes.kernels->group, codes.kernels->rows)) {}

ScreenScan::~ScreenScan() = default;

void ScreenScan::Order(const QueryChunk& queries, int64_t begin, int64_t end,
                       std::vector<SizedQuery>* order) const {
  order->clear();
  for (int64_t i = begin; i < end; i++) {
    if (!queries.scored(i)) continue;
    const float size = kernels_.size(queries.y(i), norms_.shift.data(), codes_.dim);
    order->push_back({size, static_cast<int32_t>(i)});
  }
  std::sort(order->begin(), order->end());
}

void ScreenScan::Run(const QueryChunk& queries, const SizedQuery* batch, int count, const Settle& settle,
                     const CancelFlag& cancelled) {
  if (cancelled.load(std::memory_order_relaxed)) return;
  const auto leave = [&](int i) {
    std::lock_guard<std::mutex> lock(left_mutex_);
    left_.push_back(batch[i].row);
  };
  if (hopeless_->load(std::memory_order_relaxed)) {
    for (int i = 0; i < count; i++) leave(i);
    return;
  }
  const Kept<Batch> kept;
  Batch& b = *kept;
  b.sized = batch;
  b.count = count;
  AtLeast(&b.levels, int64_t{count} * codes_.words * kernels_.group);
  AtLeast(&b.queries, count);
  AtLeast(&b.words, int64_t{count} * codes_.words);
  AtLeast(&b.row_offsets, count);
  AtLeast(&b.inverse_scales, count);
  AtLeast(&b.values, count * stride_);
  AtLeast(&b.least, count * spans_ * 16);
  if (k_ == 1) AtLeast(&b.bests, count);
  if (k_ > 1) AtLeast(&b.tops, count);

  Quantise(queries, &b);
  std::fill_n(b.least.data(), count * spans_ * 16, INT32_MAX);
  if (together_) {
    // The same stretch each time, which its cache holds.
    ParallelRanges(
        spans_, 1, [&](int, int64_t begin, int64_t end) { Sweep(begin, end, &b); }, 1);
    ParallelRanges(count, kFewestScored, [&](int, int64_t begin, int64_t end) {
      Score(queries, static_cast<int>(begin), static_cast<int>(end), settle, &b);
    });
  } else {
    const int64_t panel_bytes = int64_t{kPanelCodes} * codes_.dim * sizeof(float);
    const int scored_together =
        static_cast<int>(std::clamp<int64_t>(kScoredBytes / (k_ * panel_bytes), kFewestScored, kMostBatch));
    Sweep(0, spans_, &b);
    for (int i = 0; i < count; i += scored_together) {
      Score(queries, i, std::min(count, i + scored_together), settle, &b);
    }
  }
  int64_t exact = 0, answered = 0;
  for (int i = 0; i < count; i++) {
    if (!b.queries[i].usable) {
      leave(i);
      continue;
    }
    exact += int64_t{b.queries[i].count} * kBlockCodes;
    answered++;
  }
  if (2 * answered < count && count >= kernels_.rows) hopeless_->store(true, std::memory_order_relaxed);
  counts_->exact_scores += exact;
  counts_->screened += answered;
}

void ScreenScan::Quantise(const QueryChunk& queries, Batch* batch) const {
  Batch& b = *batch;
  const int count = b.count;
  const int dim = codes_.dim, group = kernels_.group;
  const int row_bytes = codes_.words * group;
  const int last = (count - 1) / kernels_.rows * kernels_.rows;
  for (int i = 0; i < count; i++) PrefetchRow(queries.y(b.sized[i].row), dim);
  double shared = INFINITY;  // scale of the tile before, which is of larger queries
  for (int first = last; first >= 0; first -= kernels_.rows) {
    const int tile = std::min(kernels_.rows, count - first);
    // One scale for the tile, large enough for the sums to fit.
    double size = 0;
    for (int r = 0; r < tile; r++) size = std::max<double>(size, b.sized[first + r].size);
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
      const float* y = queries.y(b.sized[place].row);
      int8_t* q = b.levels.data() + place * row_bytes;
      std::fill(q + dim, q + row_bytes, int8_t{0});
      QuantisedQuery measured;
      kernels_.quantise(y, norms_.shift.data(), codes_.centre.data(), dim, scale, q, &measured);

      const double y_norm = measured.y_norm * (1 + 1e-9), q_norm = measured.q_norm * (1 + 1e-9);
      const double residual = measured.residual * (1 + 1e-9);
      // rho: each of dim roundings is at most 2^-24 of a partial sum, which is at most |n| + |y| |c|.
      const double rho = 1.01 * dim * 0x1p-24 * (norms_.norm_most + y_norm * codes_.code_most) + 1e-40;
      const double error = q_norm * codes_.residual_most + residual * codes_.element_most +
                           norms_.seed_error + 0.5 * combined + norms_.seed_most * 0x1p-22 +
                           1e-12 * ((y_norm + norms_.shift_norm) * codes_.centre_norm + norms_.norm_most +
                                    norms_.shift_norm * codes_.element_most + norms_.seed_most);
      const int64_t unsigned_sum = int64_t{kernels_.code_limit + 1} * measured.sum;
      Query& query = b.queries[place];
      query.inverse_scale = 1 / combined;
      query.margin = error / combined;
      query.rounding = rho / combined;
      query.offset = (measured.along + norms_.middle) / combined - (kernels_.wide ? unsigned_sum : 0);
      const double most_sum =
          (q_norm * (codes_.element_most + codes_.residual_most) + norms_.seed_most) / combined;
      query.usable = size < kLargestQuery && query.margin + query.rounding < kMarginMost / 4 &&
                     most_sum < (kernels_.wide ? kMarginMost : 32700);
      b.row_offsets[place] = kernels_.wide ? 0 : static_cast<int32_t>(-unsigned_sum);
      b.inverse_scales[place] = static_cast<float>(1 / combined);
    }
    int32_t* words = b.words.data() + int64_t{first} * codes_.words;
    for (int r = 0; r < tile; r++) {
      kernels_.join(b.levels.data() + (first + r) * row_bytes, codes_.words, words + r, tile);
    }
  }
}

void ScreenScan::Sweep(int64_t begin, int64_t end, Batch* batch) const {
  Batch& b = *batch;
  const int count = b.count;
  const ScreenView view{codes_.bytes.data(), codes_.words};
  const int64_t super_bytes = int64_t{kSuperBlock} * codes_.words * kernels_.group;
  int64_t together = kSpan;
  while (together > 1 && together * super_bytes > kSweepBytes) together /= 2;
  Kept<AlignedVector<RoundedSeeds>> seeds;  // of the super-blocks that are swept together
  seeds->resize(together);
  const int64_t supers = std::min(codes_.super_blocks, end * kSpan);
  for (int64_t super = begin * kSpan; super < supers; super += together) {
    const int64_t last = std::min(supers, super + together);
    const int64_t span = super / kSpan;
    float rounded_for = 0.0f;
    for (int first = 0; first < count; first += kernels_.rows) {
      const int tile = std::min(kernels_.rows, count - first);
      if (b.inverse_scales[first] != rounded_for) {
        rounded_for = b.inverse_scales[first];
        kernels_.round_seeds(norms_.seeds.data() + super * kSuperBlock, last - super, rounded_for,
                             seeds->data());
      }
      kernels_.sweep[tile](view, super, last, b.words.data() + int64_t{first} * codes_.words,
                           b.row_offsets.data() + first, seeds->data(),
                           b.values.data() + first * stride_ + super * 16, stride_,
                           b.least.data() + (first * spans_ + span) * 16, spans_ * 16);
    }
  }
}

// Step by step over all the queries, so that what one step prefetches has arrived when the next one needs it, and the
// chains of several overlap.
void ScreenScan::Score(const QueryChunk& queries, int begin, int end, const Settle& settle,
                       Batch* batch) const {
  Batch& b = *batch;
  const Kept<Survivors> survivors;
  Survivors& s = *survivors;
  const auto add_tasks = [&](const Query& query, int place, int from, int to) {
    const float* y = queries.y(b.sized[place].row);
    for (int i = from; i < to; i++) s.tasks.push_back({y, s.blocks[query.first + i], place});
    Prefetch(s.blocks.data() + query.first + from, to - from);
  };
  const auto score_tasks = [&] {
    const int count = static_cast<int>(s.tasks.size());
    if (k_ == 1) kernels_.exact_best(exact_, s.tasks.data(), count, b.bests.data());
    if (k_ > 1) kernels_.exact_top(exact_, s.tasks.data(), count, b.tops.data());
    s.tasks.clear();
  };

  s.blocks.clear();
  for (int place = begin; place < end; place++) {
    Query& query = b.queries[place];
    PrefetchRow(queries.y(b.sized[place].row), codes_.dim);
    FindSurvivors(&query, place, &b, &s);
    if (query.usable) add_tasks(query, place, 0, query.scored);
  }
  score_tasks();
  for (int place = begin; place < end; place++) {
    Query& query = b.queries[place];
    if (!query.usable) continue;
    PrefetchRow(queries.seen(b.sized[place].row), codes_.dim);
    DropBeaten(&query, place, &b, &s);
    if (query.usable) add_tasks(query, place, query.scored, query.count);
  }
  score_tasks();
  s.found.resize(int64_t{end - begin} * k_);
  s.codes.resize(int64_t{k_} * codes_.dim);
  for (int place = begin; place < end; place++) {
    if (!b.queries[place].usable) continue;
    Candidate* found = s.found.data() + int64_t{place - begin} * k_;
    if (k_ > 1) {
      FinishTop(&b.tops[place], found);
    } else {
      *found = kernels_.best_of(b.bests[place]);
      if (!(found->score < INFINITY)) *found = {INFINITY, kNoCode};
    }
    for (int rank = 0; rank < k_; rank++)
      __builtin_prefetch(codes_.places.data() + std::max(0, found[rank].index));
  }
  for (int place = begin; place < end; place++) {
    if (!b.queries[place].usable) continue;
    settle(b.sized[place].row, s.found.data() + int64_t{place - begin} * k_, s.codes.data());
  }
}

void ScreenScan::CopyCode(int32_t index, float* code) const {
  const int64_t place = codes_.places[index];
  const float* panel =
      codes_.panels.data() + place / kPanelCodes * kPanelCodes * codes_.dim + place % kPanelCodes;
  for (int k = 0; k < codes_.dim; k++) code[k] = panel[k * kPanelCodes];
}

// A bound that at least `least` of the values do not exceed, within `tolerance` of the lowest there is.
int32_t ScreenScan::Bound(const int32_t* values, int64_t count, int least, double tolerance) const {
  const int64_t lowest = kernels_.minimum(values, count);
  if (least == 1) return static_cast<int32_t>(lowest);
  const auto enough = [&](int64_t bound) {
    return kernels_.count_at_most(values, count, static_cast<int32_t>(bound)) >= least;
  };
  int64_t step = std::max<int64_t>(1, static_cast<int64_t>(tolerance));
  int64_t low = lowest, high = lowest + step;  // too few at `low`
  while (high < INT32_MAX && !enough(high)) {
    low = high;
    step *= 2;
    high = std::min<int64_t>(INT32_MAX, high + step);
  }
  while (high - low > std::max(1.0, tolerance)) {
    const int64_t middle = low + (high - low) / 2;
    (enough(middle) ? high : low) = middle;
  }
  return static_cast<int32_t>(high);
}

void ScreenScan::FindSurvivors(Query* query, int place, Batch* batch, Survivors* s) const {
  query->first = static_cast<int32_t>(s->blocks.size());
  query->count = query->scored = 0;
  if (!query->usable) return;
  Batch& b = *batch;
  const int32_t* least = b.least.data() + place * spans_ * 16;
  const int32_t* values = b.values.data() + place * stride_;
  const double margin = 2 * (query->margin + query->rounding) + 1e-3;
  const double tolerance = query->margin / 16;

  // Of k distinct codes: lane minima are values of codes of their own. The last span may repeat a code to fill up.
  const int64_t lanes = k_ == 1 ? spans_ * 16 : codes_.codes / (kSpan * kSuperBlock) * 16;
  const int32_t threshold = Threshold(Bound(least, lanes, k_, tolerance) + margin);
  s->places.resize(spans_ * 16 + 16);
  const int found_lanes = kernels_.scan(least, spans_ * 16, threshold, 0, s->places.data());
  const int64_t limit = 4 * MostSurvivors(codes_.blocks);
  int64_t found = 0;
  for (int i = 0; i < found_lanes;) {
    const int64_t span = s->places[i] / 16;
    while (i < found_lanes && s->places[i] / 16 == span) i++;
    // A span's blocks, of which the last may be but fillers: they repeat the last code.
    const int64_t begin = span * kSpanBlocks,
                  size = std::min<int64_t>(kSpanBlocks, codes_.super_blocks * 16 - begin);
    s->blocks.resize(query->first + found + size + 16);
    found += kernels_.scan(values + begin, size, threshold, begin, s->blocks.data() + query->first + found);
    if (found > limit) {
      query->usable = false;
      s->blocks.resize(query->first);
      return;
    }
  }
  const int32_t* const found_blocks = s->blocks.data() + query->first;
  while (found > 0 && found_blocks[found - 1] >= codes_.blocks) found--;
  s->blocks.resize(query->first + found);
  query->count = static_cast<int32_t>(found);
  int32_t* blocks = s->blocks.data() + query->first;
  // The best first: their exact scores are what the others are held against.
  if (k_ == 1) {
    int closest = 0;
    for (int i = 1; i < query->count; i++)
      closest = values[blocks[i]] < values[blocks[closest]] ? i : closest;
    std::swap(blocks[0], blocks[closest]);
    query->scored = 1;
    LaneBest& best = b.bests[place];
    std::fill(best.score, best.score + 16, INFINITY);
    std::fill(best.index, best.index + 16, INT32_MAX);
    return;
  }
  // The blocks' own minima bound the k-th best more tightly than those of whole lanes.
  s->values.assign(RoundUp(query->count, 16), INT32_MAX);
  for (int i = 0; i < query->count; i++) s->values[i] = values[blocks[i]];
  const int32_t bound = Bound(s->values.data(), static_cast<int64_t>(s->values.size()), k_, tolerance);
  const int32_t tighter = Threshold(bound + margin);
  s->others.resize(query->count);
  int others = 0;
  for (int i = 0; i < query->count; i++) {  // without branches, which nothing could predict
    const int32_t block = blocks[i], value = s->values[i];
    blocks[query->scored] = s->others[others] = block;
    query->scored += value <= bound;
    others += value > bound && value <= tighter;
  }
  std::copy_n(s->others.data(), others, blocks + query->scored);
  query->count = query->scored + others;
  s->blocks.resize(query->first + query->count);

  TopState& top = b.tops[place];
  StartTop(&top, k_);
  const double most = (bound + query->offset + query->margin + query->rounding) / query->inverse_scale;
  const double slack = 1e-6 * (std::fabs(bound) + std::fabs(query->offset) + 1) / query->inverse_scale;
  const float highest = static_cast<float>(most + slack);
  if (highest < INFINITY) top.threshold = std::nextafter(highest, INFINITY);
}

void ScreenScan::DropBeaten(Query* query, int place, Batch* batch, Survivors* s) const {
  Batch& b = *batch;
  float worst;  // the exact score that a survivor must reach
  if (k_ == 1) {
    worst = kernels_.best_of(b.bests[place]).score;
  } else {
    TopState& top = b.tops[place];
    CutTop(&top);
    worst = top.count == k_ ? top.threshold : INFINITY;
  }
  if (!(worst < INFINITY)) {
    query->usable = false;  // scores that are not finite: outside what the margin covers
    return;
  }
  int32_t* blocks = s->blocks.data() + query->first;
  const int32_t* values = b.values.data() + place * stride_;
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
}

void ScreenScan::Prefetch(const int32_t* blocks, int count) const {
  const int64_t bytes = int64_t{kPanelCodes} * codes_.dim * sizeof(float);
  for (int i = 0; i < std::min(count, 16); i++) {
    const char* panel = reinterpret_cast<const char*>(exact_.panels.codes) + blocks[i] * bytes;
    for (int64_t at = 0; at < bytes; at += 256) __builtin_prefetch(panel + at);
    __builtin_prefetch(exact_.panels.norms + int64_t{blocks[i]} * kPanelCodes);
    __builtin_prefetch(exact_.indices + int64_t{blocks[i]} * kPanelCodes);
  }
}

}  // namespace tokenflow

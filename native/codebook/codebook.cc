#include "codebook/codebook.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "codebook/plan.h"
#include "codebook/tile_scan.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {

const LookupKernels& ActiveLookup() {
  switch (ActiveSimdLevel()) {
    case SimdLevel::kAvx512:
      return Avx512Lookup();
    case SimdLevel::kAvx2:
      return Avx2Lookup();
    default:
      return ScalarLookup();
  }
}

namespace {

// The screen of the level in force.
const ScreenKernels* ActiveScreen() {
  if (UseAvx512Vnni()) return &Avx512VnniScreen();
  if (ActiveSimdLevel() >= SimdLevel::kAvx2) return &Avx2Screen();
  return nullptr;
}

constexpr int kLongestScreenPause = 64;
constexpr int kLongestFromPanel = 64;  // elements of a code, each in a cache line of its own there

constexpr double kUnitTolerance = 0.01;  // of the squared length: catches vectors that are none, not rounding

void CheckUnit(const CodebookPart& part, int64_t codes) {
  for (int64_t j = 0; j < codes; j++) {
    const float* v = part.vectors + j * part.dim;
    double square = 0;
    for (int k = 0; k < part.dim; k++) square += double{v[k]} * v[k];
    if (square == 0 || !std::isfinite(square) || std::fabs(square - 1) <= kUnitTolerance) continue;
    throw InvalidArgument("Expected unit vectors, as unit says, but code " + std::to_string(j) +
                          " has length " + std::to_string(std::sqrt(square)) +
                          "; leave unit out to have them normalised");
  }
}

// As PackCodes, but for parts that are unit vectors already, which are not divided by their length again. A code that
// is too large to have a length has rows of NaN where it is normalised, as in codebook/reference.h.
PackedCodes Pack(std::vector<CodebookPart> parts, int64_t codes, Metric metric,
                 const std::vector<bool>& unit) {
  for (size_t p = 0; p < parts.size(); p++) {
    const bool is_unit = !unit.empty() && unit[p];
    if (is_unit) CheckUnit(parts[p], codes);
    parts[p].normalize = (parts[p].normalize || metric == Metric::kCosine) && !is_unit;
  }
  // The two differ in nothing but that cosine normalises.
  PackedCodes packed = PackCodes(parts, codes, metric == Metric::kCosine ? Metric::kInnerProduct : metric);
  packed.metric = metric;
  for (int64_t j = 0; packed.non_finite > 0 && j < codes; j++) {
    if (std::isfinite(packed.part_norms[j])) continue;
    float* row = packed.rows.data() + j * packed.dim;
    for (const CodebookPart& part : parts) {
      const float* v = part.vectors + j * part.dim;
      const auto zero = [](float value) { return value == 0.0f; };
      if (part.normalize && std::all_of(row, row + part.dim, zero) && !std::all_of(v, v + part.dim, zero)) {
        std::fill_n(row, part.dim, NAN);
      }
      row += part.dim;
    }
  }
  return packed;
}

}  // namespace

Codebook::Codebook(const std::vector<CodebookPart>& parts, int64_t codes, Metric metric,
                   ScreenMode screen_mode, const std::vector<bool>& unit)
    : packed_(Pack(parts, codes, metric, unit)), screen_mode_(screen_mode) {
  int begin = 0;
  for (const CodebookPart& part : parts) {
    const bool normalize = part.normalize || metric == Metric::kCosine;
    spans_.push_back({begin, begin + part.dim, normalize, 1.0f, QueryFactor(metric)});
    begin += part.dim;
  }
}

int64_t Codebook::bytes() const {
  const size_t floats = packed_.rows.size() + packed_.panel_codes.size() + packed_.part_norms.size();
  std::lock_guard<std::mutex> lock(cache_mutex_);
  return static_cast<int64_t>(floats * sizeof(float)) + (screen_ == nullptr ? 0 : screen_->bytes_resident());
}

LookupCounts Codebook::counts() const {
  return {counts_.queries.load(), counts_.screened.load(), counts_.exact_scores.load()};
}

const char* Codebook::screen_name() const {
  const ScreenKernels* kernels = ActiveScreen();
  return kernels == nullptr ? nullptr : kernels->name;
}

bool Codebook::UseScreen(int64_t n, int k) const {
  const ScreenKernels* kernels = ActiveScreen();
  std::lock_guard<std::mutex> lock(cache_mutex_);
  queries_asked_ += n;
  if (kernels == nullptr || !PlanScreen(screen_mode_, codes(), dim(), queries_asked_)) return false;
  if (!CanScreen(packed_, k)) return false;
  if (screen_pause_ > 0) {
    screen_pause_--;
    return false;
  }
  if (screen_ == nullptr) screen_ = std::make_unique<const ScreenCodes>(PackScreen(packed_, *kernels));
  return true;
}

std::vector<float> Codebook::WeightsOr1(const float* weights) const {
  return weights == nullptr ? std::vector<float>(part_count(), 1.0f)
                            : std::vector<float>(weights, weights + part_count());
}

bool Codebook::IsBrief(int64_t n, const float* weights) const {
  std::lock_guard<std::mutex> lock(cache_mutex_);
  if (cached_ == nullptr || cached_weights_ != WeightsOr1(weights)) return false;
  const ScreenKernels* kernels = ActiveScreen();
  const bool screened = kernels != nullptr && PlanScreen(screen_mode_, codes(), dim(), queries_asked_ + n) &&
                        CanScreen(packed_, 1);
  if (screened && cached_->screen == nullptr) return false;  // to be packed first
  return PlanBrief(n, codes(), dim(), ActiveSimdLevel(), screened && screen_pause_ == 0);
}

std::shared_ptr<const Codebook::Weighted> Codebook::ForWeights(const float* weights, bool screened) const {
  const std::vector<float> wanted = WeightsOr1(weights);
  std::lock_guard<std::mutex> lock(cache_mutex_);
  if (cached_ != nullptr && cached_weights_ == wanted && (!screened || cached_->screen != nullptr))
    return cached_;
  auto weighted = std::make_shared<Weighted>();
  weighted->spans = spans_;
  for (size_t p = 0; p < spans_.size(); p++) {
    weighted->spans[p].weight = wanted[p];
    weighted->spans[p].query_factor = QueryFactor(metric()) * wanted[p];
  }
  weighted->norms = NormsFor(packed_, wanted.data());
  if (screened) {
    weighted->screen = std::make_unique<const ScreenNorms>(
        PackScreenNorms(packed_, *screen_, weighted->spans, weighted->norms.data()));
  }
  cached_weights_ = wanted;
  cached_ = weighted;
  return weighted;
}

void Codebook::Nearest(const float* x, int64_t n, int k, const float* weights, const NearestOutput& out,
                       const CancelFlag& cancelled) const {
  if (k < 1 || k > kMaxTopK) {
    throw InvalidArgument("Expected 1 to " + std::to_string(kMaxTopK) + " for k but received " +
                          std::to_string(k));
  }
  if (k > codes()) {
    throw InvalidArgument("Expected at most as many neighbours as there are codes (" +
                          std::to_string(codes()) + ") for k but received " + std::to_string(k));
  }
  counts_.queries += n;
  const bool screened = n > 0 && UseScreen(n, k);
  const auto weighted = ForWeights(weights, screened);
  const std::vector<PartSpan>& spans = weighted->spans;
  const LookupKernels& kernels = ActiveLookup();
  const PanelView view{packed_.panel_codes.data(), weighted->norms.data(), dim()};
  const RowView rows{packed_.rows.data(), weighted->norms.data(), codes(), dim()};

  // Writes the results of one row, given its query as it is compared and the k codes that were found for it; code_of(index,
  // rank) is the code.
  const auto settle_row = [&](int64_t row, const float* seen, const Candidate* found, auto&& code_of) {
    const float* code[kMaxTopK];
    int count = 0;  // those without one come last
    for (int rank = 0; rank < k; rank++) {
      const int32_t index = found[rank].index;
      out.indices[row * k + rank] = index;
      if (index != kNoCode) code[count++] = code_of(index, rank);
    }
    float distances[kMaxTopK];
    float* parts = out.part_distances == nullptr ? nullptr : out.part_distances + row * k;
    if (out.distances != nullptr || parts != nullptr) {
      kernels.distances(metric(), spans.data(), part_count(), seen, code, count, distances, parts, n * k);
      std::fill(distances + count, distances + k, NAN);
      if (out.distances != nullptr) std::copy_n(distances, k, out.distances + row * k);
      for (int p = 0; parts != nullptr && p < part_count(); p++) {
        std::fill(parts + p * n * k + count, parts + p * n * k + k, NAN);
      }
    }
    if (out.codes != nullptr && count > 0) std::copy_n(code[0], dim(), out.codes + row * dim());
    if (out.codes != nullptr && count == 0) std::fill_n(out.codes + row * dim(), dim(), NAN);
    if (out.errors != nullptr) out.errors[row] = NAN;
    if (out.errors != nullptr && count > 0) {
      kernels.distances(Metric::kL2, spans_.data(), part_count(), seen, code, 1, out.errors + row, nullptr,
                        0);
    }
  };
  const std::vector<Candidate> nothing(k, {INFINITY, kNoCode});
  // The results of a plain lookup; row_of(i) is where those of query i go.
  const auto settle_scanned = [&](const QueryChunk& queries, const Candidate* best, auto&& row_of) {
    constexpr int64_t kAhead = 12;  // rows of winners are wherever chance has put them
    const auto code_of = [&](int32_t index, int) { return packed_.rows.data() + int64_t{index} * dim(); };
    for (int64_t i = 0; i < queries.size(); i++) {
      for (int64_t ahead = (i + kAhead) * k; ahead < std::min(i + kAhead + 1, queries.size()) * k; ahead++) {
        if (best[ahead].index <= 0) continue;
        const float* row = code_of(best[ahead].index, 0);
        for (int at = 0; at < dim(); at += 16) __builtin_prefetch(row + at);
        __builtin_prefetch(row + dim() - 1);
      }
      settle_row(row_of(i), queries.seen(i), queries.scored(i) ? best + i * k : nothing.data(), code_of);
    }
  };

  // Without the screen. When few queries are all there is, every thread takes a share of the codes.
  const auto scan = [&](const LookupPlan& plan, QueryChunk* queries, Candidate* best) {
    queries->Transpose();
    if (!plan.split_codes) {
      TileScan(kernels, view, rows, k, plan.block_panels).Run(*queries, 0, packed_.panels, best, cancelled);
      return;
    }
    const int64_t size = queries->size() * k;
    std::vector<std::vector<Candidate>> shares(plan.tasks, std::vector<Candidate>(size));
    ParallelTasks(plan.tasks, [&](int64_t task) {
      const int64_t begin = task * plan.share, end = std::min(packed_.panels, begin + plan.share);
      TileScan(kernels, view, rows, k, plan.block_panels)
          .Run(*queries, begin, end, shares[task].data(), cancelled);
    });
    std::copy_n(MergeShares(&shares, queries->size(), k), size, best);
  };
  // work(plan, begin, size) for all of n queries, shared out.
  const auto plainly = [&](int64_t queries, auto&& work) {
    const LookupPlan plan = PlanLookup(queries, packed_.panels, dim(), kernels.rows, Threads());
    if (plan.split_codes) return work(plan, int64_t{0}, queries);
    ParallelTasks(plan.tasks, [&](int64_t task) {
      const int64_t begin = task * plan.share;
      work(plan, begin, std::min(plan.share, queries - begin));
    });
  };
  if (!screened) {
    plainly(n, [&](const LookupPlan& plan, int64_t begin, int64_t size) {
      QueryChunk queries(kernels, spans, dim());
      queries.Prepare(x + begin * dim(), size);
      std::vector<Candidate> best(size * k);
      scan(plan, &queries, best.data());
      settle_scanned(queries, best.data(), [&](int64_t i) { return begin + i; });
    });
    return;
  }

  std::atomic<bool> hopeless{false};
  const int tile_rows = screen_->kernels->rows;
  const bool together = PlanLookup(n, packed_.panels, dim(), kernels.rows, Threads()).split_codes;
  ScreenScan screen(*screen_, *weighted->screen, k, &counts_, &hopeless, together);
  const ScreenPlan plan = PlanScreened(n, dim(), tile_rows, screen.batch_size(), together ? 1 : Threads());
  for (int64_t first = 0; first < n && !cancelled.load(); first += plan.round) {
    const int64_t size = std::min(plan.round, n - first);
    QueryChunk queries(kernels, spans, dim());
    queries.Resize(size);
    const int64_t parts = (size + plan.part - 1) / plan.part;
    std::vector<Kept<std::vector<SizedQuery>>> orders(parts);
    ParallelTasks(parts, [&](int64_t part) {
      const int64_t begin = part * plan.part, end = std::min(size, begin + plan.part);
      queries.Prepare(x + first * dim(), begin, end);
      screen.Order(queries, begin, end, &*orders[part]);
      for (int64_t i = begin; i < end; i++) {
        if (!queries.scored(i))
          settle_row(first + i, nullptr, nothing.data(), [](int32_t, int) { return nullptr; });
      }
    });
    struct Piece {
      const SizedQuery* queries;
      int count;
    };
    std::vector<Piece> batches;
    for (const auto& order : orders) {
      // As many batches as are needed, as equal as tiles allow.
      const int64_t tiles = (static_cast<int64_t>(order->size()) + tile_rows - 1) / tile_rows;
      const int64_t pieces = (tiles * tile_rows + plan.batch - 1) / plan.batch;
      for (int64_t i = 0; i < pieces; i++) {
        const int64_t begin = tiles * i / pieces * tile_rows;
        const int64_t end = std::min<int64_t>(tiles * (i + 1) / pieces * tile_rows, order->size());
        batches.push_back({order->data() + begin, static_cast<int>(end - begin)});
      }
    }
    const auto settle = [&](int64_t i, const Candidate* found, float* scratch) {
      settle_row(first + i, queries.seen(i), found, [&](int32_t index, int rank) {
        if (dim() > kLongestFromPanel) return packed_.rows.data() + int64_t{index} * dim();
        float* code = scratch + int64_t{rank} * dim();
        screen.CopyCode(index, code);
        return static_cast<const float*>(code);
      });
    };
    const auto run = [&](int64_t i) {
      screen.Run(queries, batches[i].queries, batches[i].count, settle, cancelled);
    };
    const int64_t count = static_cast<int64_t>(batches.size());
    if (together) {
      for (int64_t i = 0; i < count; i++) run(i);  // each with all threads
    } else {
      ParallelTasks(count, run);
    }
    std::vector<int32_t>& left = *screen.left();
    if (left.empty()) continue;
    plainly(static_cast<int64_t>(left.size()), [&](const LookupPlan& rest_plan, int64_t begin, int64_t rest) {
      QueryChunk some(kernels, spans, dim());
      some.Select(queries, left.data() + begin, rest);
      std::vector<Candidate> best(rest * k);
      scan(rest_plan, &some, best.data());
      settle_scanned(some, best.data(), [&](int64_t i) { return first + left[begin + i]; });
    });
    left.clear();
  }
  std::lock_guard<std::mutex> lock(cache_mutex_);
  screen_rest_ = hopeless ? std::min(kLongestScreenPause, 2 * screen_rest_ + 1) : 0;
  screen_pause_ = screen_rest_;
}

void Codebook::Gather(const int32_t* indices, int64_t n, float* out) const {
  for (int64_t i = 0; i < n; i++) {
    if (indices[i] >= 0 && indices[i] < codes()) continue;
    throw InvalidArgument("Expected indices from 0 to " + std::to_string(codes() - 1) + " but received " +
                          std::to_string(indices[i]) + " at position " + std::to_string(i));
  }
  const size_t row = dim() * sizeof(float);
  for (int64_t i = 0; i < n; i++) {
    std::memcpy(out + i * dim(), packed_.rows.data() + int64_t{indices[i]} * dim(), row);
  }
}

}  // namespace tokenflow

// From minima to the nearest codes, one warp per query.
//
// What the lookup kernels leave behind is a minimum per group of codes, exact or coarse. Groups are taken in ascending
// order of (minimum, number); each is scored again with the exact chain (one lane, one code at a time) and its codes are
// offered to a sorted list of the k best by (score, index). It ends when the next minimum is above the k-th best score
// plus the margin: a code of that group scores at least its minimum less the margin, so none can enter. With exact minima
// the margin is 0 and at most k groups are scored, because each of the k smallest groups holds a code that comes before
// every code of the next one.
//
// The list lies in registers, entry p in lane p % 32, slot p / 32. Distances are computed last, from the rows themselves
// (codebook/score.h), by the lane that holds the entry.
#include "score_key.cuh"
#include "settle.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kNoIndex = 0x7fffffff;  // sorts after every code

struct SettleArgs {
  QueryView queries;
  CodebookView book;
  const float* minima;
  int64_t groups;
  int k;
  NearestResult result;
};

// The k best (score, index) offered so far; every lane of the warp calls every function.
class BestList {
 public:
  DEVICE BestList(int k, int lane) : last_(k - 1), lane_(lane) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      score_[e] = INFINITY;
      index_[e] = kNoIndex;
    }
  }

  // The k-th best score: what a newcomer has to beat.
  DEVICE float worst() const {
    return worst_score_;
  }

  // Each lane offers one code.
  DEVICE void Offer(float score, int index) {
    const bool enters = score < INFINITY && Before(score, index, worst_score_, worst_index_);
    unsigned waiting = __ballot_sync(kFullWarp, enters);
    while (waiting != 0) {
      const int source = __ffs(static_cast<int>(waiting)) - 1;
      waiting &= waiting - 1;
      Insert(__shfl_sync(kFullWarp, score, source), __shfl_sync(kFullWarp, index, source));
    }
  }

  DEVICE int index(int slot) const {
    return index_[slot];
  }

 private:
  DEVICE void Insert(float score, int index) {
    if (!Before(score, index, worst_score_, worst_index_)) return;  // the same in every lane
    int position = 0;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      position += __popc(__ballot_sync(kFullWarp, Before(score_[e], index_[e], score, index)));
    }
    const float carry_score = __shfl_sync(kFullWarp, score_[0], 31);
    const int carry_index = __shfl_sync(kFullWarp, index_[0], 31);
#pragma unroll
    for (int e = 1; e >= 0; e--) {
      float moved_score = __shfl_up_sync(kFullWarp, score_[e], 1);
      int moved_index = __shfl_up_sync(kFullWarp, index_[e], 1);
      if (lane_ == 0 && e == 1) {
        moved_score = carry_score;
        moved_index = carry_index;
      }
      const int p = e * 32 + lane_;
      if (p == position) {
        score_[e] = score;
        index_[e] = index;
      } else if (p > position) {
        score_[e] = moved_score;
        index_[e] = moved_index;
      }
    }
    worst_score_ = __shfl_sync(kFullWarp, last_ < 32 ? score_[0] : score_[1], last_ & 31);
    worst_index_ = __shfl_sync(kFullWarp, last_ < 32 ? index_[0] : index_[1], last_ & 31);
  }

  int last_, lane_;
  float score_[2];
  int index_[2];
  float worst_score_ = INFINITY;
  int worst_index_ = kNoIndex;
};

// The chain of the definition for one code.
DEVICE float ExactScore(const CodebookView& book, const float* y, int64_t j) {
  const float* code = book.codes + j * book.stride;
  float score = book.norms[j];
  for (int k = 0; k < book.stride; k += 4) {  // zeros from dim on leave the score as it is
    const float4 a = *reinterpret_cast<const float4*>(y + k);
    const float4 b = *reinterpret_cast<const float4*>(code + k);
    score = fmaf(a.x, b.x, score);
    score = fmaf(a.y, b.y, score);
    score = fmaf(a.z, b.z, score);
    score = fmaf(a.w, b.w, score);
  }
  return score;
}

template <int kCodes>
DEVICE void ScoreGroup(const CodebookView& book, const float* y, int64_t group, int lane, BestList& list) {
#pragma unroll 1
  for (int i = 0; i < kCodes; i += 32) {
    const int64_t j = group * kCodes + i + lane;
    list.Offer(ExactScore(book, y, j), static_cast<int>(j));
  }
}

DEVICE bool IsZero(const float* v, int begin, int end) {
  for (int k = begin; k < end; k++) {
    if (v[k] != 0.0f) return false;
  }
  return true;
}

DEVICE float PartDistance(Metric metric, const PartSpan& part, const float* x, const float* c) {
  float sum = 0.0f;
  if (metric == Metric::kInnerProduct) {
    for (int k = part.begin; k < part.end; k++) sum = fmaf(x[k], c[k], sum);
    return sum;
  }
  if (metric == Metric::kCosine && (IsZero(x, part.begin, part.end) || IsZero(c, part.begin, part.end)))
    return 1.0f;
  for (int k = part.begin; k < part.end; k++) {
    const float difference = x[k] - c[k];
    sum = fmaf(difference, difference, sum);
  }
  return metric == Metric::kCosine ? 0.5f * sum : sum;
}

DEVICE void StoreEntry(const SettleArgs& a, int64_t q, int rank, int index) {
  const bool none = index == kNoIndex || !a.queries.scored[q];
  const int64_t at = q * a.k + rank;
  a.result.indices[at] = none ? kNoCode : index;
  if (a.result.distances == nullptr && a.result.part_distances == nullptr) return;
  float total = none ? NAN : 0.0f;
  for (int p = 0; p < a.book.part_count; p++) {
    const PartSpan part = a.book.parts[p];
    float distance = NAN;
    if (!none) {
      distance = PartDistance(a.book.metric, part, a.queries.seen + q * a.book.stride,
                              a.book.codes + static_cast<int64_t>(index) * a.book.stride);
      total = fmaf(part.weight, distance, total);
    }
    if (a.result.part_distances != nullptr) a.result.part_distances[p * a.result.part_stride + at] = distance;
  }
  if (a.result.distances != nullptr) a.result.distances[at] = total;
}

template <bool kKeys>
__global__ void __launch_bounds__(kThreads) SettleKernel(SettleArgs a) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  if (q >= a.queries.count) return;  // whole warps leave
  const float* y = a.queries.y + q * a.book.stride;
  BestList list(a.k, lane);
  unsigned scored_groups = 0;
  if constexpr (kKeys) {
    const uint64_t key = a.queries.keys[q];
    if (key != kNoKey) {
      ScoreGroup<kTileCodes>(a.book, y, NumberOfKey(key), lane, list);
      scored_groups++;
    }
  } else if (a.queries.scored[q]) {
    const float* minima = a.minima + q * a.groups;
    const float margin = a.queries.margin == nullptr ? 0.0f : a.queries.margin[q];
    float last = -INFINITY;
    int last_group = -1;
    for (;;) {
      // The next group after (last, last_group).
      float next = INFINITY;
      int next_group = kNoIndex;
      for (int g = lane; g < a.groups; g += 32) {
        const float m = minima[g];
        if (Before(last, last_group, m, g) && Before(m, g, next, next_group)) {
          next = m;
          next_group = g;
        }
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        const float m = __shfl_xor_sync(kFullWarp, next, step);
        const int g = __shfl_xor_sync(kFullWarp, next_group, step);
        if (Before(m, g, next, next_group)) {
          next = m;
          next_group = g;
        }
      }
      if (next_group == kNoIndex) break;
      // An infinite minimum of an exact kernel means no code; of a coarse one it may mean an overflow.
      if (next == INFINITY ? margin < INFINITY : next > list.worst() + margin) break;
      ScoreGroup<kGroupCodes>(a.book, y, next_group, lane, list);
      scored_groups++;
      last = next;
      last_group = next_group;
    }
  }
#pragma unroll
  for (int e = 0; e < 2; e++) {
    const int rank = e * 32 + lane;
    if (rank < a.k) StoreEntry(a, q, rank, list.index(e));
  }
  if (lane == 0 && a.result.scored_groups != nullptr) {
    atomicAdd(a.result.scored_groups, static_cast<unsigned long long>(scored_groups));
  }
}

template <bool kKeys>
void Start(const SettleArgs& args, cudaStream_t stream) {
  if (args.queries.count == 0) return;
  const auto blocks = static_cast<unsigned>(DivideUp<int64_t>(args.queries.count, kWarps));
  Launch(SettleKernel<kKeys>, dim3(blocks), dim3(kThreads), 0, stream, args);
}

}  // namespace

void SettleKeys(const QueryView& queries, const CodebookView& book, const NearestResult& result,
                cudaStream_t stream) {
  Start<true>({queries, book, nullptr, 0, 1, result}, stream);
}

void SettleMinima(const QueryView& queries, const CodebookView& book, const float* minima, int k,
                  const NearestResult& result, cudaStream_t stream) {
  Start<false>({queries, book, minima, book.padded / kGroupCodes, k, result}, stream);
}

}  // namespace tokenflow::cuda

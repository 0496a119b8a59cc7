// Rows brought into the order of their codes by a stable radix sort, so that every sum has the order of the rows and no float
// is ever added by an atomic. Eight bits of the code a pass, the lowest first; in a pass
//
//   CountKernel     a warp counts the digits of its tile of 1024 rows                    counts[digit][tile]
//   ScanKernel      the exclusive sum of the counts, digit by digit: where each (digit, tile) begins
//   ScatterKernel   each warp goes over its tile again and puts its rows there, in their order
//
// A warp owns 256 counters in shared memory (1 KB), which only its leaders touch: of the lanes with one digit, found by eight
// votes, the lowest adds their number, and a lane's place is the counter plus the peers below it. So there are no atomics and
// no barriers beyond the warp, and equal digits keep their order. ScanKernel is one block, 4096 counters at a time: for a
// million rows some 60 steps, little beside the two passes over the rows.
//
//   BeginsKernel    begin[j] by bisection of the sorted codes
//   SumKernel       one thread per (code, element) adds its rows in ascending order, in double: neighbouring threads read
//                   neighbouring floats of one row. The bits are those of codebook/code_sums.cc. A code with most of the rows
//                   keeps few threads long; that is the price of the order
//   FarthestKernel  one warp per code: the largest (value, lowest row)
#include "rows_by_code.cuh"

namespace tokenflow::cuda {

namespace {

constexpr int kDigits = 256;
constexpr int kTileRows = 1024;
constexpr int kSortThreads = 128;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kSortSharedBytes = kSortWarps * kDigits * 4;
constexpr int kScanThreads = 1024;
constexpr int kScanEach = 4;
constexpr int kScanSharedBytes = 33 * 4;
constexpr int kThreads = 256;

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>(DivideUp<int64_t>(threads, kThreads));
}

struct PassArgs {
  const int32_t* keys;
  const int32_t* rows;  // null in the first pass: row i is i
  int64_t n, tiles;
  int shift;
  uint32_t* counts;  // [digit][tile]
  int32_t *keys_out, *rows_out;
};

// The lanes of the warp whose digit is this lane's; lanes without a row form a group of their own.
DEVICE unsigned PeersOf(unsigned digit, bool there) {
  unsigned peers = __ballot_sync(kFullWarp, there);
  if (!there) peers = ~peers;
#pragma unroll
  for (int bit = 0; bit < 8; bit++) {
    const unsigned set = __ballot_sync(kFullWarp, digit >> bit & 1);
    peers &= digit >> bit & 1 ? set : ~set;
  }
  return peers;
}

// Goes over the warp's tile in order: visit(row of the tile, digit, peers, counter of the digit).
template <class Visit>
DEVICE void ForEachRow(const PassArgs& a, int64_t tile, unsigned char* counters, Visit visit) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t begin = tile * kTileRows, end = min(a.n, begin + kTileRows);
  for (int64_t i = begin + lane; i - lane < end; i += 32) {
    const bool there = i < end;
    const unsigned digit = there ? static_cast<unsigned>(a.keys[i]) >> a.shift & (kDigits - 1) : 0;
    const unsigned peers = PeersOf(digit, there);
    const uint32_t counter = LoadShared<uint32_t>(counters + digit * 4);
    if (there) visit(i, counter + __popc(peers & ((1u << lane) - 1)));
    __syncwarp();
    if (there && __ffs(static_cast<int>(peers)) - 1 == lane)
      StoreShared<uint32_t>(counters + digit * 4, counter + __popc(peers));
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kSortThreads) CountKernel(PassArgs a) {
  SHARED_MEMORY(shared);
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kSortWarps + warp;
  if (tile >= a.tiles) return;  // whole warps leave
  unsigned char* counters = shared + warp * kDigits * 4;
  for (int digit = lane; digit < kDigits; digit += 32) StoreShared<uint32_t>(counters + digit * 4, 0);
  __syncwarp();
  ForEachRow(a, tile, counters, [](int64_t, uint32_t) {});
  for (int digit = lane; digit < kDigits; digit += 32)
    a.counts[digit * a.tiles + tile] = LoadShared<uint32_t>(counters + digit * 4);
}

__global__ void __launch_bounds__(kSortThreads) ScatterKernel(PassArgs a) {
  SHARED_MEMORY(shared);
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kSortWarps + warp;
  if (tile >= a.tiles) return;  // whole warps leave
  unsigned char* counters = shared + warp * kDigits * 4;
  for (int digit = lane; digit < kDigits; digit += 32)
    StoreShared<uint32_t>(counters + digit * 4, a.counts[digit * a.tiles + tile]);
  __syncwarp();
  ForEachRow(a, tile, counters, [&](int64_t i, uint32_t place) {
    a.keys_out[place] = a.keys[i];
    a.rows_out[place] = a.rows == nullptr ? static_cast<int32_t>(i) : a.rows[i];
  });
}

// values[i] = the sum of those before it.
__global__ void __launch_bounds__(kScanThreads) ScanKernel(uint32_t* values, int64_t count) {
  SHARED_MEMORY(shared);  // the sums of the warps, and of all so far
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  uint32_t before = 0;
  for (int64_t base = 0; base < count; base += kScanThreads * kScanEach) {
    uint32_t own[kScanEach], total = 0;
    const int64_t first = base + static_cast<int64_t>(threadIdx.x) * kScanEach;
#pragma unroll
    for (int i = 0; i < kScanEach; i++) {
      own[i] = total;
      total += first + i < count ? values[first + i] : 0;
    }
    uint32_t sum = total;  // of the warp up to this lane
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t below = __shfl_up_sync(kFullWarp, sum, step);
      if (lane >= step) sum += below;
    }
    if (lane == 31) StoreShared<uint32_t>(shared + warp * 4, sum);
    __syncthreads();
    if (warp == 0) {
      const uint32_t mine = LoadShared<uint32_t>(shared + lane * 4);
      uint32_t upto = mine;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const uint32_t below = __shfl_up_sync(kFullWarp, upto, step);
        if (lane >= step) upto += below;
      }
      __syncwarp();
      StoreShared<uint32_t>(shared + lane * 4, upto - mine);
      if (lane == 31) StoreShared<uint32_t>(shared + 32 * 4, upto);
    }
    __syncthreads();
    const uint32_t start = before + LoadShared<uint32_t>(shared + warp * 4) + sum - total;
#pragma unroll
    for (int i = 0; i < kScanEach; i++) {
      if (first + i < count) values[first + i] = start + own[i];
    }
    before += LoadShared<uint32_t>(shared + 32 * 4);
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    BeginsKernel(const int32_t* keys, int64_t n, int64_t codes, int32_t* begin) {
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (code > codes) return;
  int64_t low = 0, high = n;  // the first key that is not below `code`
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  begin[code] = static_cast<int32_t>(low);
}

__global__ void __launch_bounds__(kThreads) SumKernel(const int32_t* rows, const int32_t* begin,
                                                      int64_t count, const float* x, int dim, double* sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t code = i / dim;
  const float* column = x + i % dim;
  const int32_t end = begin[code + 1];
  double sum = 0.0;
  for (int32_t at = begin[code]; at < end; at++)
    sum += static_cast<double>(column[static_cast<int64_t>(rows[at]) * dim]);
  sums[i] = sum;
}

__global__ void __launch_bounds__(kThreads)
    FarthestKernel(const int32_t* rows, const int32_t* begin, const float* values, const int32_t* which,
                   int64_t count, int32_t* found) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) >> 5;
  if (i >= count) return;  // whole warps leave
  const int32_t end = begin[which[i] + 1];
  float best = -INFINITY;
  int32_t best_row = 0x7fffffff;
  for (int32_t at = begin[which[i]] + lane; at < end; at += 32) {
    const int32_t row = rows[at];
    if (values[row] > best || (values[row] == best && row < best_row)) {
      best = values[row];
      best_row = row;
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kFullWarp, best, step);
    const int32_t other_row = __shfl_xor_sync(kFullWarp, best_row, step);
    if (other > best || (other == best && other_row < best_row)) {
      best = other;
      best_row = other_row;
    }
  }
  if (lane == 0) found[i] = best_row;
}

__global__ void __launch_bounds__(kThreads)
    OutOfRangeKernel(const int32_t* indices, int64_t n, int64_t codes, unsigned long long* first) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n && (indices[i] < 0 || indices[i] >= codes)) atomicMin(first, static_cast<unsigned long long>(i));
}

int64_t Tiles(int64_t n) {
  return DivideUp<int64_t>(n, kTileRows);
}

}  // namespace

SortedRows::SortedRows(Arena& arena, int64_t n, int64_t codes) : n(n), codes(codes) {
  if (n > kMostSortedRows) {
    throw InvalidArgument("Expected at most " + std::to_string(kMostSortedRows) +
                          " vectors on a card but received " + std::to_string(n) + "; use the CPU");
  }
  rows = arena.Take<int32_t>(n);
  spare = arena.Take<int32_t>(n);
  for (int32_t*& key : keys) key = arena.Take<int32_t>(n);
  begin = arena.Take<int32_t>(codes + 1);
  counts = arena.Take<uint32_t>(kDigits * Tiles(n));
}

void FirstOutOfRange(const int32_t* indices, int64_t n, int64_t codes, unsigned long long* first,
                     cudaStream_t stream) {
  if (n == 0) return;
  Launch(OutOfRangeKernel, dim3(Blocks(n)), dim3(kThreads), 0, stream, indices, n, codes, first);
}

void SortByCode(const int32_t* indices, const SortedRows& sorted, cudaStream_t stream) {
  int passes = 1;
  while (passes < 4 && (sorted.codes - 1) >> (8 * passes) > 0) passes++;
  const int64_t tiles = Tiles(sorted.n);
  const auto blocks = dim3(static_cast<unsigned>(DivideUp<int64_t>(tiles, kSortWarps)));
  PassArgs args{indices, nullptr, sorted.n, tiles, 0, sorted.counts, nullptr, nullptr};
  for (int pass = 0; pass < passes && sorted.n > 0; pass++) {
    args.shift = 8 * pass;
    args.keys_out = sorted.keys[pass % 2];
    args.rows_out = (passes - pass) % 2 == 1 ? sorted.rows : sorted.spare;  // the last pass ends in `rows`
    Launch(CountKernel, blocks, dim3(kSortThreads), kSortSharedBytes, stream, args);
    Launch(ScanKernel, dim3(1), dim3(kScanThreads), kScanSharedBytes, stream, sorted.counts, kDigits * tiles);
    Launch(ScatterKernel, blocks, dim3(kSortThreads), kSortSharedBytes, stream, args);
    args.keys = args.keys_out;
    args.rows = args.rows_out;
  }
  Launch(BeginsKernel, dim3(Blocks(sorted.codes + 1)), dim3(kThreads), 0, stream, args.keys, sorted.n,
         sorted.codes, sorted.begin);
}

void SumRows(const SortedRows& sorted, const float* x, int dim, double* sums, cudaStream_t stream) {
  const int64_t count = sorted.codes * dim;
  Launch(SumKernel, dim3(Blocks(count)), dim3(kThreads), 0, stream, sorted.rows, sorted.begin, count, x, dim,
         sums);
}

void FarthestRows(const SortedRows& sorted, const float* values, const int32_t* which, int64_t count,
                  int32_t* found, cudaStream_t stream) {
  if (count == 0) return;
  Launch(FarthestKernel, dim3(Blocks(count * 32)), dim3(kThreads), 0, stream, sorted.rows, sorted.begin,
         values, which, count, found);
}

}  // namespace tokenflow::cuda

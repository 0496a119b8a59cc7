// The lookup: prepare the queries, leave minima per group of codes, settle; and, where a quantiser asks for more than
// indices, fetch it. Three or four launches a pass.
#include "arena.h"
#include "lookup.cuh"
#include "nearest.cuh"
#include "prepare.cuh"
#include "screen.cuh"

namespace tokenflow::cuda {

namespace {

struct Workspace {
  QueryView queries{};
  float* minima = nullptr;

  Workspace(Arena& arena, const CodebookView& book, const LookupPlan& plan) {
    const int64_t n = plan.per_pass;
    queries.seen = arena.Take<float>(n * book.stride);
    queries.y = arena.Take<float>(n * book.stride);
    queries.scored = arena.Take<uint8_t>(n);
    if (plan.path == LookupPath::kKeys) {
      queries.keys = arena.Take<uint64_t>(n);
    } else {
      minima = arena.Take<float>(n * (book.padded / kGroupCodes));
    }
    if (plan.path == LookupPath::kScreen) {
      queries.y_low = arena.Take<uint16_t>(n * book.stride_low);
      queries.margin = arena.Take<float>(n);
    }
  }
};

}  // namespace

size_t LookupWorkspaceBytes(const CodebookView& book, const LookupPlan& plan) {
  Arena arena(nullptr);
  Workspace counted(arena, book, plan);
  return arena.used();
}

void Lookup(const float* x, int64_t count, const CodebookView& book, int k, const LookupPlan& plan,
            const NearestResult& result, void* memory, cudaStream_t stream) {
  if (k < 1 || k > kMaxNearest || k > book.count) {
    throw InvalidArgument("Expected 1 to " + std::to_string(std::min<int64_t>(kMaxNearest, book.count)) +
                          " for k but received " + std::to_string(k));
  }
  if (plan.path == LookupPath::kKeys && k != 1) throw InvalidArgument("Expected k = 1 for a lookup by keys");
  Arena arena(memory);
  Workspace space(arena, book, plan);
  for (int64_t begin = 0; begin < count; begin += plan.per_pass) {
    QueryView queries = space.queries;
    queries.x = x + begin * book.dim;
    queries.count = std::min(plan.per_pass, count - begin);
    NearestResult pass = result;
    pass.indices += begin * k;
    if (pass.distances != nullptr) pass.distances += begin * k;
    if (pass.part_distances != nullptr) pass.part_distances += begin * k;
    QuantizeResult& quantized = pass.quantized;
    if (quantized.codes != nullptr) quantized.codes += begin * book.dim;
    if (quantized.errors != nullptr) quantized.errors += begin;
    PrepareQueries(queries, book, stream);
    switch (plan.path) {
      case LookupPath::kKeys:
        NearestKeys(queries, book, plan.splits, stream);
        SettleKeys(queries, book, pass, stream);
        break;
      case LookupPath::kMinima:
        NearestMinima(queries, book, plan.splits, space.minima, stream);
        SettleMinima(queries, book, space.minima, k, pass, stream);
        break;
      case LookupPath::kScreen:
        ScreenMinima(queries, book, plan.splits, space.minima, stream);
        SettleMinima(queries, book, space.minima, k, pass, stream);
        break;
    }
    if (quantized.codes != nullptr || quantized.errors != nullptr || quantized.counts != nullptr)
      Quantize(queries, book, pass.indices, k, quantized, stream);
  }
}

}  // namespace tokenflow::cuda

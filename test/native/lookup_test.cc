// Codebook lookups against reference.h, plain and screened, over shapes that fill tiles, blocks and threads and shapes
// that do not; and lookups of several threads on one codebook.
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "codebook/codebook.h"
#include "codebook/plan.h"
#include "codebook/reference.h"
#include "expect.h"
#include "runtime/cpu_features.h"
#include "runtime/parallel.h"

using namespace tokenflow;

namespace {

const CancelFlag kNever{false};

struct Source {
  std::vector<std::vector<float>> vectors;  // per part [codes][dim]
  std::vector<int> dims;
  std::vector<bool> normalize;
  std::vector<float> weights;
  int64_t codes;
  int dim = 0;

  std::vector<CodebookPart> Parts() const {
    std::vector<CodebookPart> parts;
    for (size_t p = 0; p < dims.size(); p++) parts.push_back({vectors[p].data(), dims[p], normalize[p]});
    return parts;
  }

  std::vector<reference::Part> Reference(Metric metric) const {
    std::vector<reference::Part> parts;
    for (size_t p = 0; p < dims.size(); p++) {
      parts.push_back({vectors[p].data(), dims[p], normalize[p] || metric == Metric::kCosine, weights[p]});
    }
    return parts;
  }
};

// Plain numbers, a coarse grid with many ties, copies, or now and then NaN, infinity and what overflows.
void Fill(std::vector<float>* values, int kind, Numbers* numbers) {
  for (float& value : *values) {
    value = numbers->Float();
    if (kind == 1) value = std::round(value * 2);
    if (kind == 2) value = 0.5f + value * 1e-6f;
    if (kind == 3 && numbers->Below(60) == 0) {
      const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-39f, 0.0f};
      value = odd[numbers->Below(6)];
    }
  }
}

Source MakeSource(int64_t codes, int most_dim, int kind, Numbers* numbers) {
  Source source;
  source.codes = codes;
  const int parts = 1 + numbers->Below(3);
  for (int p = 0; p < parts; p++) {
    source.dims.push_back(1 + numbers->Below(most_dim));
    source.dim += source.dims.back();
    source.normalize.push_back(numbers->Below(2) == 0);
    const float weights[] = {1.0f, 1.0f, 0.5f, 0.0f, -1.0f};
    source.weights.push_back(weights[numbers->Below(5)]);
    source.vectors.emplace_back(codes * source.dims.back());
    Fill(&source.vectors.back(), kind, numbers);
  }
  return source;
}

void AgreesWithReference(int64_t codes, int n, int most_dim, ScreenMode mode, uint64_t seed) {
  Numbers numbers(seed);
  const int kind = numbers.Below(4);
  const Metric metrics[] = {Metric::kL2, Metric::kCosine, Metric::kInnerProduct};
  const Metric metric = metrics[numbers.Below(3)];
  const Source source = MakeSource(codes, most_dim, kind, &numbers);
  std::vector<float> queries(int64_t{n} * source.dim);
  Fill(&queries, kind, &numbers);
  const int ranks[] = {1, 1, 2, 5, 64};
  const int k = static_cast<int>(std::min<int64_t>(codes, ranks[numbers.Below(5)]));

  const Codebook codebook(source.Parts(), codes, metric, mode);
  std::vector<int32_t> indices(n * k), expected(n * k);
  std::vector<float> distances(n * k), parts(n * k * source.dims.size());
  codebook.Nearest(queries.data(), n, k, source.weights.data(),
                   {indices.data(), distances.data(), parts.data()}, kNever);
  for (int i = 0; i < n; i++) {
    reference::ChainNearest(metric, source.Reference(metric), codes, queries.data() + int64_t{i} * source.dim,
                            k, expected.data() + i * k);
  }
  Expect(indices == expected, "the indices are the reference's");
  std::vector<float> rows(n * source.dim);
  std::vector<int32_t> wanted;
  for (int i = 0; i < n; i++) {
    if (indices[i * k] != kNoCode) wanted.push_back(indices[i * k]);
  }
  codebook.Gather(wanted.data(), static_cast<int64_t>(wanted.size()), rows.data());
}

// More queries than are prepared at once, of sizes far apart, some without a nearest code, some that the screen cannot
// tell the codes apart for: every result is that of the plain lookup, bit for bit.
void SharesOutRounds() {
  Numbers numbers(9);
  const int64_t codes = 520, n = 1100;
  const int dim = 600;
  std::vector<float> vectors = numbers.Floats(codes * dim), queries = numbers.Floats(n * dim);
  for (int64_t j = 300; j < codes; j++) {
    for (int k = 0; k < dim; k++)
      vectors[j * dim + k] = 3.0f + vectors[300 * dim + k] + 1e-7f * numbers.Float();
  }
  for (int64_t i = 0; i < n; i++) {
    float* x = queries.data() + i * dim;
    const float scale = i % 3 == 0 ? 1e-3f : i % 3 == 1 ? 1.0f : 300.0f;
    for (int k = 0; k < dim; k++) x[k] = i % 5 == 4 ? 3.0f + x[k] : scale * x[k];
    if (i % 7 == 6) x[i % dim] = NAN;
  }
  const std::vector<CodebookPart> parts = {{vectors.data(), dim, false}};
  struct Results {
    std::vector<int32_t> indices;
    std::vector<float> floats;
  };
  const auto look_up = [&](ScreenMode mode) {
    const Codebook codebook(parts, codes, Metric::kL2, mode);
    Results r{std::vector<int32_t>(n), std::vector<float>(n * (2 + dim))};
    float *distances = r.floats.data(), *errors = distances + n, *rows = errors + n;
    codebook.Nearest(queries.data(), n, 1, nullptr, {r.indices.data(), distances, nullptr, rows, errors},
                     kNever);
    // With seven bits too little can be told apart here.
    if (mode == ScreenMode::kAlways && UseAvx512Vnni()) {
      Expect(codebook.counts().screened > 0, "the screen answers");
    }
    return r;
  };
  const Results plain = look_up(ScreenMode::kOff), screened = look_up(ScreenMode::kAlways);
  Expect(plain.indices == screened.indices, "every round is answered as without the screen");
  Expect(std::memcmp(plain.floats.data(), screened.floats.data(), plain.floats.size() * sizeof(float)) == 0,
         "distances, codes and errors are those of the plain lookup");
  Expect(PlanScreened(n, dim, 6, 90, 3).round < n, "there is more than one round");
}

// One codebook is looked up in by many at once, with weights of their own, while its screen is being packed.
void ServesSeveralThreads() {
  Numbers numbers(5);
  const int64_t codes = 5000, n = 400;
  const int dim = 32;
  const std::vector<float> vectors = numbers.Floats(codes * dim), queries = numbers.Floats(n * dim);
  const std::vector<CodebookPart> parts = {{vectors.data(), 24, false}, {vectors.data(), 8, true}};
  const Codebook codebook(parts, codes, Metric::kL2);
  const Codebook plain(parts, codes, Metric::kL2, ScreenMode::kOff);
  std::vector<std::vector<int32_t>> expected(3, std::vector<int32_t>(n));
  const std::vector<std::vector<float>> weights = {{1, 1}, {0.5f, 2}, {1, 0}};
  for (int w = 0; w < 3; w++) {
    plain.Nearest(queries.data(), n, 1, weights[w].data(), {expected[w].data(), nullptr, nullptr}, kNever);
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; caller++) {
    callers.emplace_back([&, caller] {
      std::vector<int32_t> found(n);
      for (int round = 0; round < 8; round++) {
        const int w = (caller + round) % 3;
        codebook.Nearest(queries.data(), n, 1, weights[w].data(), {found.data(), nullptr, nullptr}, kNever);
        wrong += found != expected[w];
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  Expect(wrong == 0, "lookups side by side give what they give alone");
  Expect(codebook.counts().queries == 3 * 8 * n, "every query is counted");
}

void RefusesIndicesOutOfRange() {
  const float vectors[] = {1, 2, 3};
  const Codebook codebook({{vectors, 1, false}}, 3, Metric::kL2);
  for (const int32_t wrong : {-1, 3}) {
    bool refused = false;
    float row;
    try {
      codebook.Gather(&wrong, 1, &row);
    } catch (const Error&) {
      refused = true;
    }
    Expect(refused, "an index out of range is an error");
  }
}

}  // namespace

int main() {
  RequireLevel();
  for (const int threads : {1, 3}) {
    SetThreads(threads);
    for (uint64_t seed = 0; seed < 150; seed++) {
      Numbers numbers(seed + 1000);
      AgreesWithReference(1 + numbers.Below(150), numbers.Below(20), 20, ScreenMode::kAuto, seed);
    }
    for (uint64_t seed = 0; seed < 6; seed++) {
      AgreesWithReference(2100, 50, 30, ScreenMode::kOff, 300 + seed);
      AgreesWithReference(2100, 50, 30, ScreenMode::kAlways, 300 + seed);
    }
  }
  SharesOutRounds();
  ServesSeveralThreads();
  RefusesIndicesOutOfRange();
  std::printf("lookup_test: all well\n");
  return 0;
}

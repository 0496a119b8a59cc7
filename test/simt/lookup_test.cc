// Nearest and top-k codes through every path, against the definition (codebook/reference.h): equal indices, equal bits of
// distances.
#include "lookup.cuh"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "codebook/reference.h"
#include "cpu/lookup_kernels.h"
#include "device_codebook.cuh"
#include "prepare.cuh"

using namespace tokenflow;
using simt::DeviceBuffer;

namespace {

#include "cpu/lookup_rows.inc"

struct PartSetting {
  int dim;
  bool normalize;
  float weight;
};

struct Setting {
  std::vector<PartSetting> parts;
  Metric metric = Metric::kL2;
  int64_t codes = 300;
  int64_t queries = 37;
  int k = 1;
  int splits = 3;
  int64_t per_pass = 0;  // 0: all
  unsigned seed = 1;
};

int Dim(const Setting& s) {
  int dim = 0;
  for (const PartSetting& p : s.parts) dim += p.dim;
  return dim;
}

// A codebook and queries, on the host; a test may spoil them before Run.
struct Problem {
  Setting setting;
  std::vector<std::vector<float>> vectors;  // by part: [codes][dim]
  std::vector<float> x;                     // [queries][dim of a row]

  explicit Problem(const Setting& s) : setting(s) {
    simt::Random random(s.seed);
    for (const PartSetting& p : s.parts) vectors.push_back(random.Normals(s.codes * p.dim));
    x = random.Normals(s.queries * Dim(s));
  }
};

struct Found {
  std::vector<int32_t> indices;
  std::vector<float> distances, part_distances;
  unsigned long long scored_groups;
};

Found Run(const Problem& problem, cuda::LookupPath path) {
  const Setting& s = problem.setting;
  std::vector<CodebookPart> parts;
  std::vector<PartSpan> spans;
  std::vector<float> weights;
  int begin = 0;
  for (size_t p = 0; p < s.parts.size(); p++) {
    const PartSetting& part = s.parts[p];
    const bool normalize = part.normalize || s.metric == Metric::kCosine;
    parts.push_back({problem.vectors[p].data(), part.dim, part.normalize});
    spans.push_back({begin, begin + part.dim, normalize, part.weight, QueryFactor(s.metric) * part.weight});
    weights.push_back(part.weight);
    begin += part.dim;
  }
  const PackedCodes packed = PackCodes(parts, s.codes, s.metric);
  cuda::HostCodebook host = cuda::LayOut(packed);
  cuda::CodebookView view = host.view;
  const DeviceBuffer<float> norms(cuda::LayOutNorms(packed, weights.data(), view.padded, &view.largest_norm));
  const DeviceBuffer<float> codes(host.codes);
  const DeviceBuffer<uint16_t> codes_low(host.codes_low);
  const DeviceBuffer<PartSpan> device_spans(spans);
  view.codes = codes.data();
  view.codes_low = codes_low.data();
  view.norms = norms.data();
  view.parts = device_spans.data();

  const DeviceBuffer<float> x(problem.x);
  cuda::LookupPlan plan{path, s.splits, s.per_pass ? s.per_pass : s.queries};
  DeviceBuffer<unsigned char> workspace(cuda::LookupWorkspaceBytes(view, plan));
  DeviceBuffer<int32_t> indices(s.queries * s.k);
  DeviceBuffer<float> distances(s.queries * s.k), part_distances(s.parts.size() * s.queries * s.k);
  DeviceBuffer<unsigned long long> scored(1, 0);
  const cuda::NearestResult result{indices.data(), distances.data(), part_distances.data(), s.queries * s.k,
                                   scored.data()};
  cuda::Lookup(x.data(), s.queries, view, s.k, plan, result, workspace.data(), nullptr);
  return {indices.ToHost(), distances.ToHost(), part_distances.ToHost(), scored[0]};
}

bool SameBits(float a, float b) {
  return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b));
}

void Check(const Problem& problem, const Found& found, const char* what) {
  const Setting& s = problem.setting;
  std::vector<reference::Part> parts;
  std::vector<PartSpan> spans;
  int begin = 0;
  for (size_t p = 0; p < s.parts.size(); p++) {
    const PartSetting& part = s.parts[p];
    const bool normalize = part.normalize || s.metric == Metric::kCosine;
    parts.push_back({problem.vectors[p].data(), part.dim, normalize, part.weight});
    spans.push_back({begin, begin + part.dim, normalize, part.weight, QueryFactor(s.metric) * part.weight});
    begin += part.dim;
  }
  const PackedCodes packed = [&] {
    std::vector<CodebookPart> given;
    for (size_t p = 0; p < s.parts.size(); p++) {
      given.push_back({problem.vectors[p].data(), s.parts[p].dim, s.parts[p].normalize});
    }
    return PackCodes(given, s.codes, s.metric);
  }();
  const int dim = Dim(s);
  int wrong = 0;
  std::vector<int32_t> want(s.k);
  std::vector<float> seen(dim), y(dim), part_distance(s.parts.size());
  for (int64_t q = 0; q < s.queries; q++) {
    const float* x = problem.x.data() + q * dim;
    reference::ChainNearest(s.metric, parts, s.codes, x, s.k, want.data());
    PrepareQuery(x, spans.data(), static_cast<int>(spans.size()), seen.data(), y.data());
    for (int r = 0; r < s.k; r++) {
      const int64_t at = q * s.k + r;
      bool good = found.indices[at] == want[r];
      float distance = NAN;
      if (want[r] != kNoCode) {
        const float* const code = packed.rows.data() + int64_t{want[r]} * dim;
        DistancesOf(s.metric, spans.data(), static_cast<int>(spans.size()), seen.data(), &code, 1, &distance,
                    part_distance.data(), 1);
      } else {
        for (float& d : part_distance) d = NAN;
      }
      good = good && SameBits(found.distances[at], distance);
      for (size_t p = 0; p < s.parts.size(); p++) {
        good = good && SameBits(found.part_distances[p * s.queries * s.k + at], part_distance[p]);
      }
      if (!good && wrong++ == 0) {
        simt::Fail(std::string(what) + ": query " + std::to_string(q) + " rank " + std::to_string(r) +
                   " gave " + std::to_string(found.indices[at]) + " at " +
                   std::to_string(found.distances[at]) + ", expected " + std::to_string(want[r]) + " at " +
                   std::to_string(distance));
      }
    }
  }
  if (wrong) simt::Fail(std::string(what) + ": " + std::to_string(wrong) + " wrong places");
}

const char* PathName(cuda::LookupPath path) {
  return path == cuda::LookupPath::kKeys ? "keys" : path == cuda::LookupPath::kMinima ? "minima" : "screen";
}

// Every path that can serve k, the screen also under the truncating tensor core.
void CheckAllPaths(const Problem& problem) {
  for (cuda::LookupPath path :
       {cuda::LookupPath::kKeys, cuda::LookupPath::kMinima, cuda::LookupPath::kScreen}) {
    if (path == cuda::LookupPath::kKeys && problem.setting.k != 1) continue;
    Check(problem, Run(problem, path), PathName(path));
  }
  simt::options().tensor_core = simt::TensorCore::kTruncate;
  Check(problem, Run(problem, cuda::LookupPath::kScreen), "screen, truncating");
  simt::options().tensor_core = simt::TensorCore::kNearest;
}

const std::vector<PartSetting> kOne8 = {{8, false, 1}};
const std::vector<PartSetting> kDual = {{32, true, 1}, {8, true, 1}};

}  // namespace

TEST("nearest, every thread order, tails of queries and codes") {
  simt::ForEachOrder([] {
    Setting s{kDual};
    s.codes = 391;
    s.queries = 131;
    CheckAllPaths(Problem(s));
  });
}

TEST("nearest at every dimension that changes the tiling") {
  for (int dim : {1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 100, 129, 200}) {
    Setting s{{{dim, false, 1}}};
    s.codes = 140 + dim;
    s.queries = 9;
    s.seed = 100 + dim;
    CheckAllPaths(Problem(s));
  }
}

TEST("nearest with 1024 dimensions in five parts") {
  Setting s{{{500, false, 0.5f}, {3, true, 2}, {257, false, 1}, {8, true, -1}, {256, false, 0.125f}}};
  s.codes = 200;
  s.queries = 5;
  CheckAllPaths(Problem(s));
}

TEST("more parts than a warp has lanes") {
  Setting s;
  for (int p = 0; p < 37; p++) s.parts.push_back({1 + p % 3, p % 2 == 0, 0.5f + p});
  s.codes = 150;
  s.queries = 6;
  CheckAllPaths(Problem(s));
}

TEST("every metric, weights of any sign") {
  for (Metric metric : {Metric::kL2, Metric::kCosine, Metric::kInnerProduct}) {
    for (float weight : {1.0f, 0.0f, -0.75f}) {
      Setting s{{{16, false, 1}, {8, true, weight}}, metric};
      s.k = 3;
      s.seed = 7;
      CheckAllPaths(Problem(s));
      s.k = 1;
      CheckAllPaths(Problem(s));
    }
  }
}

TEST("top-k, k from 2 to 64") {
  for (int k : {2, 3, 31, 32, 33, 63, 64}) {
    Setting s{kOne8};
    s.codes = 500;
    s.queries = 11;
    s.k = k;
    s.seed = k;
    CheckAllPaths(Problem(s));
  }
  Setting all{kOne8};  // as many as there are codes
  all.codes = 60;
  all.k = 60;
  all.queries = 3;
  CheckAllPaths(Problem(all));
}

TEST("one code, one query, codes and queries at tile borders") {
  for (int64_t codes : {1, 2, 63, 64, 65, 127, 128, 129, 256, 257}) {
    for (int64_t queries : {1, 127, 128, 129}) {
      if (queries > 1 && codes % 2 == 0) continue;  // enough of them
      Setting s{{{12, false, 1}}};
      s.codes = codes;
      s.queries = queries;
      s.splits = 2;
      s.seed = static_cast<unsigned>(codes);
      CheckAllPaths(Problem(s));
    }
  }
}

TEST("splits and passes change nothing") {
  Setting s{kDual};
  s.codes = 1300;  // eleven tiles
  s.queries = 130;
  for (int splits : {1, 4, 50}) {
    s.splits = splits;
    CheckAllPaths(Problem(s));
  }
  s.splits = 2;
  s.per_pass = 128;
  s.k = 2;
  CheckAllPaths(Problem(s));
}

TEST("equal codes: the lowest index, for k too") {
  Setting s{kOne8};
  s.codes = 512;
  s.k = 1;
  Problem problem(s);
  for (int j = 128; j < 512; j++)
    std::memcpy(&problem.vectors[0][j * 8], &problem.vectors[0][j % 128 * 8], 32);
  CheckAllPaths(problem);
  problem.setting.k = 9;
  CheckAllPaths(problem);
  for (int j = 0; j < 512; j++)
    std::memcpy(&problem.vectors[0][j * 8], &problem.vectors[0][0], 32);  // all the same
  CheckAllPaths(problem);
}

TEST("a later group holds the lower of two equal codes") {
  // Code 70 is the nearest, so its group is scored first and finds code 80 as the second; code 5 equals it.
  for (const int k : {2, 3}) {
    Setting s{kOne8};
    s.k = k;
    Problem problem(s);
    for (float& v : problem.vectors[0]) v += v < 0 ? -4.0f : 4.0f;
    std::fill(problem.x.begin(), problem.x.end(), 0.0f);
    for (int e = 0; e < 8; e++) {
      problem.vectors[0][70 * 8 + e] = 0.125f;
      problem.vectors[0][80 * 8 + e] = problem.vectors[0][5 * 8 + e] = 0.5f;
    }
    CheckAllPaths(problem);
    const Found found = Run(problem, cuda::LookupPath::kMinima);
    CHECK(found.indices[0] == 70 && found.indices[1] == 5);
  }
}

TEST("codes closer together than bf16 can tell") {
  Setting s{{{40, false, 1}}};
  s.codes = 640;
  s.queries = 20;
  Problem problem(s);
  simt::Random random(5);
  for (int j = 1; j < 640; j++) {
    for (int k = 0; k < 40; k++)
      problem.vectors[0][j * 40 + k] = problem.vectors[0][k] * (1 + 1e-6f * random.Normal());
  }
  CheckAllPaths(problem);
}

TEST("a query that is a code has distance 0") {
  Setting s{{{24, false, 1}}};
  s.codes = 200;
  s.queries = 20;
  Problem problem(s);
  for (int q = 0; q < 20; q++) std::memcpy(&problem.x[q * 24], &problem.vectors[0][(q * 9) * 24], 96);
  const Found found = Run(problem, cuda::LookupPath::kScreen);
  for (int q = 0; q < 20; q++) CHECK(found.indices[q] == q * 9 && found.distances[q] == 0);
}

TEST("NaN, infinity and overflow in codes and queries") {
  for (int k : {1, 4}) {
    for (Metric metric : {Metric::kL2, Metric::kCosine, Metric::kInnerProduct}) {
      Setting s{{{8, false, 1}, {4, false, 0.5f}}, metric};
      s.codes = 300;
      s.queries = 24;
      s.k = k;
      Problem problem(s);
      for (int j = 0; j < 300; j += 3) problem.vectors[0][j * 8 + j % 8] = NAN;
      problem.vectors[1][5 * 4] = INFINITY;
      problem.vectors[0][7 * 8] = 3e38f;  // its square overflows, and it is beyond bf16
      problem.vectors[1][8 * 4] = 3.4e38f;
      for (int i = 0; i < 8; i++) problem.vectors[0][10 * 8 + i] = 0;
      problem.x[0] = NAN;
      problem.x[12 + 9] = -INFINITY;
      problem.x[24] = 3e38f;  // a finite query whose y overflows for l2
      problem.x[36] = 1.69e38f;
      for (int i = 0; i < 12; i++) problem.x[48 + i] = 0;
      for (int i = 0; i < 12; i++) problem.x[60 + i] = 1e-39f;
      for (int i = 0; i < 12; i++) problem.x[72 + i] = 1e-20f;
      CheckAllPaths(problem);
    }
  }
}

TEST("no code can be chosen") {
  Setting s{kOne8};
  s.codes = 130;
  s.queries = 3;
  Problem problem(s);
  for (float& v : problem.vectors[0]) v = NAN;
  CheckAllPaths(problem);
}

TEST("far from the origin, and scales of twelve orders of magnitude side by side") {
  Setting s{kOne8};
  s.codes = 256;
  s.queries = 40;
  Problem problem(s);
  for (float& v : problem.vectors[0]) v += 1000;
  for (int q = 0; q < 40; q++) {
    for (int k = 0; k < 8; k++)
      problem.x[q * 8 + k] = problem.x[q * 8 + k] * std::pow(10.0f, q % 13 - 6) + (q % 2) * 1000;
  }
  CheckAllPaths(problem);
}

TEST("the screen discards: few groups are scored again") {
  Setting s{kDual};
  s.codes = 4096;
  s.queries = 64;
  Problem problem(s);
  const Found found = Run(problem, cuda::LookupPath::kScreen);
  Check(problem, found, "screen");
  const double share = static_cast<double>(found.scored_groups) / (64.0 * (4096 / cuda::kGroupCodes));
  std::printf("    %.2f%% of the groups scored again\n", 100 * share);
  CHECK(share < 0.08);
}

TEST("codes so close that the coarse order is not the exact one") {
  Setting s{{{32, false, 1}}};
  s.codes = 1024;
  s.queries = 64;
  Problem problem(s);
  for (int j = 1; j < 1024; j++) {
    for (int k = 0; k < 32; k++) {
      problem.vectors[0][j * 32 + k] = problem.vectors[0][k] + 0.01f * problem.vectors[0][j * 32 + k];
    }
  }
  Check(problem, Run(problem, cuda::LookupPath::kScreen), "screen");
}

TEST("what bf16 takes from a query, or from a code, is part of the margin") {
  // Code 10 has the largest product, by what is rounded away; in bf16 code 200 is ahead of it, by more than fp32 rounds.
  constexpr float kJustBelowHalf = 1 + 0x1p-8f - 0x1p-12f;  // 1 in bf16
  for (const bool of_query : {true, false}) {
    Setting s{{{40, false, 1}}, Metric::kInnerProduct};
    s.queries = 3;
    Problem problem(s);
    std::fill(problem.x.begin(), problem.x.end(), 1.0f);
    std::fill(problem.vectors[0].begin(), problem.vectors[0].end(), 0.0f);
    float *first = &problem.vectors[0][10 * 40], *second = &problem.vectors[0][200 * 40];
    for (int k = 0; k < 20; k++) {
      first[k] = of_query ? 1.0f : kJustBelowHalf;
      second[20 + k] = k == 0 ? 1.03125f : 1.0f;
      for (int q = 0; q < 3; q++) problem.x[q * 40 + k] = of_query ? kJustBelowHalf : 1.0f;
    }
    const Found found = Run(problem, cuda::LookupPath::kScreen);
    Check(problem, found, "screen");
    CHECK(found.indices[0] == 10);
  }
}

TEST("k beyond the codes or the limit is refused") {
  Setting s{kOne8};
  s.codes = 5;
  s.k = 6;
  bool refused = false;
  try {
    Run(Problem(s), cuda::LookupPath::kMinima);
  } catch (const Error& error) {
    refused = error.code == "ERR_TOKENFLOW_INVALID_ARGUMENT";
  }
  CHECK(refused);
}

TEST("shared memory is read and written without bank conflicts") {
  Setting s{kDual};
  s.codes = 256;
  s.queries = 128;
  for (cuda::LookupPath path :
       {cuda::LookupPath::kKeys, cuda::LookupPath::kMinima, cuda::LookupPath::kScreen}) {
    simt::ResetCounters();
    Run(Problem(s), path);
    CHECK(simt::counters().bank_conflicts == 0);
  }
  s.parts = {{160, false, 1}};  // the screen's queries pass through the ring
  simt::ResetCounters();
  Run(Problem(s), cuda::LookupPath::kScreen);
  CHECK(simt::counters().bank_conflicts == 0);
}

TEST("the plan fills the card and bounds the workspace") {
  const cuda::CardShape card{90, 132};
  CHECK(cuda::PlanLookup(100, 1024, 8, 1, card).path == cuda::LookupPath::kKeys);
  CHECK(cuda::PlanLookup(100, 1024, 8, 5, card).path == cuda::LookupPath::kMinima);
  CHECK(cuda::PlanLookup(8192, 32768, 40, 1, card).path == cuda::LookupPath::kScreen);
  CHECK(cuda::PlanLookup(8192, 32768, 40, 1, {75, 40}).path == cuda::LookupPath::kKeys);
  CHECK(cuda::PlanLookup(1, 32768, 40, 1, card).splits == 256);  // one block per tile
  CHECK(cuda::PlanLookup(256, 32768, 40, 1, card).splits == 132);
  CHECK(cuda::PlanLookup(1000000, 32768, 40, 1, card).splits >= 1);
  const auto big = cuda::PlanLookup(1000000, 262144, 40, 8, card);
  CHECK(big.per_pass % 128 == 0 && big.per_pass * (262144 / 64) * 4 <= cuda::kMinimaBytes);
}

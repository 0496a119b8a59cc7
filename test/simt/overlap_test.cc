// Runs that overlap: the next batch goes up and the last one comes down while one is computed; whatever order the streams
// fall into, each run has its own results, and nobody reads them before their event.
#include <algorithm>
#include <cmath>

#include "backend.h"
#include "check.h"
#include "fake_runtime.h"
#include "runtime/error.h"

using namespace tokenflow;
using simt::fake_runtime;

namespace {

constexpr int kRows = 5, kWidth = 8;

// y = W x, then x again: two kernels and a value in the arena.
Graph TwoLayers() {
  Graph graph;
  for (int i = 0; i < 3; i++) graph.values.push_back({{1, kRows, kWidth}, DType::kF32});
  graph.ops.push_back(Linear{0, 1, {"w"}, {}, Activation::kNone, kNoValue});
  graph.ops.push_back(Linear{1, 2, {"w"}, {}, Activation::kNone, kNoValue});
  graph.inputs.push_back({"x", 0});
  graph.outputs.push_back({"y", 2});
  return graph;
}

std::vector<float> Weights() {
  std::vector<float> w(kWidth * kWidth);
  for (size_t i = 0; i < w.size(); i++) w[i] = std::sin(static_cast<float>(i));
  return w;
}

struct Run {
  std::vector<float> x = std::vector<float>(kRows * kWidth), y = std::vector<float>(kRows * kWidth, NAN);
  std::function<void()> rest;

  explicit Run(int seed) {
    for (size_t i = 0; i < x.size(); i++) x[i] = std::cos(static_cast<float>(seed * 100 + i));
  }
  void Start(Program& program) {
    const CancelFlag never(false);
    rest = program.Start({x.data()}, {y.data()}, never);
  }
  bool Right() const {
    std::vector<float> from = x, to(x.size());
    const std::vector<float> w = Weights();
    for (int layer = 0; layer < 2; layer++, from = to) {
      for (int r = 0; r < kRows; r++) {
        for (int n = 0; n < kWidth; n++) {
          float sum = 0;
          for (int k = 0; k < kWidth; k++) sum = std::fma(from[r * kWidth + k], w[n * kWidth + k], sum);
          to[r * kWidth + n] = sum;
        }
      }
    }
    return to == y;
  }
};

// A card whose streams run ahead as `wander` says; `log` receives what happens.
struct Card {
  std::vector<std::string> log;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<WeightStore> store;

  explicit Card(unsigned wander) {
    fake_runtime() = simt::FakeRuntime();
    simt::FakeDevice device;
    device.name = "Card";
    fake_runtime().devices = {device};
    backend = cuda::OpenBackend(0);
    store = backend->CreateStore();
    fake_runtime().wander = wander;
    fake_runtime().observe = [this](const char* stage, const char* what) {
      log.push_back(std::string(stage) + " " + what);
    };
  }
  ~Card() { fake_runtime() = simt::FakeRuntime(); }

  std::shared_ptr<Program> Compile() const {
    const auto program = backend->Compile(TwoLayers(), store, Precision::kF32);
    if (!program->MissingWeights().empty()) program->SetWeight("w", Weights().data(), kWidth * kWidth);
    return program;
  }
  // The position of the n-th of these lines, counted from 1; the log's length when it is not there.
  size_t Find(const std::string& line, int n) const {
    for (size_t i = 0; i < log.size(); i++) {
      if (log[i] == line && --n == 0) return i;
    }
    return log.size();
  }
};

}  // namespace

TEST("a run is started before the one in front of it is waited for, each result after its own event") {
  for (const bool captured : {false, true}) {
    Card card(0);
    const auto program = card.Compile();
    if (captured) {
      Run first(9);
      first.Start(*program);
      first.rest();
      card.log.clear();
    }
    Run a(1), b(2);
    a.Start(*program);
    b.Start(*program);
    // All of it is issued, nothing has run, nobody has waited.
    CHECK(card.Find("issued upload", 2) < card.log.size() &&
          card.Find("issued download", 2) < card.log.size());
    for (const std::string& line : card.log) CHECK(line.rfind("issued", 0) == 0);
    CHECK(std::isnan(a.y[0]) && std::isnan(b.y[0]));
    a.rest();
    CHECK(a.Right() && std::isnan(b.y[0]));
    CHECK(card.Find("ran download", 1) < card.Find("waited event", 1));
    CHECK(card.Find("ran download", 2) == card.log.size());  // a's event does not wait for b
    b.rest();
    CHECK(b.Right());
  }
}

TEST("in whatever order the streams run, every result is right, and copies do run beside computation") {
  int uploads_ahead = 0, downloads_beside = 0;
  for (unsigned seed = 1; seed <= 60; seed++) {
    Card card(seed);
    // Two programs of one model share memory.
    const std::shared_ptr<Program> programs[] = {card.Compile(), card.Compile()};
    std::vector<Run> runs;
    for (int i = 0; i < 8; i++) runs.emplace_back(i);
    for (size_t i = 0; i < runs.size(); i++) {
      runs[i].Start(*programs[i % 3 == 2]);
      if (i > 0) runs[i - 1].rest();
      if (i > 0) CHECK(runs[i - 1].Right());
    }
    runs.back().rest();
    CHECK(runs.back().Right());
    // Kernels are told one by one, a run has three pieces of work for them: the faults cleared, and two layers.
    for (int run = 1; run < 8; run++) {
      uploads_ahead += card.Find("ran upload", run + 1) < card.Find("ran compute", 3 * run);
      downloads_beside += card.Find("ran compute", 3 * run + 1) < card.Find("ran download", run);
    }
  }
  CHECK(uploads_ahead > 0);
  CHECK(downloads_beside > 0);
}

TEST("memory that has to move waits for the run that has it") {
  Card card(0);
  const auto small = card.Compile();
  Graph graph = TwoLayers();
  for (GraphValue& value : graph.values) value.shape = {1, 400, kWidth};
  const auto large = card.backend->Compile(graph, card.store, Precision::kF32);
  Run a(1);
  a.Start(*small);
  std::vector<float> x(400 * kWidth, 1.0f), y(x.size(), NAN);
  const CancelFlag never(false);
  const auto rest = large->Start({x.data()}, {y.data()}, never);
  CHECK(a.Right());  // it was landed before the arena grew
  rest();
  a.rest();
  CHECK(a.Right() && !std::isnan(y[0]));
}

TEST("without memory for two runs they take turns") {
  Card card(0);
  const auto program = card.Compile();
  Run first(0);
  first.Start(*program);
  first.rest();
  int allowed = 0;
  fake_runtime().fault = [&](const char* call) {
    return std::string(call) == "cudaMalloc" && allowed-- <= 0 ? cudaErrorMemoryAllocation : cudaSuccess;
  };
  Run a(1), b(2), c(3);
  a.Start(*program);
  b.Start(*program);
  CHECK(a.Right());  // landed for b
  a.rest();
  c.Start(*program);
  CHECK(b.Right());
  b.rest();
  c.rest();
  CHECK(c.Right());
}

TEST("a failure of one run is its own") {
  Card card(0);
  const auto program = card.Compile();
  Run a(1), b(2), c(3);
  a.Start(*program);
  fake_runtime().fault = [](const char* call) {
    return std::string(call) == "launch" ? cudaErrorLaunchOutOfResources : cudaSuccess;
  };
  bool refused = false;
  try {
    b.Start(*program);
  } catch (const Error&) {
    refused = true;
  }
  fake_runtime().fault = nullptr;
  CHECK(refused);
  c.Start(*program);
  a.rest();
  c.rest();
  CHECK(a.Right() && c.Right());
}

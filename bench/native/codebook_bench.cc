// Speed of the codebook lookup against the fp32 multiply-add peak of the same core, the two measured in turn so that a
// change of clock cancels: whole lookups, and their kernels alone on data in the first-level cache.
//
//   codebook_bench [only = ""] [threads = 1] [seconds per row = 1]
//
// Rows whose name contains `only`. Prints the share of the peak: of the least times, and the median of the shares.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "codebook/codebook.h"
#include "cpu/fma_peak.h"
#include "runtime/cpu_features.h"
#include "runtime/parallel.h"

using namespace tokenflow;

namespace {

// With one thread the time that this thread ran, otherwise wall time.
double Now() {
  if (Threads() == 1) {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

using Rows = std::vector<float>;

void Normalise(float* v, int dim) {
  double sum = 0;
  for (int k = 0; k < dim; k++) sum += double{v[k]} * v[k];
  for (int k = 0; k < dim; k++) v[k] /= std::sqrt(sum);
}

// Rows like the tokenizer's: of 40 elements, two normalised halves; else whole unit vectors, or plain normal ones.
void Shape(Rows* rows, int dim) {
  for (size_t at = 0; at < rows->size(); at += dim) {
    if (dim != 40) {
      if (dim > 8) Normalise(rows->data() + at, dim);
      continue;
    }
    Normalise(rows->data() + at, 32);
    Normalise(rows->data() + at + 32, 8);
  }
}

Rows Random(int64_t n, int dim, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Rows rows(n * dim);
  for (float& v : rows) v = normal(random);
  Shape(&rows, dim);
  return rows;
}

// 512 tight clusters, as codebooks that were trained look.
Rows Clustered(int64_t n, int dim, int seed) {
  const Rows centres = Random(512, dim, 1), directions = Random(512 * 6, dim, 2);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Rows rows(n * dim);
  for (int64_t i = 0; i < n; i++) {
    const int cluster = random() % 512;
    float along[6];
    for (float& a : along) a = normal(random);
    for (int k = 0; k < dim; k++) {
      float shift = 0;
      for (int u = 0; u < 6; u++) shift += along[u] * directions[(cluster * 6 + u) * dim + k];
      rows[i * dim + k] =
          centres[cluster * dim + k] + 0.028f * (shift * std::sqrt(float(dim) / 12) + normal(random));
    }
  }
  Shape(&rows, dim);
  return rows;
}

double PeakSeconds(int threads, int64_t rounds, double* operations) {
  static const auto run = DetectedCpuFeatures().avx512 ? FmaRoundsAvx512
                          : DetectedCpuFeatures().avx2 ? FmaRoundsAvx2
                                                       : FmaRoundsScalar;
  std::vector<double> done(threads);
  const double started = Now();
  OnThreads(threads, [&](int thread) { done[thread] = run(rounds); });
  const double seconds = Now() - started;
  *operations = 0;
  for (const double d : done) *operations += d;
  return seconds;
}

std::string only;
int threads = 1;
double budget = 1;

void Measure(const std::string& name, double operations, const std::function<void()>& work,
             double exact = 0) {
  if (name.find(only) == std::string::npos) return;
  const auto timed = [&work] {
    const double started = Now();
    work();
    return Now() - started;
  };
  timed();
  // As long a stretch of the peak as of the work: interrupts spare the short ones.
  const int64_t rounds = std::max<int64_t>(1000, static_cast<int64_t>(timed() * 5e8));
  double least = 1e9, peak = 0, peak_operations;
  std::vector<double> shares;
  for (const double end = Now() + budget; Now() < end;) {
    const double peak_seconds = PeakSeconds(threads, rounds, &peak_operations);
    const double rate = peak_operations / peak_seconds;
    const double seconds = timed();
    least = std::min(least, seconds);
    peak = std::max(peak, rate);
    shares.push_back(operations / seconds / rate);
  }
  std::sort(shares.begin(), shares.end());
  std::printf("%-34s %9.3f ms %7.1f GFLOP/s  %6.1f %% of %.0f   median %6.1f %%  exact %.3f %%\n",
              name.c_str(), least * 1e3, operations / least / 1e9, 100 * operations / least / peak,
              peak / 1e9, 100 * shares[shares.size() / 2], exact);
  std::fflush(stdout);
}

void Lookup(const char* kind, int dim, int64_t codes, int64_t n, int k, const char* data) {
  const std::string name = std::string(kind) + "/" + std::to_string(dim) + "/" + std::to_string(codes) + "/" +
                           std::to_string(n) + "/k" + std::to_string(k) + "/" + data;
  if (name.find(only) == std::string::npos) return;
  const bool screened = std::string(kind) != "tile";
  const bool tight = std::string(data) == "clustered";
  const Rows vectors = tight ? Clustered(codes, dim, 3) : Random(codes, dim, 3);
  const Rows x = tight ? Clustered(n, dim, 4) : Random(n, dim, 4);
  const Codebook codebook({{vectors.data(), dim, false}}, codes, Metric::kL2,
                          screened ? ScreenMode::kAlways : ScreenMode::kOff);
  std::vector<int32_t> indices(n * k);
  std::vector<float> distances(n * k);
  const CancelFlag cancelled{false};
  const auto work = [&] {
    codebook.Nearest(x.data(), n, k, nullptr, {indices.data(), distances.data(), nullptr}, cancelled);
  };
  work();
  const LookupCounts counts = codebook.counts();
  const double exact =
      counts.screened > 0 ? 100.0 * counts.exact_scores / (double(counts.screened) * codes) : 0;
  Measure(name, 2.0 * n * codes * dim, work, exact);
}

void FoldAlone(int dim) {
  const LookupKernels& kernels = ActiveLookup();
  const int64_t panels = std::max<int64_t>(1, (24 << 10) / (64 * 4 * dim)) * kPanelGroup;
  const Rows source = Random(panels * 16, dim, 3), y = Random(kernels.rows, dim, 4);
  AlignedVector<float> codes(source.begin(), source.end()), norms(panels * 16, 1.0f),
      tile(y.begin(), y.end());
  AlignedVector<LaneState> states(kernels.rows);
  for (LaneState& state : states) std::fill(state.best, state.best + 16, INFINITY);
  const PanelView view{codes.data(), norms.data(), dim};
  const int repeats = 400;
  Measure("fold/" + std::to_string(dim), 2.0 * repeats * kernels.rows * panels * 16 * dim, [&] {
    for (int i = 0; i < repeats; i++) kernels.fold[kernels.rows](view, 0, panels, tile.data(), states.data());
  });
}

}  // namespace

int main(int argc, char** argv) {
  only = argc > 1 ? argv[1] : "";
  threads = argc > 2 ? std::atoi(argv[2]) : 1;
  budget = argc > 3 ? std::atof(argv[3]) : 1;
  SetThreads(threads);
  if (threads == 1) {
    for (const int dim : {8, 32, 40, 64}) FoldAlone(dim);
  }
  for (const int dim : {8, 32, 40, 64}) Lookup("tile", dim, 32768, 817, 1, "unit");
  Lookup("tile", 40, 32768, 817, 10, "unit");
  Lookup("screen", 40, 32768, 817, 1, "unit");
  Lookup("screen", 40, 32768, 8192, 1, "unit");
  Lookup("screen", 40, 32768, 817, 1, "clustered");
  Lookup("screen", 8, 32768, 817, 1, "gauss");
  Lookup("screen", 40, 32768, 817, 10, "unit");
  for (const int64_t n : {1, 4, 16}) Lookup("screen", 40, 32768, n, 1, "unit");
  Lookup("tile", 8, 262144, 817, 1, "gauss");
  Lookup("tile", 256, 16384, 817, 1, "unit");
  Lookup("screen", 8, 262144, 817, 1, "gauss");
  Lookup("screen", 256, 16384, 817, 1, "unit");
  return 0;
}

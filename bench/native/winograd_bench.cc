// Speed of WinogradConv3x3 on the model's shapes, alone and with everything fused (normalised and activated
// input, residual, group sums).
//
//   winograd_bench [threads = 1] [seconds per shape = 0.3] [fused = 1] [side channels]
//
// Times are the least of many runs: with one thread the time this thread ran, otherwise wall time.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "cpu/winograd.h"
#include "runtime/parallel.h"

using tokenflow::Conv3x3Call;
using tokenflow::WinogradConv3x3;

namespace {

double Now() {
  if (tokenflow::Threads() == 1) {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Shape {
  int cin, cout, side, batch;
};

float* Allocate(size_t floats) {
  return static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double budget = argc > 2 ? std::atof(argv[2]) : 0.3;
  const bool fused = argc <= 3 || std::atoi(argv[3]) != 0;
  tokenflow::SetThreads(threads);
  const Shape shapes[] = {{128, 128, 256, 1}, {128, 128, 128, 1},  {128, 256, 64, 1},   {256, 256, 64, 1},
                          {256, 256, 32, 1},  {256, 512, 16, 1},   {512, 512, 16, 1},   {512, 512, 16, 4},
                          {512, 512, 64, 1},  {1024, 1024, 16, 1}, {1024, 1024, 32, 1}, {256, 256, 128, 1},
                          {256, 256, 256, 1}, {64, 64, 64, 1},     {32, 32, 128, 1}};
  std::mt19937 random(1);
  for (const Shape& s : shapes) {
    if (argc > 5 && (s.side != std::atoi(argv[4]) || s.cin != std::atoi(argv[5]))) continue;
    const size_t pixels = size_t(s.batch) * s.side * s.side;
    std::vector<float> weight(size_t(s.cin) * s.cout * 9);
    for (float& w : weight) w = std::normal_distribution<float>()(random) * 0.03f;
    std::vector<float> scale(s.batch * s.cin, 1.01f), shift(s.batch * s.cin, 0.01f), bias(s.cout, 0.1f);
    std::vector<double> sums(s.batch * 64);
    float *x = Allocate(pixels * s.cin), *y = Allocate(pixels * s.cout);
    for (size_t i = 0; i < pixels * s.cin; i++) x[i] = (i * 2654435761u >> 8 & 1023) / 512.f - 1;
    for (size_t i = 0; i < pixels * s.cout; i++) y[i] = 0.f;
    WinogradConv3x3 convolution(s.cin, s.cout, weight.data(), bias.data());
    Conv3x3Call call;
    call.x = x, call.y = y, call.batch = s.batch, call.height = call.width = s.side;
    if (fused) {
      call.scale = scale.data(), call.shift = shift.data(), call.residual = y;
      call.group_sums = sums.data(), call.groups = std::min(32, s.cout / 4);
    }
    call.scratch_bytes = convolution.ScratchBytes(call);
    call.scratch = Allocate(call.scratch_bytes / 4);
    double best = 1e9;
    int runs = 0;
    for (const double start = Now(); Now() - start < budget || runs < 3; runs++) {
      const double begin = Now();
      convolution.Run(call);
      best = std::min(best, Now() - begin);
    }
    const double gflop = 2e-9 * 9 * s.cin * s.cout * pixels;
    std::printf("%4d->%4d @%3d x%d  %8.3f ms  %7.1f GF/s effective  scratch %.1f MB\n", s.cin, s.cout, s.side,
                s.batch, best * 1e3, gflop / best, call.scratch_bytes / 1e6);
    std::fflush(stdout);
    std::free(x), std::free(y), std::free(call.scratch);
  }
}

#include "runtime/parallel.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "runtime/error.h"

namespace tokenflow {

namespace {

std::atomic<int> requested{0};

int DefaultThreads() {
  static const int threads = [] {
    const char* text = std::getenv("TOKENFLOW_NUM_THREADS");
    if (text == nullptr || *text == '\0') return omp_get_num_procs();
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (*end != '\0' || value < 1 || value > 1024) {
      throw InvalidArgument(
          std::string("Expected a whole number from 1 to 1024 for TOKENFLOW_NUM_THREADS but received '") +
          text + "'");
    }
    return static_cast<int>(value);
  }();
  return threads;
}

}  // namespace

int Threads() {
  const int threads = requested.load(std::memory_order_relaxed);
  return threads > 0 ? threads : DefaultThreads();
}

void SetThreads(int threads) {
  requested.store(threads, std::memory_order_relaxed);
}

}  // namespace tokenflow

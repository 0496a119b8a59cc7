#include "runtime/parallel.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "runtime/error.h"

namespace tokenflow {

namespace {

std::atomic<int> requested{0};
thread_local bool alone = false;

int Processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

int DefaultThreads() {
  static const int threads = [] {
    const char* text = std::getenv("TOKENFLOW_NUM_THREADS");
    if (text == nullptr || *text == '\0') return Processors();
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

// A thread that waits looks again and again for some tens of microseconds, longer than most gaps between two loops
// of a program; then, for half a millisecond, it offers its processor to whoever wants it between two looks; then it
// sleeps. To be woken takes long where the processor is a virtual one: 50 to 150 microseconds, and a program has
// hundreds of loops.
constexpr int kSpins = 2000;
constexpr std::chrono::microseconds kOffering(500);

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Whether `ready` came true before it was time to sleep. `crowded`: more threads than processors, where whoever
// stays awake is in the way of whom it waits for.
template <class Ready>
bool WaitAwake(bool crowded, Ready&& ready) {
  for (int i = 0; i < kSpins; i++) {
    if (ready()) return true;
    Pause();
  }
  if (crowded) return ready();
  const auto end = std::chrono::steady_clock::now() + kOffering;
  while (std::chrono::steady_clock::now() < end) {
    if (ready()) return true;
    sched_yield();
  }
  return ready();
}

// The calling thread and up to `threads - 1` workers. Workers are made when first needed and never end: the process
// may exit while they sleep.
//
// Whoever is awake takes the next index of a call, the caller too: a loop that is over before a worker has woken up
// does not wait for it.
class Team {
 public:
  void Run(int threads, void (*task)(void*, int), void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return Sequentially(threads, task, context);
    Recruit(threads - 1);
    task_ = task;
    context_ = context;
    crowded_.store(threads > processors_, std::memory_order_relaxed);
    failure_ = nullptr;
    unfinished_.store(threads, std::memory_order_relaxed);
    bool sleepers;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const Call next{static_cast<uint32_t>(Read().number + 1), static_cast<uint16_t>(threads), 1};
      call_.store(next.word(), std::memory_order_release);
      sleepers = sleeping_ > 0;
    }
    if (sleepers) wake_.notify_all();
    Work(0);
    Share(Read().number);
    const auto done = [&] { return unfinished_.load(std::memory_order_acquire) == 0; };
    if (!WaitAwake(crowded_.load(std::memory_order_relaxed), done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, done);
    }
    const std::exception_ptr failure = failure_;
    busy_.store(false, std::memory_order_release);
    if (failure) std::rethrow_exception(failure);
  }

 private:
  // A call in one word, so that an index is taken of the very call that was seen: a thread that comes late touches
  // nothing of the next one.
  struct Call {
    uint32_t number;
    uint16_t threads;  // indices there are
    uint16_t taken;    // of them

    uint64_t word() const { return uint64_t{number} << 32 | uint64_t{threads} << 16 | taken; }
    static Call Of(uint64_t word) {
      return {static_cast<uint32_t>(word >> 32), static_cast<uint16_t>(word >> 16),
              static_cast<uint16_t>(word)};
    }
  };

  Call Read() const { return Call::Of(call_.load(std::memory_order_acquire)); }

  static void Sequentially(int threads, void (*task)(void*, int), void* context) {
    for (int thread = 0; thread < threads; thread++) task(context, thread);
  }

  // Sees to it that there are so many workers, or as many as the system grants: those there are share the work.
  void Recruit(int wanted) {
    try {
      while (workers_ < wanted) {
        std::thread([this, seen = Read().number] { Serve(seen); }).detach();
        workers_++;
      }
    } catch (const std::exception&) {
    }
  }

  void Serve(uint32_t seen) {
    for (;;) {
      const auto called = [&] { return Read().number != seen; };
      if (!WaitAwake(crowded_.load(std::memory_order_relaxed), called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_++;
        wake_.wait(lock, called);
        sleeping_--;
      }
      seen = Read().number;
      Share(seen);
    }
  }

  // Takes indices of this call while there are any.
  void Share(uint32_t number) {
    uint64_t word = call_.load(std::memory_order_acquire);
    for (;;) {
      Call call = Call::Of(word);
      if (call.number != number || call.taken == call.threads) return;
      const int thread = call.taken++;
      if (!call_.compare_exchange_weak(word, call.word(), std::memory_order_acq_rel,
                                       std::memory_order_acquire))
        continue;
      Work(thread);
      word = call_.load(std::memory_order_acquire);
    }
  }

  void Work(int thread) {
    try {
      task_(context_, thread);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      std::lock_guard<std::mutex> lock(mutex_);  // the caller is either before its test or asleep
      done_.notify_one();
    }
  }

  const int processors_ = Processors();
  std::atomic<bool> busy_{false};
  std::atomic<bool> crowded_{false};
  std::atomic<uint64_t> call_{0};   // the last one
  std::atomic<int> unfinished_{0};  // indices of it
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  int sleeping_ = 0;  // under the mutex
  int workers_ = 0;

  // Of the call under way.
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::exception_ptr failure_;
};

}  // namespace

Alone::Alone() : before_(alone) {
  alone = true;
}

Alone::~Alone() {
  alone = before_;
}

int Threads() {
  if (alone) return 1;
  const int threads = requested.load(std::memory_order_relaxed);
  return threads > 0 ? threads : DefaultThreads();
}

void SetThreads(int threads) {
  requested.store(threads, std::memory_order_relaxed);
}

void RunOnTeam(int threads, void (*task)(void* context, int thread), void* context) {
  static Team* team = new Team();  // leaked on purpose: its threads outlive the statics
  team->Run(threads, task, context);
}

}  // namespace tokenflow

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
class Team {
 public:
  void Run(int threads, void (*task)(void*, int), void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return Alone(threads, task, context);
    const int members = 1 + Recruit(threads - 1);
    task_ = task;
    context_ = context;
    threads_ = threads;
    crowded_ = members > processors_;
    failure_ = nullptr;
    working_.store(members - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // One word says that there is work and who takes part: whoever does not, touches nothing else of it.
      const uint64_t call = (state_.load(std::memory_order_relaxed) >> kMemberBits) + 1;
      state_.store(call << kMemberBits | static_cast<uint64_t>(members), std::memory_order_release);
    }
    wake_.notify_all();
    Work(0, members);
    const auto done = [&] { return working_.load(std::memory_order_acquire) == 0; };
    if (!WaitAwake(crowded_, done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, done);
    }
    const std::exception_ptr failure = failure_;
    busy_.store(false, std::memory_order_release);
    if (failure) std::rethrow_exception(failure);
  }

 private:
  static constexpr int kMemberBits = 16;

  static void Alone(int threads, void (*task)(void*, int), void* context) {
    for (int thread = 0; thread < threads; thread++) task(context, thread);
  }

  // Sees to it that there are so many workers, or as many as the system grants.
  int Recruit(int wanted) {
    try {
      while (workers_ < wanted) {
        std::thread([this, member = workers_ + 1, seen = state_.load()] { Serve(member, seen); }).detach();
        workers_++;
      }
    } catch (const std::exception&) {
      return workers_;  // the members there are share the work
    }
    return wanted;
  }

  void Serve(int member, uint64_t seen) {
    for (;;) {
      const auto called = [&] { return state_.load(std::memory_order_relaxed) != seen; };
      if (!WaitAwake(crowded_, called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      seen = state_.load(std::memory_order_acquire);
      const int members = static_cast<int>(seen & ((1 << kMemberBits) - 1));
      if (member >= members) continue;
      Work(member, members);
      if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);  // the caller is either before its test or asleep
        done_.notify_one();
      }
    }
  }

  void Work(int member, int members) {
    for (int thread = member; thread < threads_; thread += members) {
      try {
        task_(context_, thread);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }

  const int processors_ = Processors();
  std::atomic<bool> busy_{false};
  std::atomic<bool> crowded_{false};
  std::atomic<uint64_t> state_{0};  // calls so far, members of the last
  std::atomic<int> working_{0};     // members, the caller aside, that are not done
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  int workers_ = 0;

  // Of the call under way.
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int threads_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

int Threads() {
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

#include "runtime/queue.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

namespace tokenflow {

struct ComputeQueue::State {
  // One of the two.
  struct Posted {
    std::function<void()> whole;
    std::function<std::function<void()>()> start;
  };
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Posted> jobs;
  bool busy = false;  // a job runs or has begun, on whichever thread
  std::atomic<int> pending{0};

  void Push(Posted job) {
    pending++;
    {
      std::lock_guard<std::mutex> lock(mutex);
      jobs.push_back(std::move(job));
    }
    wake.notify_one();
  }

  // The next job if it is one in two parts.
  std::function<std::function<void()>()> TakeStart() {
    std::lock_guard<std::mutex> lock(mutex);
    if (jobs.empty() || !jobs.front().start) return nullptr;
    std::function<std::function<void()>()> start = std::move(jobs.front().start);
    jobs.pop_front();
    return start;
  }

  // The end of a job.
  void Release() {
    pending--;
    std::lock_guard<std::mutex> lock(mutex);
    busy = false;
    if (!jobs.empty()) wake.notify_one();
  }
};

ComputeQueue& ComputeQueue::Cpu() {
  static ComputeQueue* queue = new ComputeQueue();  // leaked on purpose: see the header
  return *queue;
}

ComputeQueue& ComputeQueue::Of(const std::string& device) {
  if (device == "cpu") return Cpu();
  static auto* mutex = new std::mutex();
  static auto* queues = new std::map<std::string, ComputeQueue*>();
  const std::lock_guard<std::mutex> lock(*mutex);
  ComputeQueue*& queue = (*queues)[device];
  if (queue == nullptr) queue = new ComputeQueue();
  return *queue;
}

ComputeQueue::ComputeQueue() : state_(std::make_shared<State>()) {
  std::thread([state = state_] {
    for (;;) {
      State::Posted job;
      {
        std::unique_lock<std::mutex> lock(state->mutex);
        state->wake.wait(lock, [&] { return !state->busy && !state->jobs.empty(); });
        state->busy = true;
        job = std::move(state->jobs.front());
        state->jobs.pop_front();
      }
      if (job.whole) {
        job.whole();
      } else {
        // As long as jobs in two parts follow each other, each is started before the one in front of it is waited for.
        std::function<void()> rest = job.start();
        for (std::function<std::function<void()>()> next; (next = state->TakeStart()) != nullptr;) {
          std::function<void()> next_rest = next();
          if (rest) rest();
          state->pending--;
          rest = std::move(next_rest);
        }
        if (rest) rest();
      }
      job = {};
      state->Release();
    }
  }).detach();
}

void ComputeQueue::Post(std::function<void()> job) {
  state_->Push({std::move(job), nullptr});
}

void ComputeQueue::PostInTwo(std::function<std::function<void()>()> start) {
  state_->Push({nullptr, std::move(start)});
}

bool ComputeQueue::TryRun(const std::function<void()>& job) {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    if (state_->busy || !state_->jobs.empty()) return false;
    state_->busy = true;
    state_->pending++;
  }
  struct Releaser {
    State* state;
    ~Releaser() { state->Release(); }
  } releaser{state_.get()};
  job();
  return true;
}

void ComputeQueue::Run(const std::function<void()>& job) {
  if (TryRun(job)) return;
  std::mutex mutex;
  std::condition_variable wake;
  bool done = false;
  std::exception_ptr failure;
  Post([&] {
    try {
      job();
    } catch (...) {
      failure = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(mutex);
    done = true;
    wake.notify_one();
  });
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, [&] { return done; });
  if (failure) std::rethrow_exception(failure);
}

int ComputeQueue::Pending() const {
  return state_->pending.load();
}

}  // namespace tokenflow

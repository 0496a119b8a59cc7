// What the addon keeps per JavaScript environment (the main thread or one worker), and how work leaves and
// returns.
//
// A call copies its inputs, allocates its outputs as V8-owned buffers that nobody else can see yet, posts a
// job to the compute queue and returns a promise. The job writes into those outputs; the promise settles on
// the JavaScript thread. A caller that transfers or resizes its own arrays meanwhile therefore cannot harm a
// running job. When an environment ends (a worker is terminated), its queued jobs are cancelled and the
// running one is awaited.
#pragma once
#include <napi.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/queue.h"

namespace tokenflow {

struct Job {
  explicit Job(Napi::Env env)
      : deferred(Napi::Promise::Deferred::New(env)), cancelled(std::make_shared<CancelFlag>(false)) {}

  Napi::Promise::Deferred deferred;
  ComputeQueue* queue = &ComputeQueue::Cpu();  // of the device it runs on
  std::shared_ptr<CancelFlag> cancelled;
  std::vector<Napi::ObjectReference> held;  // kept alive until the promise settles
  // On the compute thread: one of the two. `start` is the first part of a job in two (ComputeQueue::PostInTwo).
  std::function<void(const CancelFlag&)> execute;
  std::function<std::function<void()>(const CancelFlag&)> start;
  std::function<Napi::Value(Napi::Env)> resolve;  // on the JavaScript thread
  std::string error_code, error_message;

  // Runs a part of it. What the part throws becomes the error, and so does having been cancelled.
  void Attempt(const std::function<void()>& part);
};

class Environment {
 public:
  static Environment* Of(Napi::Env env) { return env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);
  ~Environment();

  // Queues a job. Returns { promise, cancel }: `cancel()` marks it; a job that was cancelled rejects with the
  // code 'ABORTED', which lib/native.ts turns into the signal's reason. A `brief` one takes less time than handing it to
  // another thread: it runs at once when nothing is before it, and its promise settles in its own turn of the event
  // loop all the same.
  Napi::Object Schedule(Napi::Env env, std::unique_ptr<Job> job, bool brief = false);

  // The JavaScript class that native errors are thrown as; handed over once by lib/native.ts.
  Napi::FunctionReference error_class;

  // Constructors of the wrapped classes, by the name their area gives them.
  std::map<std::string, Napi::FunctionReference> classes;

  Napi::Error MakeError(Napi::Env env, const std::string& code, const std::string& message) const;

  int Pending() const { return static_cast<int>(pending_.size()); }

 private:
  struct Completions;
  static void Settle(Napi::Env env, Napi::Function, Environment* self, Job* job);
  using Tsfn = Napi::TypedThreadSafeFunction<Environment, Job, &Environment::Settle>;

  std::shared_ptr<Completions> completions_;
  std::set<Job*> pending_;
};

// Runs `body` and turns a tokenflow::Error into the JavaScript error class.
template <class Body>
auto Guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& e) {
    throw Environment::Of(env)->MakeError(env, e.code, e.what());
  } catch (const std::bad_alloc&) {
    throw Environment::Of(env)->MakeError(env, "ERR_TOKENFLOW_OUT_OF_MEMORY",
                                          "Not enough memory for this call");
  }
}

// Each area of the addon adds its functions and classes here.
void InitRuntime(Napi::Env env, Napi::Object exports);
void InitCodebook(Napi::Env env, Napi::Object exports);
void InitQuantizers(Napi::Env env, Napi::Object exports);
void InitLearning(Napi::Env env, Napi::Object exports);
void InitProgram(Napi::Env env, Napi::Object exports);
void InitCuda(Napi::Env env, Napi::Object exports);
void InitDeviceBuffer(Napi::Env env, Napi::Object exports);
void InitImage(Napi::Env env, Napi::Object exports);

}  // namespace tokenflow

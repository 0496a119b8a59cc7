#include "addon/environment.h"

#include <condition_variable>
#include <mutex>

namespace tokenflow {

// Outlives the environment for as long as a job may still want to report to it.
struct Environment::Completions {
  std::mutex mutex;
  std::condition_variable idle;
  bool open = true;
  int running = 0;
  Tsfn tsfn;
};

Environment::Environment(Napi::Env env) : completions_(std::make_shared<Completions>()) {
  completions_->tsfn = Tsfn::New(env, "tokenflow", 0, 1, this);
  completions_->tsfn.Unref(env);
}

Environment::~Environment() {
  for (Job* job : pending_) job->cancelled->store(true);
  {
    std::unique_lock<std::mutex> lock(completions_->mutex);
    completions_->open = false;
    completions_->idle.wait(lock, [&] { return completions_->running == 0; });
  }
  completions_->tsfn.Abort();
  for (Job* job : pending_) delete job;
}

void Job::Attempt(const std::function<void()>& part) {
  const auto fail = [this](const std::string& code, const std::string& message) {
    error_code = code;
    error_message = message;
  };
  try {
    part();
    if (cancelled->load()) fail("ABORTED", "");
  } catch (const Error& e) {
    fail(e.code, e.what());
  } catch (const std::bad_alloc&) {
    fail("ERR_TOKENFLOW_OUT_OF_MEMORY", "Not enough memory for this call");
  } catch (const std::exception& e) {
    fail("ERR_TOKENFLOW_INTERNAL", e.what());
  }
}

Napi::Object Environment::Schedule(Napi::Env env, std::unique_ptr<Job> owned, bool brief) {
  Job* job = owned.release();
  if (pending_.empty()) completions_->tsfn.Ref(env);
  pending_.insert(job);

  const auto begin = [completions = completions_] {
    std::lock_guard<std::mutex> lock(completions->mutex);
    if (!completions->open) return false;  // the environment is gone, and the job with it
    completions->running++;
    return true;
  };
  const auto end = [job, completions = completions_] {
    std::lock_guard<std::mutex> lock(completions->mutex);
    completions->running--;
    if (completions->open) completions->tsfn.NonBlockingCall(job);
    completions->idle.notify_all();
  };
  if (job->start) {
    job->queue->PostInTwo([=, cancelled = job->cancelled]() -> std::function<void()> {
      if (!begin()) return {};
      std::function<void()> rest;
      job->Attempt([&] {
        if (!cancelled->load()) rest = job->start(*cancelled);
      });
      if (!rest) {
        end();
        return {};
      }
      return [=] {
        job->Attempt(rest);
        end();
      };
    });
  } else {
    const auto run = [=, cancelled = job->cancelled] {
      if (!begin()) return;
      job->Attempt([&] {
        if (!cancelled->load()) job->execute(*cancelled);
      });
      end();
    };
    if (!brief || !job->queue->TryRun(run)) job->queue->Post(run);
  }

  Napi::Object handle = Napi::Object::New(env);
  handle.Set("promise", job->deferred.Promise());
  handle.Set("cancel", Napi::Function::New(
                           env, [flag = job->cancelled](const Napi::CallbackInfo&) { flag->store(true); }));
  return handle;
}

void Environment::Settle(Napi::Env env, Napi::Function, Environment* self, Job* raw) {
  if (static_cast<napi_env>(env) == nullptr) return;  // shutting down; the destructor frees what is pending
  std::unique_ptr<Job> job(raw);
  self->pending_.erase(raw);
  if (self->pending_.empty()) self->completions_->tsfn.Unref(env);
  Napi::HandleScope scope(env);
  if (!job->error_code.empty()) {
    job->deferred.Reject(self->MakeError(env, job->error_code, job->error_message).Value());
    return;
  }
  try {
    job->deferred.Resolve(job->resolve(env));
  } catch (const Error& e) {
    job->deferred.Reject(self->MakeError(env, e.code, e.what()).Value());
  } catch (const Napi::Error& e) {
    job->deferred.Reject(e.Value());
  }
}

Napi::Error Environment::MakeError(Napi::Env env, const std::string& code, const std::string& message) const {
  if (error_class.IsEmpty()) return Napi::Error::New(env, code + ": " + message);
  return Napi::Error(env, error_class.New({Napi::String::New(env, code), Napi::String::New(env, message)}));
}

}  // namespace tokenflow

// How native objects and typed arrays cross into JavaScript and back, for the areas whose functions fill arrays
// that lib/ allocated.
//
// A handle is an External that owns a shared pointer; a job holds another, so an object that is disposed of or
// collected while a job runs lives until the job is done. Arguments arrive checked by lib/.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/environment.h"
#include "codebook/score.h"

namespace tokenflow {

template <class T>
Napi::Value WrapShared(Napi::Env env, std::shared_ptr<T> object) {
  return Napi::External<std::shared_ptr<T>>::New(env, new std::shared_ptr<T>(std::move(object)),
                                                 [](Napi::Env, std::shared_ptr<T>* p) { delete p; });
}

template <class T>
std::shared_ptr<T> UnwrapShared(const Napi::Value& value) {
  return *value.As<Napi::External<std::shared_ptr<T>>>().Data();
}

// The elements of a typed array; null for undefined.
template <class T>
T* ArrayData(const Napi::Value& value) {
  if (!value.IsTypedArray()) return nullptr;
  const auto array = value.As<Napi::TypedArray>();
  return reinterpret_cast<T*>(static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset());
}

inline int64_t ArrayLength(const Napi::Value& value) {
  return value.IsTypedArray() ? static_cast<int64_t>(value.As<Napi::TypedArray>().ElementLength()) : 0;
}

template <class T>
std::vector<T> ArrayCopy(const Napi::Value& value) {
  const T* data = ArrayData<T>(value);
  return std::vector<T>(data, data + ArrayLength(value));
}

// Members of a request object.
inline int64_t Integer(const Napi::Object& request, const char* name) {
  return request.Get(name).As<Napi::Number>().Int64Value();
}

inline bool Flag(const Napi::Object& request, const char* name) {
  return request.Get(name).ToBoolean();
}

inline Metric MetricNamed(const Napi::Value& value) {
  const std::string name = value.As<Napi::String>();
  return name == "l2" ? Metric::kL2 : name == "cosine" ? Metric::kCosine : Metric::kInnerProduct;
}

// Runs `work` in its turn and waits (sync), or queues it and returns { promise, cancel }. The arrays in `filled` stay
// alive until then; `work` must not touch JavaScript. `brief`: see Environment::Schedule.
inline Napi::Value DispatchJob(Napi::Env env, bool sync, const std::vector<Napi::Value>& filled,
                               std::function<void(const CancelFlag&)> work,
                               ComputeQueue& queue = ComputeQueue::Cpu(), bool brief = false) {
  if (sync) {
    const CancelFlag never{false};
    queue.Run([&] { work(never); });
    return env.Undefined();
  }
  auto job = std::make_unique<Job>(env);
  job->queue = &queue;
  for (const Napi::Value& value : filled) {
    if (value.IsTypedArray()) job->held.push_back(Napi::Persistent(value.As<Napi::Object>()));
  }
  job->execute = std::move(work);
  job->resolve = [](Napi::Env e) { return e.Undefined(); };
  return Environment::Of(env)->Schedule(env, std::move(job), brief);
}

// Adds a function to the addon's exports; a tokenflow::Error it throws becomes the JavaScript error class.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void ExportGuarded(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New(
                        env,
                        [](const Napi::CallbackInfo& info) {
                          return Guarded(info.Env(), [&] { return function(info); });
                        },
                        name));
}

}  // namespace tokenflow

#include "fake_runtime.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "device_buffer.h"
#include "simt.h"

struct EventState {
  CUstream_st* stream = nullptr;  // where it was last recorded
  int recorded = 0, reached = 0;  // how often
  std::chrono::steady_clock::time_point time;
};
using Event = std::shared_ptr<EventState>;

// One piece of a stream's work: to be done, or, with an event, to wait until that was reached so often.
struct Item {
  std::function<void()> work;
  Event event = {};
  int times = 0;

  bool ready() const { return event == nullptr || event->reached >= times; }
};

struct CUstream_st {
  int device;
  std::deque<Item> pending;
  bool capturing = false;
  std::vector<Item> captured;
};
struct CUgraph_st {
  std::vector<Item> work;
};
struct CUgraphExec_st {
  std::vector<Item> work;
};
struct CUevent_st {
  Event state = std::make_shared<EventState>();
};

namespace simt {

FakeRuntime& fake_runtime() {
  static FakeRuntime& instance =
      *new FakeRuntime;  // like all here never destroyed: the process may exit while it runs
  return instance;
}

int& CurrentDevice() {
  thread_local int current = 0;
  return current;
}

namespace {

const FakeDevice& Current() {
  return fake_runtime().devices.at(CurrentDevice());
}

// Several threads may call, one at a time computes. Recursive: a kernel's end may free memory.
std::recursive_mutex& Lock() {
  static auto& mutex = *new std::recursive_mutex;
  return mutex;
}

struct Allocation {
  size_t bytes;
  int device;  // -1: pinned host memory
};
std::map<const void*, Allocation>& allocations() {
  static auto& instance = *new std::map<const void*, Allocation>;
  return instance;
}

size_t UsedOn(int device) {
  size_t used = 0;
  for (const auto& [p, allocation] : allocations())
    used += allocation.device == device ? allocation.bytes : 0;
  return used;
}

bool IsPinned(const void* p, size_t bytes) {
  auto found = allocations().upper_bound(p);
  if (found == allocations().begin()) return false;
  --found;
  const auto* begin = static_cast<const char*>(found->first);
  return found->second.device < 0 && static_cast<const char*>(p) + bytes <= begin + found->second.bytes;
}

bool StaysAfter(cudaError_t status) {
  return status == cudaErrorIllegalAddress || status == cudaErrorLaunchFailure;
}

// The outcome of a call before it does anything.
cudaError_t Outcome(const char* call) {
  FakeRuntime& runtime = fake_runtime();
  if (runtime.lost != cudaSuccess) return runtime.lost;
  const cudaError_t status = runtime.fault ? runtime.fault(call) : cudaSuccess;
  if (StaysAfter(status)) runtime.lost = status;
  return status;
}

thread_local int captures = 0;  // streams this thread is capturing

std::set<CUstream_st*>& streams() {
  static auto& instance = *new std::set<CUstream_st*>;
  return instance;
}

void Observe(const char* stage, const char* what) {
  if (fake_runtime().observe) fake_runtime().observe(stage, what);
}

// Does the first piece of a stream's work, and before it whatever of other streams it waits for.
void Step(CUstream_st* stream) {
  const Item item = std::move(stream->pending.front());
  stream->pending.pop_front();
  while (!item.ready() && !item.event->stream->pending.empty()) Step(item.event->stream);
  if (item.work) item.work();
}

// Lets streams run ahead as far as they can without waiting.
void Wander() {
  FakeRuntime& runtime = fake_runtime();
  if (runtime.wander == 0) return;
  const std::vector<CUstream_st*> all(streams().begin(), streams().end());
  for (int i = 0; i < 2; i++) {
    runtime.wander = runtime.wander * 1664525u + 1013904223u;
    CUstream_st* stream = all[(runtime.wander >> 16) % all.size()];
    if (!stream->pending.empty() && stream->pending.front().ready()) Step(stream);
  }
}

cudaError_t Note(cudaStream_t stream, Item item, const char* what = nullptr) {
  if (stream == nullptr) {
    item.work();
    return cudaSuccess;
  }
  if (stream->device != CurrentDevice()) return cudaErrorInvalidResourceHandle;
  if (what != nullptr) {
    if (!stream->capturing) Observe("issued", what);
    item.work = [what, work = std::move(item.work)] {
      work();
      Observe("ran", what);
    };
  }
  if (stream->capturing) {
    stream->captured.push_back(std::move(item));
  } else {
    stream->pending.push_back(std::move(item));
    Wander();
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard<std::recursive_mutex> lock(Lock());
  const cudaError_t status = Outcome("launch");
  if (status != cudaSuccess) return status;
  fake_runtime().launches++;
  return Note(stream, {std::move(work)}, "compute");
}

}  // namespace simt

using simt::fake_runtime;
using simt::Lock;
using simt::Outcome;
using Guard = std::lock_guard<std::recursive_mutex>;

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return "a CUDA error";
  }
}

cudaError_t cudaGetLastError() {
  return fake_runtime().lost;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_runtime().driver_version;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(fake_runtime().devices.size());
  if (fake_runtime().count_error != cudaSuccess) return fake_runtime().count_error;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = simt::CurrentDevice();
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= static_cast<int>(fake_runtime().devices.size())) return cudaErrorInvalidDevice;
  const cudaError_t status = fake_runtime().devices[device].set;
  if (status == cudaSuccess) simt::CurrentDevice() = device;
  return status;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const simt::FakeDevice& fake = fake_runtime().devices.at(device);
  std::snprintf(properties->name, sizeof properties->name, "%s", fake.name.c_str());
  properties->major = fake.major;
  properties->minor = fake.minor;
  properties->multiProcessorCount = fake.multiprocessors;
  properties->totalGlobalMem = fake.memory_bytes;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Guard lock(Lock());
  *total = simt::Current().memory_bytes;
  *free = *total - simt::UsedOn(simt::CurrentDevice());
  return fake_runtime().lost;
}

static cudaError_t Allocate(const char* call, void** p, size_t bytes, int device) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome(call);
  if (status != cudaSuccess) return status;
  if (simt::captures > 0) return cudaErrorStreamCaptureUnsupported;
  if (device >= 0) {
    const simt::FakeDevice& fake = fake_runtime().devices.at(device);
    if (fake.malloc != cudaSuccess) return fake.malloc;
    if (bytes > fake.memory_bytes - simt::UsedOn(device)) return cudaErrorMemoryAllocation;
  }
  *p = simt::AllocateGuarded(bytes);
  simt::allocations()[*p] = {bytes, device};
  fake_runtime().allocations++;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  return Allocate("cudaMalloc", p, bytes, simt::CurrentDevice());
}

cudaError_t cudaFree(void* p) {
  const Guard lock(Lock());
  if (p == nullptr) return cudaSuccess;
  simt::FreeGuarded(p);
  simt::allocations().erase(p);
  fake_runtime().allocations--;
  return fake_runtime().lost;
}

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  return Allocate("cudaMallocHost", p, bytes, -1);
}

cudaError_t cudaFreeHost(void* p) {
  return cudaFree(p);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaMemcpy");
  if (status != cudaSuccess) return status;
  if (kind == cudaMemcpyDeviceToHost && simt::Current().copy_back != cudaSuccess)
    return simt::Current().copy_back;
  std::memcpy(to, from, bytes);
  if (kind == cudaMemcpyDeviceToHost && simt::Current().wrong_result) static_cast<unsigned char*>(to)[7] ^= 1;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaMemcpyAsync");
  if (status != cudaSuccess) return status;
  const void* host = kind == cudaMemcpyHostToDevice ? from : to;
  if (kind != cudaMemcpyDeviceToDevice && !simt::IsPinned(host, bytes)) return cudaErrorInvalidValue;
  const char* what = kind == cudaMemcpyHostToDevice   ? "upload"
                     : kind == cudaMemcpyDeviceToHost ? "download"
                                                      : "compute";
  return simt::Note(stream, {[=] { std::memcpy(to, from, bytes); }}, what);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaMemsetAsync");
  if (status != cudaSuccess) return status;
  return simt::Note(stream, {[=] { std::memset(to, value, bytes); }}, "compute");
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaStreamCreate");
  if (status != cudaSuccess) return status;
  *stream = new CUstream_st{simt::CurrentDevice(), {}, false, {}};
  simt::streams().insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Guard lock(Lock());
  simt::streams().erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaStreamSynchronize");
  if (stream == nullptr) return status;  // the default one: its copies are done when they return
  if (stream->capturing) return cudaErrorStreamCaptureUnsupported;
  if (status != cudaSuccess) {
    stream->pending.clear();
    return status;
  }
  while (!stream->pending.empty()) simt::Step(stream);
  simt::Observe("waited", "stream");
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaStreamWaitEvent");
  if (status != cudaSuccess) return status;
  if (event->state->recorded == 0) return cudaSuccess;
  return simt::Note(stream, {nullptr, event->state, event->state->recorded});
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaStreamBeginCapture");
  if (status != cudaSuccess) return status;
  stream->capturing = true;
  stream->captured.clear();
  simt::captures++;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Guard lock(Lock());
  *graph = nullptr;
  if (!stream->capturing) return cudaErrorInvalidValue;
  stream->capturing = false;
  simt::captures--;
  std::vector<Item> work;
  work.swap(stream->captured);
  const cudaError_t status = Outcome("cudaStreamEndCapture");
  if (status == cudaSuccess) *graph = new CUgraph_st{std::move(work)};
  return status;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const cudaError_t status = Outcome("cudaGraphInstantiate");
  if (status == cudaSuccess) *executable = new CUgraphExec_st{graph->work};
  return status;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaGraphLaunch");
  if (status != cudaSuccess) return status;
  if (stream->device != simt::CurrentDevice()) return cudaErrorInvalidResourceHandle;
  stream->pending.insert(stream->pending.end(), executable->work.begin(), executable->work.end());
  fake_runtime().graph_launches++;
  simt::Observe("issued", "compute");
  simt::Wander();
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st{};
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaEventRecord");
  if (status != cudaSuccess) return status;
  event->state->stream = stream;
  event->state->recorded++;
  return simt::Note(stream, {[state = event->state] {
                      state->time = std::chrono::steady_clock::now();
                      state->reached++;
                    }});
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Guard lock(Lock());
  const cudaError_t status = Outcome("cudaEventSynchronize");
  if (status != cudaSuccess) return status;
  EventState& state = *event->state;
  while (state.reached < state.recorded && !state.stream->pending.empty()) simt::Step(state.stream);
  simt::Observe("waited", "event");
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  *milliseconds = std::chrono::duration<float, std::milli>(stop->state->time - start->state->time).count();
  return cudaSuccess;
}

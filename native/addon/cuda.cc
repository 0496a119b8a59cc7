#include "addon/environment.h"
#include "runtime/backend.h"
#include "runtime/cuda_library.h"

namespace tokenflow {

// { reason, detail, devices }: what the CUDA library says of this machine, asked once in the process; and what has become of
// its devices since.
static Napi::Value CudaStatusOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guarded(env, [&] {
    const CudaStatus& status = CudaLibraryStatus();
    Napi::Array devices = Napi::Array::New(env, status.devices.size());
    for (size_t i = 0; i < status.devices.size(); i++) {
      const CudaDevice& from = status.devices[i];
      Napi::Object device = Napi::Object::New(env);
      device.Set("name", from.name);
      device.Set("arch", from.arch);
      device.Set("multiprocessors", from.multiprocessors);
      device.Set("memoryBytes", static_cast<double>(from.memory_bytes));
      device.Set("reason", CudaReasonName(from.reason));
      if (from.reason == CudaReason::kAvailable) {
        try {
          const Backend& backend = CudaBackendOf(static_cast<int>(i));
          device.Set("bf16", backend.Supports(Precision::kBf16));
          if (!backend.LostReason().empty()) {
            device.Set("reason", "device-lost");
            device.Set("detail", backend.LostReason());
          }
        } catch (const Error& error) {
          device.Set("reason", CudaReasonName(CudaReason::kSmokeTestFailed));
          device.Set("detail", error.what());
        }
      }
      devices.Set(static_cast<uint32_t>(i), device);
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("reason", CudaReasonName(status.reason));
    result.Set("detail", status.detail);
    result.Set("devices", devices);
    return result;
  });
}

void InitCuda(Napi::Env env, Napi::Object exports) {
  exports.Set("cudaStatus", Napi::Function::New(env, CudaStatusOf));
}

}  // namespace tokenflow

#include "runtime/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "runtime/error.h"

namespace tokenflow {

const char* CudaReasonName(CudaReason reason) {
  switch (reason) {
    case CudaReason::kAvailable:
      return "available";
    case CudaReason::kNotBuilt:
      return "not-built";
    case CudaReason::kLibraryMissing:
      return "library-missing";
    case CudaReason::kLoadFailed:
      return "load-failed";
    case CudaReason::kAbiMismatch:
      return "abi-mismatch";
    case CudaReason::kNoDriver:
      return "no-driver";
    case CudaReason::kDriverTooOld:
      return "driver-too-old";
    case CudaReason::kNoDevice:
      return "no-device";
    case CudaReason::kUnsupportedArch:
      return "unsupported-arch";
    case CudaReason::kSmokeTestFailed:
      return "smoke-test-failed";
    case CudaReason::kDisabledByEnv:
      return "disabled-by-env";
    case CudaReason::kOutOfMemory:
      return "out-of-memory";
  }
  return "load-failed";
}

CudaStatus ProbeCudaLibrary(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) return {CudaReason::kLibraryMissing, path, {}, nullptr};
  // Never closed: a CUDA context does not survive that.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return {CudaReason::kLoadFailed, why == nullptr ? path : why, {}, nullptr};
  }
  const auto entry = reinterpret_cast<CudaEntryPoint>(dlsym(library, kCudaEntryPoint));
  if (entry == nullptr) return {CudaReason::kAbiMismatch, path + " has no " + kCudaEntryPoint, {}, nullptr};
  const CudaLibrary* functions = entry();
  if (functions == nullptr || functions->abi != kCudaAbi) {
    const std::string found = functions == nullptr ? "nothing" : std::to_string(functions->abi);
    return {CudaReason::kAbiMismatch,
            "expected version " + std::to_string(kCudaAbi) + " but found " + found,
            {},
            nullptr};
  }
  CudaProbe probe{};
  functions->probe(&probe);
  probe.detail[sizeof probe.detail - 1] = '\0';
  return {probe.reason, probe.detail, {probe.devices, probe.devices + probe.device_count}, functions};
}

namespace {

// The folder of the file this code is in.
std::string OwnFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&CudaLibraryStatus), &info) == 0) return ".";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

CudaStatus FindAndProbe() {
  const char* wish = std::getenv("TOKENFLOW_CUDA");
  if (wish != nullptr && std::strcmp(wish, "off") == 0) return {CudaReason::kDisabledByEnv, "", {}, nullptr};
  const char* path = std::getenv("TOKENFLOW_CUDA_PATH");
  if (path != nullptr) return ProbeCudaLibrary(path);
#ifdef TOKENFLOW_WITH_CUDA
  return ProbeCudaLibrary(OwnFolder() + "/" + kCudaLibraryFile);
#else
  // A library put there later, by a package of its own, counts all the same.
  CudaStatus status = ProbeCudaLibrary(OwnFolder() + "/" + kCudaLibraryFile);
  if (status.reason == CudaReason::kLibraryMissing) status = {CudaReason::kNotBuilt, "", {}, nullptr};
  return status;
#endif
}

}  // namespace

const CudaStatus& CudaLibraryStatus() {
  static const CudaStatus status = FindAndProbe();
  return status;
}

Backend& CudaBackendOf(int index) {
  const CudaStatus& status = CudaLibraryStatus();
  const std::string device = "Device 'cuda:" + std::to_string(index) + "'";
  const auto refuse = [&](const std::string& why) {
    return Error("ERR_TOKENFLOW_BACKEND_UNAVAILABLE", device + " is not available: " + why);
  };
  if (status.reason != CudaReason::kAvailable) throw refuse(CudaReasonName(status.reason));
  const int count = static_cast<int>(status.devices.size());
  if (index < 0 || index >= count) throw refuse("there are " + std::to_string(count) + ", counted from 0");
  if (status.devices[index].reason != CudaReason::kAvailable) {
    throw refuse(CudaReasonName(status.devices[index].reason));
  }
  char detail[256] = "";
  Backend* backend = status.library->open(index, detail, sizeof detail);
  if (backend == nullptr) throw refuse(detail);
  return *backend;
}

}  // namespace tokenflow

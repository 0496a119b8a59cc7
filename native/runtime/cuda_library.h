// The CUDA backend lives in a library of its own, loaded on first need and never unloaded, so that a machine without a
// card, a driver or that file runs everything else. This header, backend.h and codebook_backend.h are the whole border:
// plain data, functions, the classes of those two, `Error` as the only exception, and no CUDA type, behind one versioned
// entry point. Either side checks the other's version before it believes anything else.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tokenflow {

class Backend;

// Raised with every change of what is declared here; part of the entry point's name.
constexpr int32_t kCudaAbi = 4;
constexpr char kCudaEntryPoint[] = "tokenflow_cuda_4";
constexpr char kCudaLibraryFile[] = "tokenflow_cuda.so";

enum class CudaReason : int32_t {
  kAvailable,
  kNotBuilt,         // this build left the library out
  kLibraryMissing,   // it was built, but is not where the addon is
  kLoadFailed,       // the dynamic linker refuses it
  kAbiMismatch,      // it is of another version
  kNoDriver,         // no NVIDIA driver
  kDriverTooOld,     // for the runtime inside the library
  kNoDevice,         // a driver without a card
  kUnsupportedArch,  // every card is older than compute capability 7.5
  kSmokeTestFailed,  // a kernel did not compute what it must
  kDisabledByEnv,    // TOKENFLOW_CUDA=off
  kOutOfMemory,      // no memory left for the smallest test
};

// As `listBackends()` spells it: 'no-driver'.
const char* CudaReasonName(CudaReason reason);

struct CudaDevice {
  char name[256];
  int32_t arch;  // 90 for compute capability 9.0
  int32_t multiprocessors;
  int64_t memory_bytes;
  CudaReason reason;  // kAvailable, kUnsupportedArch, kSmokeTestFailed or kOutOfMemory
};

struct CudaProbe {
  static constexpr int kMaxDevices = 16;
  CudaReason reason;  // kAvailable when at least one device is
  char detail[256];   // in the words of the driver, or empty
  int32_t device_count;
  CudaDevice devices[kMaxDevices];
};

struct CudaLibrary {
  int32_t abi;
  void (*probe)(CudaProbe* probe);  // never throws
  // The backend of a device: made when first asked for, never destroyed. Null, with the reason in `detail`, when it cannot
  // be had. Never throws.
  Backend* (*open)(int32_t device, char* detail, int32_t detail_bytes);
};

using CudaEntryPoint = const CudaLibrary* (*)();

struct CudaStatus {
  CudaReason reason;
  std::string detail;
  std::vector<CudaDevice> devices;
  const CudaLibrary* library = nullptr;  // once it is loaded and of this version
};

// The backend of the index-th device. Throws Error with ERR_TOKENFLOW_BACKEND_UNAVAILABLE and the reason.
Backend& CudaBackendOf(int index);

// What the library beside the addon says, asked once. TOKENFLOW_CUDA=off leaves it alone; TOKENFLOW_CUDA_PATH names another
// file.
const CudaStatus& CudaLibraryStatus();

// The same for a given file, each time anew.
CudaStatus ProbeCudaLibrary(const std::string& path);

}  // namespace tokenflow

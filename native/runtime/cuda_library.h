// The CUDA backend lives in a library of its own, loaded on first need and never unloaded, so that a machine without a
// card, a driver or that file runs everything else. This header is the whole border: plain data and C functions, one
// versioned entry point, no CUDA type. Either side checks the other's version before it believes anything else.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tokenflow {

// Raised with every change of what is declared here; part of the entry point's name.
constexpr int32_t kCudaAbi = 1;
constexpr char kCudaEntryPoint[] = "tokenflow_cuda_1";
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
};

using CudaEntryPoint = const CudaLibrary* (*)();

struct CudaStatus {
  CudaReason reason;
  std::string detail;
  std::vector<CudaDevice> devices;
};

// What the library beside the addon says, asked once. TOKENFLOW_CUDA=off leaves it alone; TOKENFLOW_CUDA_PATH names another
// file.
const CudaStatus& CudaLibraryStatus();

// The same for a given file, each time anew.
CudaStatus ProbeCudaLibrary(const std::string& path);

}  // namespace tokenflow

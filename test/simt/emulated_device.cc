// Makes a card of the emulated machine for a process that loads it as tokenflow_cuda.so. What the card is like, and what
// fails on it, comes from the environment, read at each call so that a test may change it as it goes:
//
//   EMULATED_DEVICES=2          cards; default 1, 0: a driver without a device
//   EMULATED_MEMORY_MIB=64      of each
//   EMULATED_ARCH=75            compute capability, default 90
//   EMULATED_WANDER=7           streams run ahead by themselves, in an order from this seed
//   EMULATED_TRACE=FILE         receives what was issued, has run and was waited for (FakeRuntime::observe), a line each
//   EMULATED_FAULT=launch:700   this call of the runtime, or the launch of a kernel, returns this error
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fake_runtime.h"
#include "simt.h"

namespace {

int Number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::atoi(text);
}

cudaError_t Fault(const char* call) {
  const char* wanted = std::getenv("EMULATED_FAULT");
  if (wanted == nullptr) return cudaSuccess;
  const char* colon = std::strchr(wanted, ':');
  const size_t length = std::strlen(call);
  if (colon == nullptr || static_cast<size_t>(colon - wanted) != length ||
      std::strncmp(wanted, call, length) != 0) {
    return cudaSuccess;
  }
  return static_cast<cudaError_t>(std::atoi(colon + 1));
}

[[maybe_unused]] const bool made = [] {
  simt::FakeRuntime& runtime = simt::fake_runtime();
  const int arch = Number("EMULATED_ARCH", 90);
  for (int i = 0; i < Number("EMULATED_DEVICES", 1); i++) {
    simt::FakeDevice device;
    device.name = "Emulated card";
    device.major = arch / 10;
    device.minor = arch % 10;
    device.multiprocessors = 4;  // small, so that small cases meet the large tiles
    device.memory_bytes = static_cast<size_t>(Number("EMULATED_MEMORY_MIB", 1024)) << 20;
    runtime.devices.push_back(device);
  }
  runtime.fault = Fault;
  runtime.wander = static_cast<unsigned>(Number("EMULATED_WANDER", 0));
  if (const char* file = std::getenv("EMULATED_TRACE")) {
    runtime.observe = [trace = std::fopen(file, "w")](const char* stage, const char* what) {
      std::fprintf(trace, "%s %s\n", stage, what);
      std::fflush(trace);
    };
  }
  simt::options().watch_shared_memory = false;
  return true;
}();

}  // namespace

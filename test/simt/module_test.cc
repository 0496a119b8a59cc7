// The probe of the CUDA library against a runtime that fails in each way it can.
#include <cstring>

#include "check.h"
#include "fake_runtime.h"
#include "runtime/cuda_library.h"

using namespace tokenflow;
using simt::fake_runtime;
using simt::FakeDevice;

extern "C" const CudaLibrary* tokenflow_cuda_4();

namespace {

CudaProbe Probe(const simt::FakeRuntime& runtime) {
  fake_runtime() = runtime;
  CudaProbe probe;
  std::memset(static_cast<void*>(&probe), 0xa5, sizeof probe);
  tokenflow_cuda_4()->probe(&probe);
  CHECK(fake_runtime().allocations == 0);
  return probe;
}

simt::FakeRuntime With(std::vector<FakeDevice> devices) {
  simt::FakeRuntime runtime;
  runtime.devices = std::move(devices);
  return runtime;
}

FakeDevice Device(void (*change)(FakeDevice&) = [](FakeDevice&) {}) {
  FakeDevice device;
  device.name = "Card";
  change(device);
  return device;
}

}  // namespace

TEST("the entry point has this version") {
  CHECK(tokenflow_cuda_4()->abi == kCudaAbi);
}

TEST("a card that works") {
  const CudaProbe probe = Probe(With({Device()}));
  CHECK(probe.reason == CudaReason::kAvailable && probe.device_count == 1);
  const CudaDevice& device = probe.devices[0];
  CHECK(std::strcmp(device.name, "Card") == 0 && device.arch == 90 && device.multiprocessors == 132);
  CHECK(device.reason == CudaReason::kAvailable && device.memory_bytes == int64_t{80} << 30);
}

TEST("no driver, an old driver, no device") {
  simt::FakeRuntime runtime = With({});
  runtime.count_error = cudaErrorInsufficientDriver;
  runtime.driver_version = 0;
  CHECK(Probe(runtime).reason == CudaReason::kNoDriver);
  runtime.driver_version = 11040;
  CHECK(Probe(runtime).reason == CudaReason::kDriverTooOld);
  const CudaProbe none = Probe(With({}));
  CHECK(none.reason == CudaReason::kNoDevice && none.device_count == 0 && none.detail[0] != '\0');
}

TEST("a card too old, and one the library has no code for") {
  CHECK(Probe(With({Device([](FakeDevice& d) { d.major = 7, d.minor = 0; })})).reason ==
        CudaReason::kUnsupportedArch);
  CHECK(Probe(With({Device([](FakeDevice& d) { d.copy_back = cudaErrorNoKernelImageForDevice; })})).reason ==
        CudaReason::kUnsupportedArch);
}

TEST("a card out of memory, a sticky error, a wrong result") {
  CHECK(Probe(With({Device([](FakeDevice& d) { d.malloc = cudaErrorMemoryAllocation; })})).reason ==
        CudaReason::kOutOfMemory);
  CHECK(Probe(With({Device([](FakeDevice& d) { d.set = cudaErrorMemoryAllocation; })})).reason ==
        CudaReason::kOutOfMemory);
  const CudaProbe sticky =
      Probe(With({Device([](FakeDevice& d) { d.copy_back = cudaErrorIllegalAddress; })}));
  CHECK(sticky.reason == CudaReason::kSmokeTestFailed &&
        std::strstr(sticky.detail, "illegal memory access") != nullptr);
  const CudaProbe wrong = Probe(With({Device([](FakeDevice& d) { d.wrong_result = true; })}));
  CHECK(wrong.reason == CudaReason::kSmokeTestFailed && std::strstr(wrong.detail, "was due") != nullptr);
}

TEST("one good card among bad ones makes the backend available, and the current device stays") {
  simt::FakeRuntime runtime = With({Device([](FakeDevice& d) { d.major = 6; }), Device(),
                                    Device([](FakeDevice& d) { d.wrong_result = true; })});
  simt::CurrentDevice() = 2;
  const CudaProbe probe = Probe(runtime);
  CHECK(probe.reason == CudaReason::kAvailable && probe.device_count == 3);
  CHECK(probe.devices[0].reason == CudaReason::kUnsupportedArch);
  CHECK(probe.devices[1].reason == CudaReason::kAvailable);
  CHECK(probe.devices[2].reason == CudaReason::kSmokeTestFailed);
  CHECK(simt::CurrentDevice() == 2);
  simt::CurrentDevice() = 0;
}

TEST("more cards than the probe has room for") {
  const CudaProbe probe = Probe(With(std::vector<FakeDevice>(20, Device())));
  CHECK(probe.reason == CudaReason::kAvailable && probe.device_count == CudaProbe::kMaxDevices);
}

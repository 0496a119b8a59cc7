#include "runtime/backend.h"

#include "runtime/cuda_library.h"
#include "runtime/error.h"

namespace tokenflow {

Backend& FindBackend(const std::string& device) {
  if (device == "cpu") return CpuBackend();
  if (device.rfind("cuda:", 0) == 0) {
    const std::string digits = device.substr(5);
    if (!digits.empty() && digits.size() <= 3 &&
        digits.find_first_not_of("0123456789") == std::string::npos) {
      return CudaBackendOf(std::stoi(digits));
    }
  }
  throw Error("ERR_TOKENFLOW_BACKEND_UNAVAILABLE",
              "Expected 'cpu' or 'cuda:n' for the device but received '" + device + "'");
}

}  // namespace tokenflow

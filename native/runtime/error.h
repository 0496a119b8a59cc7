// The one exception type of the native code. `code` is one of lib/errors.ts; the addon turns it into a
// TokenFlowError.
#pragma once
#include <stdexcept>
#include <string>

namespace tokenflow {

struct Error : std::runtime_error {
  Error(std::string code, const std::string& message) : std::runtime_error(message), code(std::move(code)) {}
  std::string code;
};

inline Error InvalidArgument(const std::string& message) {
  return Error("ERR_TOKENFLOW_INVALID_ARGUMENT", message);
}

}  // namespace tokenflow

// Memory for tensors: 64-byte aligned, never initialised, large pieces on huge pages where the system grants
// them.
#pragma once
#include <cstdint>
#include <string>

namespace tokenflow {

// Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY when the machine cannot have that much: the system would
// promise it and kill the process later.
void RequireMemory(int64_t bytes, const std::string& purpose);

class Buffer {
 public:
  Buffer() = default;
  // Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY, saying what for and how many bytes.
  Buffer(int64_t bytes, const std::string& purpose);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;

  int64_t bytes() const { return bytes_; }
  template <class T = char>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace tokenflow

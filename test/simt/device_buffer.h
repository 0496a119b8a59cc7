// Global memory of the emulation. A buffer ends at an unmapped page and begins after one, so any access outside every
// buffer stops the kernel with a Fault that names the address. Fresh memory holds NaN (all bits set).
#pragma once
#include <cstddef>
#include <vector>

namespace simt {

// Page-guarded memory; `bytes` may be 0. Free throws Fault when the slack between the end of the data and the guard page
// (up to 15 bytes, so that the start is 16-byte aligned) was written.
void* AllocateGuarded(size_t bytes);
void FreeGuarded(void* p);

// Inside a kernel a bad access throws Fault from Run(). Called once by the test main.
void InstallFaultHandler();

template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t n) : data_(static_cast<T*>(AllocateGuarded(n * sizeof(T)))), size_(n) {}
  DeviceBuffer(size_t n, T value) : DeviceBuffer(n) {
    for (size_t i = 0; i < n; i++) data_[i] = value;
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    for (size_t i = 0; i < size_; i++) data_[i] = values[i];
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() noexcept(false) { FreeGuarded(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  std::vector<T> ToHost() const { return std::vector<T>(data_, data_ + size_); }

 private:
  T* data_;
  size_t size_;
};

}  // namespace simt

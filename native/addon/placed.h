// The codebook layer's devices as the addon sees them: which queue a call belongs on, memory of a device that JavaScript holds,
// and the arguments of a call, each an array of the host or such memory.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "addon/handles.h"
#include "codebook/codebook.h"
#include "runtime/backend.h"

namespace tokenflow {

struct DevicePlace {
  std::string name;
  CodebookBackend* codebooks;
  ComputeQueue* queue;

  // 'cpu', 'cuda:0', ... Throws Error with ERR_TOKENFLOW_BACKEND_UNAVAILABLE and the reason.
  static DevicePlace Named(const std::string& device) {
    return {device, &FindBackend(device).codebooks(), &ComputeQueue::Of(device)};
  }

  // Whoever lets go last, what lies on a device is destroyed by its compute thread, behind the calls that still read it.
  template <class T>
  std::shared_ptr<T> Keep(std::unique_ptr<T> object) const {
    return std::shared_ptr<T>(object.release(), [queue = queue](T* p) { queue->Post([p] { delete p; }); });
  }
};

// A codebook and where its lookups run.
struct CodebookEntry {
  DevicePlace place;
  std::shared_ptr<const Codebook> host;
  std::shared_ptr<const PlacedCodebook> placed;
};

// A handle of codebookCreate.
inline std::shared_ptr<const CodebookEntry> CodebookOf(const Napi::Value& value) {
  return UnwrapShared<const CodebookEntry>(value);
}

// Memory of a device under a handle of deviceBufferCreate: had when something is first written to it.
class HeldBuffer {
 public:
  HeldBuffer(DevicePlace place, int64_t bytes) : place_(std::move(place)), bytes_(bytes) {}

  const DevicePlace& place() const { return place_; }
  int64_t bytes() const { return bytes_; }

  // On the compute thread.
  Operand Writable() {
    if (memory_ == nullptr) memory_ = place_.Keep(place_.codebooks->Allocate(bytes_));
    return memory_->operand();
  }

 private:
  const DevicePlace place_;
  const int64_t bytes_;
  std::shared_ptr<PlacedBuffer> memory_;
};

// What a job reads: a copy of an array made at the call, the array itself where the caller waits for the job, or a buffer.
class InputArgument {
 public:
  InputArgument(const Napi::Value& value, bool in_place) {
    if (value.IsExternal()) {
      buffer_ = UnwrapShared<HeldBuffer>(value);
    } else if (in_place) {
      data_ = ArrayData<char>(value);
    } else if (value.IsTypedArray()) {
      const auto* bytes = ArrayData<char>(value);
      copy_ = std::make_shared<std::vector<char>>(bytes, bytes + value.As<Napi::TypedArray>().ByteLength());
      data_ = copy_->data();
    }
  }

  Operand operand() const { return buffer_ != nullptr ? buffer_->Writable() : Operand{data_, false}; }

 private:
  char* data_ = nullptr;
  std::shared_ptr<std::vector<char>> copy_;
  std::shared_ptr<HeldBuffer> buffer_;
};

// What a job fills: an array that the job's caller keeps alive, a buffer, or nothing.
class OutputArgument {
 public:
  explicit OutputArgument(const Napi::Value& value) {
    if (value.IsExternal()) {
      buffer_ = UnwrapShared<HeldBuffer>(value);
    } else {
      data_ = ArrayData<char>(value);
    }
  }

  Operand operand() const { return buffer_ != nullptr ? buffer_->Writable() : Operand{data_, false}; }

 private:
  char* data_ = nullptr;
  std::shared_ptr<HeldBuffer> buffer_;
};

}  // namespace tokenflow

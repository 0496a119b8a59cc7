// The packings of a model's weights on a device: requested by programs while they are compiled, made once the tensors they are
// made of have come, shared by every program that asks for the same one. What a packing is, the backend says.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/backend.h"

namespace tokenflow {

// One tensor that a packing is made of; no name: zeros.
struct WeightPart {
  std::string name;
  int64_t count;  // elements; 0: any
};

struct WeightData {
  const float* data;  // null: zeros
  int64_t count;
};

// A packing being assembled from its parts. A single part is packed at once; of several, copies are kept
// until the last has come.
class WeightEntry {
 public:
  virtual ~WeightEntry() = default;
  bool ready() const { return ready_.load(std::memory_order_acquire); }
  int64_t bytes() const { return bytes_; }
  const std::vector<WeightPart>& parts() const { return parts_; }
  bool Wants(const std::string& name) const;
  void Set(const std::string& name, const float* data, int64_t count);

 protected:
  explicit WeightEntry(std::vector<WeightPart> parts) : parts_(std::move(parts)), staged_(parts_.size()) {}
  virtual int64_t Pack(const std::vector<WeightData>& parts) = 0;  // returns the bytes kept

 private:
  std::vector<WeightPart> parts_;
  std::vector<std::unique_ptr<std::vector<float>>> staged_;
  std::atomic<bool> ready_{false};  // from then on nothing changes
  int64_t bytes_ = 0;
};

template <class T>
struct Packed {
  std::shared_ptr<const T> value;
  int64_t bytes;
};

template <class T>
class Weight : public WeightEntry {
 public:
  using Packer = std::function<Packed<T>(const std::vector<WeightData>&)>;
  Weight(std::vector<WeightPart> parts, Packer packer)
      : WeightEntry(std::move(parts)), packer_(std::move(packer)) {}
  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }
  const std::shared_ptr<const T>& shared() const { return value_; }

 private:
  int64_t Pack(const std::vector<WeightData>& parts) override {
    Packed<T> packed = packer_(parts);
    value_ = std::move(packed.value);
    return packed.bytes;
  }
  Packer packer_;
  std::shared_ptr<const T> value_;
};

class PackedWeights : public WeightStore {
 public:
  int64_t Bytes() const override;

  // The packing called `packing` of these parts, made when first asked for: programs share it.
  template <class T>
  std::shared_ptr<Weight<T>> Request(const std::string& packing, const std::vector<WeightPart>& parts,
                                     typename Weight<T>::Packer packer) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<WeightEntry>& entry = entries_[Key(packing, parts)];
    if (entry == nullptr) entry = std::make_shared<Weight<T>>(parts, std::move(packer));
    return std::static_pointer_cast<Weight<T>>(entry);
  }

  // Packs a tensor into every packing that waits for it. On any thread, also while programs run.
  void Set(const std::string& name, const float* data, int64_t count);

  // The tensors that these packings still wait for, each once.
  std::vector<std::string> Missing(const std::vector<std::shared_ptr<WeightEntry>>& entries) const;

 private:
  static std::string Key(const std::string& packing, const std::vector<WeightPart>& parts);
  mutable std::mutex mutex_;  // held while packings that are not ready are looked at or changed
  std::map<std::string, std::shared_ptr<WeightEntry>> entries_;
};

// Parts of equal size that add up to `count` elements.
std::vector<WeightPart> EqualParts(const WeightParts& names, int64_t count);

}  // namespace tokenflow

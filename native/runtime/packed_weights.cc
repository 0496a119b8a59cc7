#include "runtime/packed_weights.h"

#include <set>

#include "runtime/error.h"

namespace tokenflow {

bool WeightEntry::Wants(const std::string& name) const {
  if (ready()) return false;
  for (size_t i = 0; i < parts_.size(); i++) {
    if (parts_[i].name == name && staged_[i] == nullptr) return true;
  }
  return false;
}

void WeightEntry::Set(const std::string& name, const float* data, int64_t count) {
  for (const WeightPart& part : parts_) {
    if (part.name == name && part.count != 0 && part.count != count) {
      throw InvalidArgument("Expected " + std::to_string(part.count) + " elements for the weight '" + name +
                            "' but received " + std::to_string(count));
    }
  }
  bool whole = true;
  std::vector<WeightData> all;
  for (size_t i = 0; i < parts_.size(); i++) {
    if (parts_[i].name.empty()) {
      all.push_back({nullptr, parts_[i].count});
    } else if (parts_[i].name == name) {
      all.push_back({data, count});
    } else if (staged_[i] != nullptr) {
      all.push_back({staged_[i]->data(), static_cast<int64_t>(staged_[i]->size())});
    } else {
      whole = false;
    }
  }
  if (whole) {
    bytes_ = Pack(all);
    staged_.clear();
    ready_.store(true, std::memory_order_release);
    return;
  }
  for (size_t i = 0; i < parts_.size(); i++) {
    if (parts_[i].name == name) staged_[i] = std::make_unique<std::vector<float>>(data, data + count);
  }
}

std::string PackedWeights::Key(const std::string& packing, const std::vector<WeightPart>& parts) {
  std::string key = packing;
  for (const WeightPart& part : parts) key += '\0' + part.name + '\0' + std::to_string(part.count);
  return key;
}

int64_t PackedWeights::Bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [key, entry] : entries_) bytes += entry->bytes();
  return bytes;
}

void PackedWeights::Set(const std::string& name, const float* data, int64_t count) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, entry] : entries_) {
    if (entry->Wants(name)) entry->Set(name, data, count);
  }
}

std::vector<std::string> PackedWeights::Missing(
    const std::vector<std::shared_ptr<WeightEntry>>& entries) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::set<std::string> seen;
  std::vector<std::string> missing;
  for (const auto& weight : entries) {
    for (const WeightPart& part : weight->parts()) {
      if (!part.name.empty() && weight->Wants(part.name) && seen.insert(part.name).second) {
        missing.push_back(part.name);
      }
    }
  }
  return missing;
}

std::vector<WeightPart> EqualParts(const WeightParts& names, int64_t count) {
  std::vector<WeightPart> parts;
  for (const std::string& name : names) parts.push_back({name, count / static_cast<int64_t>(names.size())});
  return parts;
}

}  // namespace tokenflow

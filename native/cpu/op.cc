#include "cpu/op.h"

#include <algorithm>

namespace tokenflow {

std::shared_ptr<Weight<FloatArray>> Compiler::RequestArray(const std::vector<WeightPart>& parts,
                                                           int64_t pad) {
  return Request<FloatArray>(
      "array:" + std::to_string(pad), parts, [pad](const std::vector<WeightData>& data) {
        int64_t count = 0;
        for (const WeightData& part : data) count += part.count;
        const int64_t padded = (count + pad - 1) / pad * pad;
        auto array = std::make_unique<FloatArray>(FloatArray{Buffer(padded * 4, "weights")});
        float* to = array->buffer.as<float>();
        for (const WeightData& part : data) {
          if (part.data == nullptr) {
            std::fill_n(to, part.count, 0.0f);
          } else {
            std::copy_n(part.data, part.count, to);
          }
          to += part.count;
        }
        std::fill_n(to, padded - count, 0.0f);
        return Packed<FloatArray>{std::move(array), padded * 4};
      });
}

Compiler::GroupSums Compiler::GatherGroupSums(ValueId y, int64_t groups) {
  return group_sums_[{y, groups}] = std::make_shared<std::vector<double>>(value(y).shape[0] * groups * 2);
}

Compiler::GroupSums Compiler::GroupSumsOf(ValueId x, int64_t groups) const {
  const auto found = group_sums_.find({OriginOf(graph)[x], groups});
  return found == group_sums_.end() ? nullptr : found->second;
}

}  // namespace tokenflow

#include "op.h"

#include "elementwise.cuh"

namespace tokenflow::cuda {

std::shared_ptr<Weight<DeviceArray>> Compiler::RequestArray(const std::vector<WeightPart>& parts,
                                                            int64_t pad) {
  return Request<DeviceArray>(
      "array:" + std::to_string(pad), parts, [pad](const std::vector<WeightData>& data) {
        std::vector<float> values;
        for (const WeightData& part : data) {
          if (part.data == nullptr) {
            values.resize(values.size() + part.count, 0.0f);
          } else {
            values.insert(values.end(), part.data, part.data + part.count);
          }
        }
        values.resize(RoundUp(static_cast<int64_t>(values.size()), pad), 0.0f);
        const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
        return Packed<DeviceArray>{std::make_shared<DeviceArray>(Upload(values)), bytes};
      });
}

template <class T>
const T* Reading<T>::In(const Frame& frame) const {
  if (offset_ < 0) return frame.at<T>(id_);
  T* copy = frame.scratch_at<T>(offset_);
  if (from_ == Element::kBf16) {
    FitRows(frame.at<const uint16_t>(id_), rows_, columns_, copy, stride_, frame.stream);
  } else {
    FitRows(frame.at<const float>(id_), rows_, columns_, copy, stride_, frame.stream);
  }
  return copy;
}

template <class T>
void Writing<T>::Finish(const Frame& frame) const {
  if (offset_ < 0) return;
  const T* copy = frame.scratch_at<T>(offset_);
  if (to_ == Element::kBf16) {
    FitRows(copy, rows_, stride_, frame.at<uint16_t>(id_), columns_, frame.stream);
  } else {
    FitRows(copy, rows_, stride_, frame.at<float>(id_), columns_, frame.stream);
  }
}

template class Reading<float>;
template class Reading<uint16_t>;
template class Writing<float>;
template class Writing<uint16_t>;

void Unsupported(const std::string& what) {
  throw Error("ERR_TOKENFLOW_BACKEND_UNAVAILABLE",
              "The CUDA backend does not compute " + what + "; use the CPU");
}

}  // namespace tokenflow::cuda

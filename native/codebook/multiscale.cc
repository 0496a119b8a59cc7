#include "codebook/multiscale.h"

#include <algorithm>
#include <string>

#include "runtime/error.h"

namespace tokenflow {

MultiScaleQuantizer::MultiScaleQuantizer(std::shared_ptr<const Codebook> codebook, std::vector<int> scales,
                                         std::vector<float> weights, std::vector<Phi> phis)
    : codebook_(std::move(codebook)),
      scales_(std::move(scales)),
      weights_(std::move(weights)),
      phis_(std::move(phis)) {
  if (scales_.empty()) throw InvalidArgument("Expected at least one scale");
  for (size_t i = 0; i < scales_.size(); i++) {
    if (scales_[i] >= 1 && scales_[i] <= 4096 && (i == 0 || scales_[i] > scales_[i - 1])) continue;
    throw InvalidArgument("Expected scales from 1 to 4096 in ascending order but received " +
                          std::to_string(scales_[i]) + " at position " + std::to_string(i));
  }
  if (!weights_.empty() && static_cast<int>(weights_.size()) != codebook_->part_count()) {
    throw InvalidArgument("Expected " + std::to_string(codebook_->part_count()) + " weights but received " +
                          std::to_string(weights_.size()));
  }
  for (const Phi& phi : phis_) {
    if (phi.dim() == codebook_->dim()) continue;
    throw InvalidArgument("Expected phi convolutions of " + std::to_string(codebook_->dim()) +
                          " channels but received " + std::to_string(phi.dim()));
  }
  for (const int scale : scales_) up_.emplace_back(scale, grid());
  if (!phis_.empty()) {
    phi_of_scale_ = PhiOfScale(static_cast<int>(phis_.size()), static_cast<int>(scales_.size()));
  }
}

int64_t MultiScaleQuantizer::tokens(int scale_count) const {
  int64_t total = 0;
  for (int i = 0; i < scale_count; i++) total += int64_t{scales_[i]} * scales_[i];
  return total;
}

void MultiScaleQuantizer::Add(int scale, const float* codes, int64_t batch, float* sum,
                              float* residual) const {
  if (phis_.empty()) return up_[scale].Accumulate(codes, batch, codebook_->dim(), sum, residual);
  std::vector<float> up(batch * grid() * grid() * codebook_->dim());
  up_[scale].Accumulate(codes, batch, codebook_->dim(), up.data(), nullptr);
  phis_[phi_of_scale_[scale]].Accumulate(up.data(), batch, grid(), sum, residual);
}

void MultiScaleQuantizer::Encode(const float* features, int64_t batch, int32_t* indices, float* sum,
                                 const CancelFlag& cancelled) const {
  const int dim = codebook_->dim();
  const int64_t cells = batch * grid() * grid();
  const float* weights = weights_.empty() ? nullptr : weights_.data();
  std::vector<float> residual(features, features + cells * dim);
  std::vector<float> unwanted_sum(sum == nullptr ? cells * dim : 0);
  if (sum == nullptr) sum = unwanted_sum.data();
  std::fill(sum, sum + cells * dim, 0.0f);

  std::vector<float> pooled(cells * dim);  // of a scale; then its codes
  std::vector<int32_t> found(cells);
  int64_t offset = 0;
  for (int i = 0; i < static_cast<int>(scales_.size()); i++) {
    const int64_t area = int64_t{scales_[i]} * scales_[i];
    AreaDown(residual.data(), batch, grid(), scales_[i], dim, pooled.data());
    codebook_->Nearest(pooled.data(), batch * area, 1, weights, {found.data(), nullptr, nullptr}, cancelled);
    if (cancelled.load(std::memory_order_relaxed)) return;
    if (std::find(found.begin(), found.begin() + batch * area, kNoCode) != found.begin() + batch * area) {
      throw InvalidArgument(
          "Expected finite features but received NaN, infinity or values too large to square");
    }
    codebook_->Gather(found.data(), batch * area, pooled.data());
    Add(i, pooled.data(), batch, sum, residual.data());
    for (int64_t b = 0; b < batch; b++) {
      std::copy_n(found.data() + b * area, area, indices + b * tokens() + offset);
    }
    offset += area;
  }
}

void MultiScaleQuantizer::Decode(const int32_t* indices, int64_t batch, int scale_count, float* sum,
                                 const CancelFlag& cancelled) const {
  if (scale_count < 1 || scale_count > static_cast<int>(scales_.size())) {
    throw InvalidArgument("Expected 1 to " + std::to_string(scales_.size()) + " scales but received " +
                          std::to_string(scale_count));
  }
  const int dim = codebook_->dim();
  const int64_t length = tokens(scale_count);
  std::fill(sum, sum + batch * grid() * grid() * dim, 0.0f);
  std::vector<int32_t> wanted;
  std::vector<float> codes;
  int64_t offset = 0;
  for (int i = 0; i < scale_count && !cancelled.load(std::memory_order_relaxed); i++) {
    const int64_t area = int64_t{scales_[i]} * scales_[i];
    wanted.resize(batch * area);
    codes.resize(batch * area * dim);
    for (int64_t b = 0; b < batch; b++) {
      std::copy_n(indices + b * length + offset, area, wanted.data() + b * area);
    }
    codebook_->Gather(wanted.data(), batch * area, codes.data());
    Add(i, codes.data(), batch, sum, nullptr);
    offset += area;
  }
}

}  // namespace tokenflow

// A codebook on a card. Its codes go there with the first call, its norms with the first call of other weights.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "device_codebook.cuh"
#include "gather.cuh"
#include "lookup.cuh"
#include "runtime/codebook_backend.h"
#include "workspace.h"

namespace tokenflow::cuda {

class CudaCodebook : public PlacedCodebook {
 public:
  CudaCodebook(std::shared_ptr<Workspace> workspace, std::shared_ptr<const PackedCodes> packed,
               std::vector<PartSpan> spans, ScreenMode screen);

  int64_t bytes() const override;
  LookupCounts counts() const override;
  const char* screen_name() const override;
  NearestReport Nearest(const NearestRequest& request, const CancelFlag& cancelled) const override;
  void Gather(const Operand& indices, int64_t n, const Operand& rows) const override;

  int dim() const { return packed_->dim; }
  int64_t codes() const { return packed_->codes; }
  int64_t non_finite() const { return packed_->non_finite; }
  Metric metric() const { return packed_->metric; }

  // For what computes with the codebook inside one call (Workspace::Call). `weights` is null for ones.
  const CodebookView& View(const float* weights = nullptr) const;
  CodeRows Rows() const;
  LookupPlan Plan(int64_t queries, int k) const;
  void CountLookup(int64_t queries, const LookupPlan& plan, unsigned long long scored_groups) const;

 private:
  // On the card; made on its compute thread.
  struct Resident {
    DeviceMemory codes, codes_low, norms, parts;
    DeviceMemory rows;  // those compared, where some can never be chosen: `codes` has zeros in their place
    std::vector<float> weights;
    CodebookView view{};
  };
  Resident& Get() const;

  const std::shared_ptr<Workspace> workspace_;
  const std::shared_ptr<const PackedCodes> packed_;
  const std::vector<PartSpan> spans_;  // with weights of one
  const ScreenMode screen_;
  mutable std::unique_ptr<Resident> resident_;
  mutable std::atomic<int64_t> queries_{0}, screened_{0}, exact_scores_{0};
};

}  // namespace tokenflow::cuda

#include "codebook_backend.h"

#include "codebook/codebook.h"
#include "learning.h"
#include "placed_codebook.h"
#include "quantizers.h"
#include "workspace.h"

namespace tokenflow::cuda {

namespace {

class CudaBuffer : public PlacedBuffer {
 public:
  CudaBuffer(DeviceMemory memory, int64_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}
  Operand operand() const override { return {memory_.as<void>(), true}; }
  int64_t bytes() const override { return bytes_; }

 private:
  DeviceMemory memory_;
  int64_t bytes_;
};

class CudaCodebookBackend : public CodebookBackend {
 public:
  explicit CudaCodebookBackend(std::shared_ptr<Card> card)
      : workspace_(std::make_shared<Workspace>(std::move(card))) {}

  std::unique_ptr<PlacedBuffer> Allocate(int64_t bytes) override {
    return workspace_->Call([&] {
      return std::make_unique<CudaBuffer>(workspace_->Allocate(static_cast<size_t>(bytes), "a device buffer"),
                                          bytes);
    });
  }

  void Copy(const Operand& to, const Operand& from, int64_t bytes) override {
    workspace_->Call([&] {
      Staging& staging = workspace_->staging();
      const auto size = static_cast<size_t>(bytes);
      if (to.on_device && from.on_device) {
        Check(cudaMemcpyAsync(to.data, from.data, size, cudaMemcpyDeviceToDevice,
                              workspace_->card().stream().get()),
              "copying an array");
      } else if (to.on_device) {
        staging.Upload(to.data, from.data, size);
      } else {
        staging.Download(to.data, from.data, size);
      }
      staging.Finish();
    });
  }

  std::unique_ptr<PlacedCodebook> Place(std::shared_ptr<const Codebook> codebook,
                                        ScreenMode screen) override {
    const std::shared_ptr<const PackedCodes> packed(codebook, &codebook->packed());
    return std::make_unique<CudaCodebook>(workspace_, packed, codebook->parts(), screen);
  }

  void SumByCode(const Operand& x, const Operand& indices, int64_t n, int dim, int64_t codes, bool normalize,
                 double* counts, double* sums, const CancelFlag& cancelled) override {
    cuda::SumByCode(*workspace_, x, indices, n, dim, codes, normalize, counts, sums, cancelled);
  }

  std::unique_ptr<PlacedRows> PlaceRows(const float* x, int64_t n, int dim) override {
    return MakeRows(workspace_, x, n, dim);
  }

  std::unique_ptr<PlacedResidual> PlaceResidual(const PlacedCodebooks& stages) override {
    return MakeResidual(workspace_, stages);
  }
  std::unique_ptr<PlacedProduct> PlaceProduct(const PlacedCodebooks& groups) override {
    return MakeProduct(workspace_, groups);
  }

 private:
  const std::shared_ptr<Workspace> workspace_;
};

}  // namespace

std::unique_ptr<CodebookBackend> MakeCodebookBackend(std::shared_ptr<Card> card) {
  return std::make_unique<CudaCodebookBackend>(std::move(card));
}

}  // namespace tokenflow::cuda

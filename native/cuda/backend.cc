#include "backend.h"

#include "card.h"
#include "codebook_backend.h"
#include "program.h"
#include "weights.h"

namespace tokenflow::cuda {

namespace {

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(int index)
      : card_(std::make_shared<Card>(index)), codebooks_(MakeCodebookBackend(card_)) {}

  CodebookBackend& codebooks() override { return *codebooks_; }

  std::shared_ptr<WeightStore> CreateStore() override { return std::make_shared<CudaWeightStore>(card_); }

  std::shared_ptr<Program> Compile(const Graph& graph, std::shared_ptr<WeightStore> store,
                                   Precision precision) override {
    if (!Supports(precision)) {
      throw Error("ERR_TOKENFLOW_BACKEND_UNAVAILABLE",
                  "Precision bf16 needs a card of compute capability 8.0 or newer; use precision f32 here");
    }
    CheckGraph(graph);
    return card_->Use([&] {
      return CompileProgram(graph, std::static_pointer_cast<CudaWeightStore>(std::move(store)), precision);
    });
  }

  bool Supports(Precision precision) const override {
    return precision == Precision::kF32 || card_->shape().arch >= 80;
  }

  std::string LostReason() const override { return card_->LostReason(); }

 private:
  const std::shared_ptr<Card> card_;
  const std::unique_ptr<CodebookBackend> codebooks_;
};

}  // namespace

std::unique_ptr<Backend> OpenBackend(int index) {
  return std::make_unique<CudaBackend>(index);
}

}  // namespace tokenflow::cuda

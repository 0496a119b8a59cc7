// Both go over their rows in pieces that fit into the workspace; inside a piece everything stays on the card.
#include "quantizers.h"

#include <algorithm>

#include "arena.h"
#include "gather.cuh"
#include "placed_codebook.h"
#include "residual.cuh"

namespace tokenflow::cuda {

namespace {

constexpr unsigned long long kNone = ~0ull;

std::vector<std::shared_ptr<const CudaCodebook>> OnThisCard(const PlacedCodebooks& codebooks) {
  std::vector<std::shared_ptr<const CudaCodebook>> ours;
  for (const auto& one : codebooks) ours.push_back(std::static_pointer_cast<const CudaCodebook>(one));
  return ours;
}

// An array of the call, piece by piece: where the rows of a piece lie on the card.
template <class T>
class Column {
 public:
  Column(const Operand& operand, int64_t width) : operand_(operand), width_(width) {}

  void Lay(Arena& arena, int64_t rows) { own_ = operand_.on_device ? nullptr : arena.Take<T>(rows * width_); }
  T* at(int64_t row) const { return operand_.on_device ? operand_.as<T>() + row * width_ : own_; }
  void Up(Staging& staging, int64_t row, int64_t rows) const {
    if (own_ != nullptr)
      staging.Upload(own_, operand_.as<const T>() + row * width_, rows * width_ * sizeof(T));
  }
  void Down(Staging& staging, int64_t row, int64_t rows) const {
    if (own_ != nullptr) staging.Download(operand_.as<T>() + row * width_, own_, rows * width_ * sizeof(T));
  }

 private:
  const Operand operand_;
  const int64_t width_;
  T* own_ = nullptr;
};

// The nearest codes of rows on the card, left there; the first row without one, or -1.
int64_t NearestOf(const CudaCodebook& codebook, float* x, int64_t rows, int32_t* found,
                  const CancelFlag& cancelled) {
  NearestRequest request;
  request.queries = {x, true};
  request.n = rows;
  request.indices = {found, true};
  return codebook.Nearest(request, cancelled).first_missing;
}

class QuantizerOnCard {
 protected:
  QuantizerOnCard(std::shared_ptr<Workspace> workspace, const PlacedCodebooks& codebooks)
      : workspace_(std::move(workspace)), codebooks_(OnThisCard(codebooks)) {}

  cudaStream_t stream() const { return workspace_->card().stream().get(); }

  // work(first row, rows) over pieces of n rows, after lay_out(arena, rows) has had its memory; lay_out is called first with an
  // arena that counts.
  template <class LayOut, class Work>
  void InPieces(int64_t n, const std::string& what, LayOut lay_out, Work work) const {
    const auto bytes_for = [&](int64_t rows) {
      Arena arena(nullptr);
      lay_out(arena, rows);
      return arena.used();
    };
    int64_t rows = std::max<int64_t>(1, n);
    const size_t budget = workspace_->Budget(Layer::kQuantizer);
    while (rows > kBlockQueries && bytes_for(rows) > budget) {
      rows = std::max(kBlockQueries, (rows / 2 + kBlockQueries - 1) / kBlockQueries * kBlockQueries);
    }
    Arena arena(
        workspace_->Reserve(Layer::kQuantizer, bytes_for(rows), what + " " + std::to_string(rows) + " rows"));
    lay_out(arena, rows);
    for (int64_t begin = 0; begin < n; begin += rows) work(begin, std::min(rows, n - begin));
  }

  // Throws when `bad` names a position of `indices`, of which there are `groups` a row: `of` is what a group is called.
  void CheckIndices(const unsigned long long* bad, const Operand& indices, int groups, const char* of) const {
    Staging& staging = workspace_->staging();
    unsigned long long first = kNone;
    staging.Download(&first, bad, sizeof first);
    staging.Finish();
    if (first == kNone) return;
    int32_t index = 0;
    if (indices.on_device) {
      staging.Download(&index, indices.as<const int32_t>() + first, sizeof index);
      staging.Finish();
    } else {
      index = indices.as<const int32_t>()[first];
    }
    const int64_t group = static_cast<int64_t>(first % static_cast<unsigned long long>(groups));
    throw InvalidArgument("Expected indices from 0 to " + std::to_string(codebooks_[group]->codes() - 1) +
                          " for " + of + " " + std::to_string(group) + " but received " +
                          std::to_string(index) + " at position " + std::to_string(first));
  }

  void ClearBad(unsigned long long* bad) const {
    Check(cudaMemsetAsync(bad, 0xff, sizeof *bad, stream()), "clearing");
  }

  const std::shared_ptr<Workspace> workspace_;
  const std::vector<std::shared_ptr<const CudaCodebook>> codebooks_;
};

class CudaResidual : public PlacedResidual, QuantizerOnCard {
 public:
  CudaResidual(std::shared_ptr<Workspace> workspace, const PlacedCodebooks& stages)
      : QuantizerOnCard(std::move(workspace), stages) {}

  void Encode(const Operand& x, int64_t n, int beam, const Operand& indices, const Operand& sum,
              const Operand& errors, const CancelFlag& cancelled) const override {
    if (beam != 1) {
      throw InvalidArgument("Expected a beam of 1 on a card but received " + std::to_string(beam) +
                            "; make the quantiser of codebooks on the CPU");
    }
    workspace_->Call([&] {
      const int dim = codebooks_[0]->dim(), stages = static_cast<int>(codebooks_.size());
      Column<float> rows(x, dim), sums(sum, dim), squares(errors, 1);
      Column<int32_t> tokens(indices, stages);
      float* residual = nullptr;
      int32_t* found = nullptr;
      unsigned long long* bad = nullptr;
      const auto lay_out = [&](Arena& arena, int64_t count) {
        bad = arena.Take<unsigned long long>(1);
        residual = arena.Take<float>(count * dim);
        found = arena.Take<int32_t>(count);
        rows.Lay(arena, count);
        sums.Lay(arena, count);
        squares.Lay(arena, count);
        tokens.Lay(arena, count);
      };
      InPieces(n, "a residual quantiser of", lay_out, [&](int64_t begin, int64_t count) {
        if (cancelled.load(std::memory_order_relaxed)) return;
        Staging& staging = workspace_->staging();
        rows.Up(staging, begin, count);
        ClearBad(bad);
        Check(cudaMemcpyAsync(residual, rows.at(begin), count * dim * sizeof(float), cudaMemcpyDeviceToDevice,
                              stream()),
              "copying rows");
        for (int stage = 0; stage < stages; stage++) {
          const int64_t missing = NearestOf(*codebooks_[stage], residual, count, found, cancelled);
          if (cancelled.load(std::memory_order_relaxed)) return;
          if (missing >= 0) {
            throw InvalidArgument("Expected finite vectors but row " + std::to_string(begin + missing) +
                                  " has NaN, infinity or values too large to square at stage " +
                                  std::to_string(stage));
          }
          AddStage({codebooks_[stage]->Rows(), found, 1, 0, count, stage == 0, sums.at(begin), residual,
                    tokens.at(begin), stages, stage, bad, 0},
                   stream());
        }
        ResidualErrors(rows.at(begin), sums.at(begin), count, dim, squares.at(begin), stream());
        tokens.Down(staging, begin, count);
        sums.Down(staging, begin, count);
        squares.Down(staging, begin, count);
        staging.Finish();
      });
    });
  }

  void Decode(const Operand& indices, int64_t n, int stages, const Operand& sum,
              const CancelFlag& cancelled) const override {
    workspace_->Call([&] {
      const int dim = codebooks_[0]->dim();
      Column<float> sums(sum, dim);
      Column<int32_t> tokens(indices, stages);
      unsigned long long* bad = nullptr;
      const auto lay_out = [&](Arena& arena, int64_t count) {
        bad = arena.Take<unsigned long long>(1);
        sums.Lay(arena, count);
        tokens.Lay(arena, count);
      };
      InPieces(n, "a residual quantiser of", lay_out, [&](int64_t begin, int64_t count) {
        if (cancelled.load(std::memory_order_relaxed)) return;
        Staging& staging = workspace_->staging();
        tokens.Up(staging, begin, count);
        ClearBad(bad);
        for (int stage = 0; stage < stages; stage++) {
          AddStage({codebooks_[stage]->Rows(), tokens.at(begin), stages, stage, count, stage == 0,
                    sums.at(begin), nullptr, nullptr, 0, 0, bad, begin * stages},
                   stream());
        }
        CheckIndices(bad, indices, stages, "stage");
        sums.Down(staging, begin, count);
        staging.Finish();
      });
    });
  }
};

class CudaProduct : public PlacedProduct, QuantizerOnCard {
 public:
  CudaProduct(std::shared_ptr<Workspace> workspace, const PlacedCodebooks& groups)
      : QuantizerOnCard(std::move(workspace), groups) {
    for (const auto& group : codebooks_) {
      begins_.push_back(dim_);
      dim_ += group->dim();
    }
  }

  void Encode(const Operand& x, int64_t n, const Operand& indices, const Operand& quantized,
              const CancelFlag& cancelled) const override {
    workspace_->Call([&] {
      const int groups = static_cast<int>(codebooks_.size());
      Column<float> rows(x, dim_), out(quantized, dim_);
      Column<int32_t> tokens(indices, groups);
      float* part = nullptr;
      int32_t* found = nullptr;
      unsigned long long* bad = nullptr;
      const auto lay_out = [&](Arena& arena, int64_t count) {
        bad = arena.Take<unsigned long long>(1);
        part = arena.Take<float>(count * dim_);
        found = arena.Take<int32_t>(count);
        rows.Lay(arena, count);
        out.Lay(arena, count);
        tokens.Lay(arena, count);
      };
      InPieces(n, "a product quantiser of", lay_out, [&](int64_t begin, int64_t count) {
        if (cancelled.load(std::memory_order_relaxed)) return;
        Staging& staging = workspace_->staging();
        rows.Up(staging, begin, count);
        ClearBad(bad);
        for (int g = 0; g < groups; g++) {
          SliceColumns(rows.at(begin), count, dim_, begins_[g], codebooks_[g]->dim(), part, stream());
          const int64_t missing = NearestOf(*codebooks_[g], part, count, found, cancelled);
          if (cancelled.load(std::memory_order_relaxed)) return;
          if (missing >= 0) {
            throw InvalidArgument("Expected finite vectors and codes but found no code for group " +
                                  std::to_string(g) + " of row " + std::to_string(begin + missing) +
                                  " (NaN, infinity or values too large to square)");
          }
          PutColumn(found, count, tokens.at(begin), groups, g, stream());
          GatherRows(codebooks_[g]->Rows(), found, count, 1, 0, 0, out.at(begin), dim_, begins_[g], bad,
                     stream());
        }
        tokens.Down(staging, begin, count);
        out.Down(staging, begin, count);
        staging.Finish();
      });
    });
  }

  void Decode(const Operand& indices, int64_t n, const Operand& quantized) const override {
    workspace_->Call([&] {
      const int groups = static_cast<int>(codebooks_.size());
      Column<float> out(quantized, dim_);
      Column<int32_t> tokens(indices, groups);
      unsigned long long* bad = nullptr;
      const auto lay_out = [&](Arena& arena, int64_t count) {
        bad = arena.Take<unsigned long long>(1);
        out.Lay(arena, count);
        tokens.Lay(arena, count);
      };
      InPieces(n, "a product quantiser of", lay_out, [&](int64_t begin, int64_t count) {
        Staging& staging = workspace_->staging();
        tokens.Up(staging, begin, count);
        ClearBad(bad);
        for (int g = 0; g < groups; g++) {
          GatherRows(codebooks_[g]->Rows(), tokens.at(begin), count, groups, g, begin * groups, out.at(begin),
                     dim_, begins_[g], bad, stream());
        }
        CheckIndices(bad, indices, groups, "group");
        out.Down(staging, begin, count);
        staging.Finish();
      });
    });
  }

 private:
  std::vector<int> begins_;  // first element of each group
  int dim_ = 0;
};

}  // namespace

std::unique_ptr<PlacedResidual> MakeResidual(std::shared_ptr<Workspace> workspace,
                                             const PlacedCodebooks& stages) {
  return std::make_unique<CudaResidual>(std::move(workspace), stages);
}

std::unique_ptr<PlacedProduct> MakeProduct(std::shared_ptr<Workspace> workspace,
                                           const PlacedCodebooks& groups) {
  return std::make_unique<CudaProduct>(std::move(workspace), groups);
}

}  // namespace tokenflow::cuda

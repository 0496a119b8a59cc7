// Vectors are sorted by code and added up on the card; what is of the size of the codes comes down, where the codes move
// (codebook/kmeans.cc, codebook/code_averages.cc). All vectors of a call are on the card at once: their sums visit them in the
// order of the codes.
#include "learning.h"

#include <algorithm>

#include "arena.h"
#include "kmeans.cuh"
#include "placed_codebook.h"
#include "rows.cuh"
#include "rows_by_code.cuh"

namespace tokenflow::cuda {

namespace {

constexpr unsigned long long kNone = ~0ull;

// As codebook/code_sums.h says it.
[[noreturn]] void RefuseNotFinite(unsigned long long row) {
  throw InvalidArgument("Expected finite vectors but row " + std::to_string(row) + " has NaN or infinity");
}

class CudaRows : public PlacedRows {
 public:
  CudaRows(std::shared_ptr<Workspace> workspace, const float* x, int64_t n, int dim)
      : workspace_(std::move(workspace)), n_(n), dim_(dim), given_(x, x + n * dim) {}

  int64_t count() const override { return n_; }
  int dim() const override { return dim_; }

  void Prepare(bool normalize) override {
    workspace_->Call([&] {
      const std::string purpose = std::to_string(n_) + " vectors to learn from";
      x_ = workspace_->Allocate(n_ * dim_ * sizeof(float), purpose);
      distances_ = workspace_->Allocate(n_ * sizeof(float), purpose);
      for (DeviceMemory& found : found_) found = workspace_->Allocate(n_ * sizeof(int32_t), purpose);
      Staging& staging = workspace_->staging();
      auto* const first =
          static_cast<unsigned long long*>(workspace_->Reserve(Layer::kQuantizer, sizeof(kNone), purpose));
      staging.Upload(x_.as(), given_.data(), n_ * dim_ * sizeof(float));
      Check(cudaMemsetAsync(first, 0xff, sizeof kNone, stream()), "clearing");
      FirstNonFinite(x_.as<float>(), n_, dim_, first, stream());
      if (normalize) NormalizeRows(x_.as<float>(), n_, dim_, stream());
      unsigned long long wrong = kNone;
      staging.Download(&wrong, first, sizeof wrong);
      staging.Finish();
      given_ = {};
      if (wrong != kNone) RefuseNotFinite(wrong);
    });
  }

  std::vector<float> Row(int64_t row) const override {
    std::vector<float> values(dim_);
    Fetch(values.data(), x_.as<float>() + row * dim_, dim_ * sizeof(float));
    return values;
  }

  std::vector<double> LowerNearest(const float* codes, int64_t count, bool first) override {
    const int64_t blocks = DivideUp<int64_t>(n_, kSumBlock);
    std::vector<double> sums(blocks);
    workspace_->Call([&] {
      if (nearest_.bytes() == 0)
        nearest_ = workspace_->Allocate(n_ * sizeof(float), "the distances of vectors");
      float* code = nullptr;
      double* block_sums = nullptr;
      const auto lay_out = [&](Arena arena) {
        code = arena.Take<float>(count * dim_);
        block_sums = arena.Take<double>(blocks);
        return arena.used();
      };
      lay_out(
          Arena(workspace_->Reserve(Layer::kQuantizer, lay_out(Arena(nullptr)), "the distances of vectors")));
      Staging& staging = workspace_->staging();
      staging.Upload(code, codes, count * dim_ * sizeof(float));
      for (int64_t j = 0; j < count; j++) {
        cuda::LowerNearest(x_.as<float>(), n_, dim_, code + j * dim_, first && j == 0, nearest_.as<float>(),
                           stream());
      }
      BlockSums(nearest_.as<float>(), n_, block_sums, stream());
      staging.Download(sums.data(), block_sums, blocks * sizeof(double));
      staging.Finish();
    });
    return sums;
  }

  std::vector<float> Nearest(int64_t begin, int64_t end) const override {
    std::vector<float> values(end - begin);
    Fetch(values.data(), nearest_.as<float>() + begin, values.size() * sizeof(float));
    return values;
  }

  RowAssignment Assign(const float* codes, int64_t count, Metric metric,
                       const CancelFlag& cancelled) override {
    RowAssignment assignment;
    workspace_->Call([&] {
      const bool normalize = metric == Metric::kCosine;
      const auto packed =
          std::make_shared<const PackedCodes>(PackCodes({{codes, dim_, normalize}}, count, metric));
      const CudaCodebook codebook(workspace_, packed, {{0, dim_, normalize, 1.0f, QueryFactor(metric)}},
                                  ScreenMode::kAuto);
      NearestRequest request;
      request.queries = {x_.as<void>(), true};
      request.n = n_;
      request.indices = {found_[1].as<void>(), true};
      request.distances = {distances_.as<void>(), true};
      assignment.first_missing = codebook.Nearest(request, cancelled).first_missing;
      if (cancelled.load(std::memory_order_relaxed) || assignment.first_missing >= 0) return;

      const int64_t blocks = DivideUp<int64_t>(n_, kSumBlock);
      unsigned long long* moved = nullptr;
      double* block_sums = nullptr;
      const auto lay_out = [&](Arena arena) {
        moved = arena.Take<unsigned long long>(1);
        block_sums = arena.Take<double>(blocks);
        return arena.used();
      };
      lay_out(Arena(workspace_->Reserve(Layer::kQuantizer, lay_out(Arena(nullptr)), "an assignment")));
      Staging& staging = workspace_->staging();
      Check(cudaMemsetAsync(moved, 0, sizeof *moved, stream()), "clearing");
      if (assigned_) CountDifferent(found_[0].as<int32_t>(), found_[1].as<int32_t>(), n_, moved, stream());
      BlockSums(distances_.as<float>(), n_, block_sums, stream());
      unsigned long long count_moved = 0;
      assignment.distances.resize(blocks);
      staging.Download(&count_moved, moved, sizeof count_moved);
      staging.Download(assignment.distances.data(), block_sums, blocks * sizeof(double));
      staging.Finish();
      assignment.moved = static_cast<int64_t>(count_moved);
      std::swap(found_[0], found_[1]);
      assigned_ = true;
    });
    return assignment;
  }

  RowSums Sums(int64_t codes) override {
    RowSums sums{std::vector<int64_t>(codes), std::vector<double>(codes * dim_), std::vector<double>(codes)};
    workspace_->Call([&] {
      double *vectors = nullptr, *distances = nullptr;
      const auto lay_out = [&](Arena arena) {
        sorted_ = SortedRows(arena, n_, codes);
        vectors = arena.Take<double>(codes * dim_);
        distances = arena.Take<double>(codes);
        which_ = arena.Take<int32_t>(codes);
        farthest_ = arena.Take<int32_t>(codes);
        return arena.used();
      };
      lay_out(Arena(workspace_->Reserve(Layer::kQuantizer, lay_out(Arena(nullptr)), "the sums of codes")));
      SortByCode(found_[0].as<int32_t>(), sorted_, stream());
      SumRows(sorted_, x_.as<float>(), dim_, vectors, stream());
      SumRows(sorted_, distances_.as<float>(), 1, distances, stream());
      Staging& staging = workspace_->staging();
      std::vector<int32_t> begin(codes + 1);
      staging.Download(begin.data(), sorted_.begin, begin.size() * sizeof(int32_t));
      staging.Download(sums.sums.data(), vectors, sums.sums.size() * sizeof(double));
      staging.Download(sums.distances.data(), distances, sums.distances.size() * sizeof(double));
      staging.Finish();
      for (int64_t code = 0; code < codes; code++) sums.counts[code] = begin[code + 1] - begin[code];
    });
    return sums;
  }

  std::vector<int64_t> Farthest(const std::vector<int32_t>& codes) const override {
    std::vector<int32_t> rows(codes.size());
    if (codes.empty()) return {};
    workspace_->Call([&] {
      Staging& staging = workspace_->staging();
      staging.Upload(which_, codes.data(), codes.size() * sizeof(int32_t));
      FarthestRows(sorted_, distances_.as<float>(), which_, static_cast<int64_t>(codes.size()), farthest_,
                   stream());
      staging.Download(rows.data(), farthest_, rows.size() * sizeof(int32_t));
      staging.Finish();
    });
    return std::vector<int64_t>(rows.begin(), rows.end());
  }

 private:
  cudaStream_t stream() const { return workspace_->card().stream().get(); }

  void Fetch(void* to, const void* from, size_t bytes) const {
    workspace_->Call([&] {
      workspace_->staging().Download(to, from, bytes);
      workspace_->staging().Finish();
    });
  }

  const std::shared_ptr<Workspace> workspace_;
  const int64_t n_;
  const int dim_;
  std::vector<float> given_;  // until Prepare has carried it up
  DeviceMemory x_, nearest_, distances_;
  DeviceMemory found_[2];  // codes of the rows: of the last assignment, of the next
  bool assigned_ = false;
  // In the workspace, from Sums until the end of its job.
  SortedRows sorted_;
  int32_t *which_ = nullptr, *farthest_ = nullptr;
};

}  // namespace

void SumByCode(Workspace& workspace, const Operand& x, const Operand& indices, int64_t n, int dim,
               int64_t codes, bool normalize, double* counts, double* sums, const CancelFlag& cancelled) {
  workspace.Call([&] {
    struct Wrong {
      unsigned long long row, position;
    };
    Wrong* wrong = nullptr;
    float* rows = x.as<float>();
    int32_t* found = indices.as<int32_t>();
    double* vectors = nullptr;
    SortedRows sorted;
    const auto lay_out = [&](Arena arena) {
      wrong = arena.Take<Wrong>(1);
      if (!x.on_device || normalize) rows = arena.Take<float>(n * dim);
      if (!indices.on_device) found = arena.Take<int32_t>(n);
      vectors = arena.Take<double>(codes * dim);
      sorted = SortedRows(arena, n, codes);
      return arena.used();
    };
    const std::string purpose = "the sums of " + std::to_string(n) + " vectors";
    lay_out(Arena(workspace.Reserve(Layer::kQuantizer, lay_out(Arena(nullptr)), purpose)));
    Staging& staging = workspace.staging();
    const cudaStream_t stream = workspace.card().stream().get();
    const size_t bytes = static_cast<size_t>(n) * dim * sizeof(float);
    if (!x.on_device) {
      staging.Upload(rows, x.data, bytes);
    } else if (normalize) {
      Check(cudaMemcpyAsync(rows, x.data, bytes, cudaMemcpyDeviceToDevice, stream), "copying vectors");
    }
    if (!indices.on_device) staging.Upload(found, indices.data, n * sizeof(int32_t));
    Check(cudaMemsetAsync(wrong, 0xff, sizeof *wrong, stream), "clearing");
    FirstNonFinite(rows, n, dim, &wrong->row, stream);
    FirstOutOfRange(found, n, codes, &wrong->position, stream);
    Wrong first;
    staging.Download(&first, wrong, sizeof first);
    staging.Finish();
    if (first.row != kNone) RefuseNotFinite(first.row);
    if (first.position != kNone) {
      int32_t index = 0;
      staging.Download(&index, found + first.position, sizeof index);
      staging.Finish();
      throw InvalidArgument("Expected indices from 0 to " + std::to_string(codes - 1) + " but received " +
                            std::to_string(index) + " at position " + std::to_string(first.position));
    }
    if (cancelled.load(std::memory_order_relaxed)) return;
    if (normalize) NormalizeRows(rows, n, dim, stream);
    SortByCode(found, sorted, stream);
    SumRows(sorted, rows, dim, vectors, stream);
    std::vector<int32_t> begin(codes + 1);
    staging.Download(begin.data(), sorted.begin, begin.size() * sizeof(int32_t));
    staging.Download(sums, vectors, codes * dim * sizeof(double));
    staging.Finish();
    for (int64_t code = 0; code < codes; code++) counts[code] = begin[code + 1] - begin[code];
  });
}

std::unique_ptr<PlacedRows> MakeRows(std::shared_ptr<Workspace> workspace, const float* x, int64_t n,
                                     int dim) {
  return std::make_unique<CudaRows>(std::move(workspace), x, n, dim);
}

}  // namespace tokenflow::cuda

// The codebook layer on the CPU. Its memory is the host's, so an operand is an address wherever it lies.
#include "cpu/codebook_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "codebook/code_sums.h"
#include "codebook/codebook.h"
#include "codebook/half.h"
#include "codebook/kmeans_rows.h"
#include "codebook/product.h"
#include "codebook/ranks.h"
#include "codebook/residual.h"
#include "runtime/buffer.h"

namespace tokenflow {

namespace {

class HostBuffer : public PlacedBuffer {
 public:
  explicit HostBuffer(int64_t bytes) : memory_(bytes, "a device buffer") {}
  Operand operand() const override { return {memory_.as<void>(), true}; }
  int64_t bytes() const override { return memory_.bytes(); }

 private:
  Buffer memory_;
};

class HostCodebook : public PlacedCodebook {
 public:
  explicit HostCodebook(std::shared_ptr<const Codebook> codebook) : codebook_(std::move(codebook)) {}

  const std::shared_ptr<const Codebook>& codebook() const { return codebook_; }

  int64_t bytes() const override { return codebook_->bytes(); }
  LookupCounts counts() const override { return codebook_->counts(); }
  const char* screen_name() const override { return codebook_->screen_name(); }

  bool IsBrief(int64_t n, const float* weights) const override { return codebook_->IsBrief(n, weights); }

  NearestReport Nearest(const NearestRequest& request, const CancelFlag& cancelled) const override {
    const int64_t n = request.n;
    std::vector<float> widened;
    const float* x = request.queries.as<const float>();
    if (request.format != QueryFormat::kFloat32) {
      const auto widen = request.format == QueryFormat::kFloat16 ? FloatOfHalf : FloatOfBFloat16;
      const auto* bits = request.queries.as<const uint16_t>();
      widened.resize(n * codebook_->dim());
      std::transform(bits, bits + widened.size(), widened.begin(), widen);
      x = widened.data();
    }
    const int parts = static_cast<int>(request.part_distances.size());
    const int ranks =
        request.margins.data != nullptr ? RanksForMargin(request.k, codebook_->codes()) : request.k;
    auto* const indices = request.indices.as<int32_t>();
    // What the lookup lays out otherwise than it is asked for goes through these.
    std::vector<int32_t> wide_indices(ranks > request.k ? n * ranks : 0);
    std::vector<float> wide_distances(
        ranks > request.k || (request.margins.data != nullptr && request.distances.data == nullptr)
            ? n * ranks
            : 0);
    std::vector<float> wide_parts(parts * n * ranks);
    const NearestOutput out{wide_indices.empty() ? indices : wide_indices.data(),
                            wide_distances.empty() ? request.distances.as<float>() : wide_distances.data(),
                            wide_parts.empty() ? nullptr : wide_parts.data(), request.codes.as<float>(),
                            request.errors.as<float>()};
    codebook_->Nearest(x, n, ranks, request.weights, out, cancelled);
    if (cancelled.load()) return {};

    for (int64_t i = 0; request.margins.data != nullptr && i < n; i++) {
      request.margins.as<float>()[i] = MarginOf(out.indices + i * ranks, out.distances + i * ranks, ranks);
    }
    const auto take = [&](auto* to, const auto* from) {
      for (int64_t i = 0; i < n; i++) std::copy_n(from + i * ranks, request.k, to + i * request.k);
    };
    if (!wide_indices.empty()) take(indices, wide_indices.data());
    if (!wide_distances.empty() && request.distances.data != nullptr)
      take(request.distances.as<float>(), wide_distances.data());
    for (int p = 0; p < parts; p++) {
      take(request.part_distances[p].as<float>(), wide_parts.data() + p * n * ranks);
    }
    NearestReport report;
    auto* const counts = request.counts.as<int32_t>();
    if (counts != nullptr) std::fill_n(counts, codebook_->codes(), 0);
    for (int64_t i = 0; i < n; i++) {
      const int32_t nearest = indices[i * request.k];
      if (nearest == kNoCode && report.first_missing < 0) report.first_missing = i;
      if (nearest != kNoCode && counts != nullptr) counts[nearest]++;
    }
    return report;
  }

  void Gather(const Operand& indices, int64_t n, const Operand& rows) const override {
    codebook_->Gather(indices.as<const int32_t>(), n, rows.as<float>());
  }

 private:
  const std::shared_ptr<const Codebook> codebook_;
};

std::vector<std::shared_ptr<const Codebook>> CodebooksOf(const PlacedCodebooks& placed) {
  std::vector<std::shared_ptr<const Codebook>> codebooks;
  for (const auto& one : placed) codebooks.push_back(static_cast<const HostCodebook&>(*one).codebook());
  return codebooks;
}

class HostResidual : public PlacedResidual {
 public:
  explicit HostResidual(const PlacedCodebooks& stages) : quantizer_(CodebooksOf(stages)) {}

  void Encode(const Operand& x, int64_t n, int beam, const Operand& indices, const Operand& sum,
              const Operand& errors, const CancelFlag& cancelled) const override {
    quantizer_.Encode(x.as<const float>(), n, beam, indices.as<int32_t>(), sum.as<float>(),
                      errors.as<float>(), cancelled);
  }
  void Decode(const Operand& indices, int64_t n, int stages, const Operand& sum,
              const CancelFlag& cancelled) const override {
    quantizer_.Decode(indices.as<const int32_t>(), n, stages, sum.as<float>(), cancelled);
  }

 private:
  const ResidualQuantizer quantizer_;
};

class HostProduct : public PlacedProduct {
 public:
  explicit HostProduct(const PlacedCodebooks& groups) : quantizer_(CodebooksOf(groups)) {}

  void Encode(const Operand& x, int64_t n, const Operand& indices, const Operand& quantized,
              const CancelFlag& cancelled) const override {
    quantizer_.Encode(x.as<const float>(), n, indices.as<int32_t>(), quantized.as<float>(), cancelled);
  }
  void Decode(const Operand& indices, int64_t n, const Operand& quantized) const override {
    quantizer_.Decode(indices.as<const int32_t>(), n, quantized.as<float>());
  }

 private:
  const ProductQuantizer quantizer_;
};

class Cpu : public CodebookBackend {
 public:
  std::unique_ptr<PlacedBuffer> Allocate(int64_t bytes) override {
    return std::make_unique<HostBuffer>(bytes);
  }

  void Copy(const Operand& to, const Operand& from, int64_t bytes) override {
    std::memcpy(to.data, from.data, bytes);
  }

  std::unique_ptr<PlacedCodebook> Place(std::shared_ptr<const Codebook> codebook, ScreenMode) override {
    return std::make_unique<HostCodebook>(std::move(codebook));
  }

  void SumByCode(const Operand& x, const Operand& indices, int64_t n, int dim, int64_t codes, bool normalize,
                 double* counts, double* sums, const CancelFlag& cancelled) override {
    tokenflow::SumByCode(x.as<const float>(), indices.as<const int32_t>(), n, dim, codes, normalize, counts,
                         sums, cancelled);
  }

  std::unique_ptr<PlacedRows> PlaceRows(const float* x, int64_t n, int dim) override {
    return HostRows(x, n, dim);
  }

  std::unique_ptr<PlacedResidual> PlaceResidual(const PlacedCodebooks& stages) override {
    return std::make_unique<HostResidual>(stages);
  }
  std::unique_ptr<PlacedProduct> PlaceProduct(const PlacedCodebooks& groups) override {
    return std::make_unique<HostProduct>(groups);
  }
};

}  // namespace

CodebookBackend& CpuCodebooks() {
  static Cpu backend;
  return backend;
}

}  // namespace tokenflow

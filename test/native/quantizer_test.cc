// The quantisers and the learning of codebooks: what they give does not depend on the number of threads, decoding gives
// what encoding gave, and the scalar quantisers count up to 2^53.
#include <algorithm>
#include <cmath>
#include <memory>

#include "codebook/code_averages.h"
#include "codebook/code_sums.h"
#include "codebook/kmeans.h"
#include "codebook/kmeans_rows.h"
#include "codebook/multiscale.h"
#include "codebook/product.h"
#include "codebook/residual.h"
#include "codebook/scalar_quantizer.h"
#include "expect.h"
#include "runtime/parallel.h"

using namespace tokenflow;

namespace {

const CancelFlag kNever{false};
constexpr int kDim = 12;

std::shared_ptr<const Codebook> MakeCodebook(int64_t codes, int dim, Numbers* numbers,
                                             Metric metric = Metric::kL2) {
  const std::vector<float> vectors = numbers->Floats(codes * dim);
  return std::make_shared<const Codebook>(std::vector<CodebookPart>{{vectors.data(), dim, false}}, codes,
                                          metric);
}

// What `work` gives on one thread and on several; it must be the same.
template <class Work>
auto SameOnAnyThreads(Work work) {
  SetThreads(1);
  const auto alone = work();
  for (const int threads : {2, 5}) {
    SetThreads(threads);
    Expect(work() == alone, "the number of threads changes nothing");
  }
  return alone;
}

void Residual() {
  Numbers numbers(1);
  const ResidualQuantizer quantizer({MakeCodebook(70, kDim, &numbers), MakeCodebook(90, kDim, &numbers)});
  const int64_t n = 300;
  const std::vector<float> x = numbers.Floats(n * kDim);
  for (const int beam : {1, 4}) {
    const auto [indices, sum] = SameOnAnyThreads([&] {
      std::vector<int32_t> found(n * 2);
      std::vector<float> total(n * kDim), errors(n);
      quantizer.Encode(x.data(), n, beam, found.data(), total.data(), errors.data(), kNever);
      return std::make_pair(found, total);
    });
    std::vector<float> decoded(n * kDim);
    quantizer.Decode(indices.data(), n, 2, decoded.data(), kNever);
    Expect(decoded == sum, "a residual quantiser decodes to what it encoded");
  }
}

void Product() {
  Numbers numbers(2);
  const auto codebook = MakeCodebook(60, kDim / 2, &numbers);
  const ProductQuantizer quantizer({codebook, codebook});
  const int64_t n = 400;
  const std::vector<float> x = numbers.Floats(n * kDim);
  std::vector<float> rows(n * kDim), decoded(n * kDim);
  const auto indices = SameOnAnyThreads([&] {
    std::vector<int32_t> found(n * 2);
    quantizer.Encode(x.data(), n, found.data(), rows.data(), kNever);
    return found;
  });
  quantizer.Decode(indices.data(), n, decoded.data());
  Expect(decoded == rows, "a product quantiser decodes to what it encoded");
  SameOnAnyThreads([&] {
    std::vector<int32_t> found(20 * 5);
    std::vector<float> distances(20 * 5);
    quantizer.Search(x.data(), 20, indices.data(), n, 5, found.data(), distances.data(), kNever);
    return std::make_pair(found, distances);
  });
}

void MultiScale() {
  Numbers numbers(3);
  const auto codebook = MakeCodebook(80, kDim, &numbers);
  for (const int count : {0, 1, 4}) {
    std::vector<Phi> phis;
    for (int i = 0; i < count; i++) {
      phis.emplace_back(numbers.Floats(9 * kDim * kDim, 0.3f).data(), numbers.Floats(kDim).data(), kDim, 0.5);
    }
    const MultiScaleQuantizer quantizer(codebook, {1, 2, 3, 5}, {}, phis);
    const int64_t batch = 3, cells = batch * 25 * kDim;
    const std::vector<float> features = numbers.Floats(cells);
    const auto [indices, sum] = SameOnAnyThreads([&] {
      std::vector<int32_t> found(batch * quantizer.tokens());
      std::vector<float> total(cells);
      quantizer.Encode(features.data(), batch, found.data(), total.data(), kNever);
      return std::make_pair(found, total);
    });
    std::vector<float> decoded(cells);
    quantizer.Decode(indices.data(), batch, 4, decoded.data(), kNever);
    Expect(decoded == sum, "a multi-scale quantiser decodes to what it encoded");
  }
  Expect(PhiOfScale(4, 10) == std::vector<int>({0, 0, 1, 1, 1, 2, 2, 3, 3, 3}), "VAR's sharing of four phis");
  Expect(PhiOfScale(10, 10) == std::vector<int>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}), "a phi for each scale");
  Expect(PhiOfScale(1, 3) == std::vector<int>({0, 0, 0}) && PhiOfScale(2, 1) == std::vector<int>({0}),
         "one phi, and one scale");
}

void Scalar() {
  using Rule = ScalarQuantizer::Rule;
  Numbers numbers(4);
  const std::vector<float> x = numbers.Floats(500 * 4, 3.0f);
  for (const Rule rule : {Rule::kTanh, Rule::kClamp, Rule::kSymmetric}) {
    const ScalarQuantizer quantizer(rule, {8, 5, 5, 1003}, 1.0f);
    std::vector<float> rows(500 * 4), decoded(500 * 4);
    const auto indices = SameOnAnyThreads([&] {
      std::vector<int32_t> found(500);
      quantizer.Encode(x.data(), 500, found.data(), rows.data(), kNever);
      return found;
    });
    quantizer.Decode(indices.data(), 500, decoded.data(), kNever);
    Expect(decoded == rows, "a scalar quantiser decodes to what it encoded");
  }
  const ScalarQuantizer wide(Rule::kSign, std::vector<int>(53, 2), 1.0f);
  double index = 9007199254740991.0;
  std::vector<float> row(53);
  wide.Decode(&index, 1, row.data(), kNever);
  Expect(std::all_of(row.begin(), row.end(), [](float value) { return value == 1.0f; }),
         "2^53 - 1 is all ones");
  double again = 0;
  wide.Encode(row.data(), 1, &again, row.data(), kNever);
  Expect(again == index, "an index of 53 bits comes back");
}

void Learning() {
  Numbers numbers(6);
  const int64_t n = 1500, size = 40;
  const std::vector<float> x = numbers.Floats(n * kDim);
  for (const Metric metric : {Metric::kL2, Metric::kCosine}) {
    SameOnAnyThreads([&] {
      KMeans learner(HostRows(x.data(), n, kDim), metric);
      learner.Prepare();
      Numbers uniforms(7);
      for (int64_t code = 0; code < size; code++) learner.AddFar((uniforms.Float() + 1) / 2);
      for (int step = 0; step < 4; step++) learner.Iterate(kNever);
      return learner.codes();
    });
    const bool normalize = metric == Metric::kCosine;
    std::vector<int32_t> indices(n);
    for (int32_t& index : indices) index = numbers.Below(size - 5);
    for (const bool moving : {true, false}) {
      SameOnAnyThreads([&] {
        std::vector<double> counts(size), sums(size * kDim), all_counts(size, 1.0),
            all_sums(size * kDim, 0.5);
        std::vector<float> codes(size * kDim, 0.25f);
        SumByCode(x.data(), indices.data(), n, kDim, size, normalize, counts.data(), sums.data(), kNever);
        const CodeState state{codes.data(), all_counts.data(), all_sums.data(), size, kDim, normalize};
        const CodeBatch batch{counts.data(), sums.data()};
        CheckBatch(batch, size, kDim);
        if (moving) {
          ApplyMovingAverage(state, batch, 0.9, 1e-5);
        } else {
          ApplyRunningMean(state, batch);
        }
        return std::make_pair(codes, all_sums);
      });
    }
  }
}

}  // namespace

int main() {
  RequireLevel();
  Residual();
  Product();
  MultiScale();
  Scalar();
  Learning();
  std::printf("quantizer_test: all well\n");
  return 0;
}

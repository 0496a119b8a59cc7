// The multi-scale quantiser against the CPU's: equal tokens, equal bits of the sum.
#include "codebook/multiscale.h"

#include <cmath>
#include <cstring>

#include "check.h"
#include "device_codebook.cuh"
#include "multiscale.cuh"

using namespace tokenflow;
using simt::DeviceBuffer;

namespace {

struct Setting {
  std::vector<int> scales;
  int64_t batch = 2;
  int64_t codes = 200;
  std::vector<int> dims = {32, 8};
  bool normalize = true;
  cuda::CardShape card{75, 4};  // sm_75 never screens
};

class Device {
 public:
  Device(const Codebook& codebook, const std::vector<CodebookPart>& parts, const std::vector<int>& scales)
      : host_(cuda::LayOut(codebook.packed())),
        norms_(cuda::LayOutNorms(codebook.packed(), Ones(codebook).data(), host_.view.padded,
                                 &host_.view.largest_norm)),
        codes_(host_.codes),
        codes_low_(host_.codes_low),
        parts_(Spans(parts)),
        taps(cuda::MultiscaleTaps(scales)) {
    view = host_.view;
    view.codes = codes_.data();
    view.codes_low = codes_low_.data();
    view.norms = norms_.data();
    view.parts = parts_.data();
  }

 private:
  static std::vector<float> Ones(const Codebook& codebook) {
    return std::vector<float>(codebook.part_count(), 1.0f);
  }
  static std::vector<PartSpan> Spans(const std::vector<CodebookPart>& parts) {
    std::vector<PartSpan> spans;
    int begin = 0;
    for (const CodebookPart& part : parts) {
      spans.push_back({begin, begin + part.dim, part.normalize, 1.0f, QueryFactor(Metric::kL2)});
      begin += part.dim;
    }
    return spans;
  }
  cuda::HostCodebook host_;
  DeviceBuffer<float> norms_, codes_;
  DeviceBuffer<uint16_t> codes_low_;
  DeviceBuffer<PartSpan> parts_;

 public:
  DeviceBuffer<BicubicUp::Taps> taps;
  cuda::CodebookView view;
};

void CompareWithCpu(const Setting& s) {
  simt::Random random(11);
  int dim = 0;
  std::vector<std::vector<float>> vectors;
  std::vector<CodebookPart> parts;
  for (int d : s.dims) {
    vectors.push_back(random.Normals(s.codes * d));
    dim += d;
  }
  for (size_t p = 0; p < s.dims.size(); p++) parts.push_back({vectors[p].data(), s.dims[p], s.normalize});
  const auto codebook = std::make_shared<const Codebook>(parts, s.codes, Metric::kL2);
  const MultiScaleQuantizer quantizer(codebook, s.scales);
  const int grid = s.scales.back();
  const int64_t elements = s.batch * grid * grid * dim;
  const std::vector<float> features = random.Normals(elements);
  std::vector<int32_t> want_tokens(s.batch * quantizer.tokens());
  std::vector<float> want_sum(elements);
  const CancelFlag never{false};
  quantizer.Encode(features.data(), s.batch, want_tokens.data(), want_sum.data(), never);

  Device device(*codebook, parts, s.scales);
  const DeviceBuffer<float> x(features);
  DeviceBuffer<int32_t> tokens(want_tokens.size());
  DeviceBuffer<float> sum(elements);
  DeviceBuffer<int> invalid(1, 0);
  DeviceBuffer<unsigned char> workspace(
      cuda::MultiscaleWorkspaceBytes(s.batch, s.scales, device.view, s.card));
  cuda::MultiscaleEncode(x.data(), s.batch, s.scales, device.taps.data(), device.view, s.card, tokens.data(),
                         sum.data(), invalid.data(), workspace.data(), nullptr);
  CHECK(invalid[0] == 0);
  CHECK(tokens.ToHost() == want_tokens);
  CHECK(std::memcmp(sum.data(), want_sum.data(), elements * 4) == 0);

  const int prefix = static_cast<int>(s.scales.size() + 1) / 2;
  const int64_t length = quantizer.tokens(prefix);
  std::vector<int32_t> first(s.batch * length);
  for (int64_t b = 0; b < s.batch; b++) {
    std::copy_n(want_tokens.begin() + b * quantizer.tokens(), length, first.begin() + b * length);
  }
  quantizer.Decode(first.data(), s.batch, prefix, want_sum.data(), never);
  const DeviceBuffer<int32_t> given(first);
  DeviceBuffer<float> decoded(elements);
  cuda::MultiscaleDecode(given.data(), s.batch, s.scales, prefix, device.taps.data(), device.view,
                         decoded.data(), invalid.data(), nullptr);
  CHECK(invalid[0] == 0);
  CHECK(std::memcmp(decoded.data(), want_sum.data(), elements * 4) == 0);
}

}  // namespace

TEST("the schedules of the models, shortened") {
  CompareWithCpu({{1, 2, 3, 4, 6, 8}});
  CompareWithCpu({{1, 2, 4, 6, 8, 10, 12}, 1});
}

TEST("scales that do not divide the grid, one part, plain vectors") {
  CompareWithCpu({{2, 3, 5, 7}, 3, 130, {10}, false});
  CompareWithCpu({{1, 5, 6, 11}, 1, 70, {3, 5, 2}, true});
}

TEST("a single scale") {
  CompareWithCpu({{4}, 2});
}

TEST("features that are not finite are reported") {
  simt::Random random(3);
  const std::vector<float> vectors = random.Normals(64 * 8);
  const std::vector<CodebookPart> parts = {{vectors.data(), 8, true}};
  const auto codebook = std::make_shared<const Codebook>(parts, 64, Metric::kL2);
  const std::vector<int> scales = {1, 2};
  Device device(*codebook, parts, scales);
  DeviceBuffer<float> x(random.Normals(4 * 8));
  x[9] = NAN;
  DeviceBuffer<int32_t> tokens(5);
  DeviceBuffer<float> sum(4 * 8);
  DeviceBuffer<int> invalid(1, 0);
  const cuda::CardShape card{80, 108};
  DeviceBuffer<unsigned char> workspace(cuda::MultiscaleWorkspaceBytes(1, scales, device.view, card));
  cuda::MultiscaleEncode(x.data(), 1, scales, device.taps.data(), device.view, card, tokens.data(),
                         sum.data(), invalid.data(), workspace.data(), nullptr);
  CHECK(invalid[0] == 1);
  CHECK(tokens[0] == kNoCode);
}

TEST("a token out of range is reported, not followed") {
  simt::Random random(4);
  const std::vector<float> vectors = random.Normals(64 * 8);
  const std::vector<CodebookPart> parts = {{vectors.data(), 8, true}};
  const auto codebook = std::make_shared<const Codebook>(parts, 64, Metric::kL2);
  const std::vector<int> scales = {1, 3};
  Device device(*codebook, parts, scales);
  for (int32_t bad : {-1, 64, 1 << 30}) {
    DeviceBuffer<int32_t> tokens(10, 5);
    tokens[7] = bad;
    DeviceBuffer<float> sum(9 * 8);
    DeviceBuffer<int> invalid(1, 0);
    cuda::MultiscaleDecode(tokens.data(), 1, scales, 2, device.taps.data(), device.view, sum.data(),
                           invalid.data(), nullptr);
    CHECK(invalid[0] == 1);
  }
}

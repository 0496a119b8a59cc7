// The ends of the multi-scale quantiser in a graph; its kernels are multiscale.cu's. Always fp32, tokens and sum equal the
// CPU's bit for bit, and nothing of it waits for the host.
#include "codebook/pack.h"
#include "device_codebook.cuh"
#include "multiscale.cuh"
#include "op.h"

namespace tokenflow::cuda {

namespace {

// A codebook of cosine metric on the card, with weights of one.
struct ResidentCodebook {
  DeviceArray codes, codes_low, norms, parts;
  CodebookView view;
};

Packed<ResidentCodebook> MakeResident(const std::vector<WeightData>& data,
                                      const std::vector<std::string>& names, int64_t dim) {
  int64_t total = 0;
  for (const WeightData& part : data) total += part.count;
  const int64_t codes = total / dim;
  std::vector<CodebookPart> parts;
  for (size_t i = 0; i < data.size(); i++) {
    if (codes == 0 || total % dim != 0 || data[i].count % codes != 0 || data[i].count == 0) {
      throw InvalidArgument("Expected codebooks of one length, " + std::to_string(dim) +
                            " wide together, but '" + names[i] + "' has " + std::to_string(data[i].count) +
                            " of their " + std::to_string(total) + " elements");
    }
    parts.push_back({data[i].data, static_cast<int>(data[i].count / codes), true});
  }
  const PackedCodes packed = PackCodes(parts, codes, Metric::kCosine);
  const HostCodebook host = LayOut(packed);
  std::vector<PartSpan> spans;
  int begin = 0;
  for (const CodebookPart& part : parts) {
    spans.push_back({begin, begin + part.dim, true, 1.0f, QueryFactor(Metric::kCosine)});
    begin += part.dim;
  }
  auto book = std::make_shared<ResidentCodebook>();
  const std::vector<float> weights(parts.size(), 1.0f);
  float largest_norm = 0;
  const std::vector<float> norms = LayOutNorms(packed, weights.data(), host.view.padded, &largest_norm);
  book->codes = Upload(host.codes);
  book->codes_low = Upload(host.codes_low);
  book->norms = Upload(norms);
  book->parts = Upload(spans);
  book->view = host.view;
  book->view.codes = book->codes.data();
  book->view.codes_low = book->codes_low.data<uint16_t>();
  book->view.norms = book->norms.data();
  book->view.parts = book->parts.data<PartSpan>();
  book->view.largest_norm = largest_norm;
  const size_t bytes = book->codes.memory.bytes() + book->codes_low.memory.bytes() +
                       book->norms.memory.bytes() + book->parts.memory.bytes();
  return {std::move(book), static_cast<int64_t>(bytes)};
}

// One packing for every program of a model, whatever its scales.
std::shared_ptr<Weight<ResidentCodebook>> RequestCodebook(Compiler& compiler,
                                                          const std::vector<std::string>& names,
                                                          int64_t dim) {
  std::vector<WeightPart> parts;
  for (const std::string& name : names) parts.push_back({name, 0});
  return compiler.Request<ResidentCodebook>(
      "codebook:" + std::to_string(dim), parts,
      [=](const std::vector<WeightData>& data) { return MakeResident(data, names, dim); });
}

std::shared_ptr<DeviceArray> UploadTaps(const std::vector<int>& scales) {
  return std::make_shared<DeviceArray>(Upload(MultiscaleTaps(scales)));
}

}  // namespace

CompiledOp Compile(const ops::MultiscaleEncode& op, Compiler& compiler) {
  const int64_t batch = compiler.value(op.x).shape[0];
  const std::vector<int> scales(op.scales.begin(), op.scales.end());
  const auto codebook = RequestCodebook(compiler, op.codebooks, compiler.value(op.x).Last());
  const auto taps = UploadTaps(scales);
  const int fault =
      compiler.AddFault("Expected finite features but received NaN, infinity or values too large to square");
  // The lookup's scratch depends on the number of codes, which the graph leaves open until the weights have come.
  CompiledOp compiled;
  compiled.scratch_bytes = [=, card = compiler.card] {
    return static_cast<int64_t>(MultiscaleWorkspaceBytes(batch, scales, (*codebook)->view, card));
  };
  compiled.run = [=, card = compiler.card](const Frame& frame) {
    MultiscaleEncode(frame.at<const float>(op.x), batch, scales, taps->data<BicubicUp::Taps>(),
                     (*codebook)->view, card, frame.at<int32_t>(op.tokens), frame.at(op.sum),
                     frame.faults + fault, frame.scratch, frame.stream);
  };
  return compiled;
}

CompiledOp Compile(const ops::MultiscaleDecode& op, Compiler& compiler) {
  const int64_t batch = compiler.value(op.y).shape[0];
  std::vector<int> scales(op.scales.begin(), op.scales.end());
  const int count = static_cast<int>(scales.size());
  if (scales.back() != op.grid) scales.push_back(static_cast<int>(op.grid));  // a prefix of the schedule
  const auto codebook = RequestCodebook(compiler, op.codebooks, compiler.value(op.y).Last());
  const auto taps = UploadTaps(scales);
  const int fault =
      compiler.AddFault("Expected tokens from 0 to the number of codes less one but received others");
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    MultiscaleDecode(frame.at<const int32_t>(op.tokens), batch, scales, count, taps->data<BicubicUp::Taps>(),
                     (*codebook)->view, frame.at(op.y), frame.faults + fault, frame.stream);
  };
  return compiled;
}

}  // namespace tokenflow::cuda

// The ends of the multi-scale quantiser in a graph; the quantiser itself is codebook/multiscale.h. Always
// fp32.
#include "codebook/multiscale.h"
#include "cpu/op.h"
#include "runtime/error.h"

namespace tokenflow {

namespace {

// One packing for every program of a model, whatever its scales.
std::shared_ptr<Weight<Codebook>> RequestCodebook(Compiler& compiler, const std::vector<std::string>& names,
                                                  int64_t dim) {
  std::vector<WeightPart> parts;
  for (const std::string& name : names) parts.push_back({name, 0});
  return compiler.Request<Codebook>(
      "codebook:" + std::to_string(dim), parts, [=](const std::vector<WeightData>& data) {
        int64_t total = 0;
        for (const WeightData& part : data) total += part.count;
        const int64_t codes = total / dim;
        std::vector<CodebookPart> codebook_parts;
        for (size_t i = 0; i < data.size(); i++) {
          if (codes == 0 || total % dim != 0 || data[i].count % codes != 0 || data[i].count == 0) {
            throw InvalidArgument("Expected codebooks of one length, " + std::to_string(dim) +
                                  " wide together, but '" + names[i] + "' has " +
                                  std::to_string(data[i].count) + " of their " + std::to_string(total) +
                                  " elements");
          }
          codebook_parts.push_back({data[i].data, static_cast<int>(data[i].count / codes), true});
        }
        auto codebook = std::make_shared<const Codebook>(codebook_parts, codes, Metric::kCosine);
        const int64_t bytes = codebook->bytes();
        return Packed<Codebook>{std::move(codebook), bytes};
      });
}

}  // namespace

CompiledOp Compile(const MultiscaleEncode& op, Compiler& compiler) {
  const int64_t batch = compiler.value(op.x).shape[0];
  const std::vector<int> scales(op.scales.begin(), op.scales.end());
  const auto codebook = RequestCodebook(compiler, op.codebooks, compiler.value(op.x).Last());
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    MultiScaleQuantizer(codebook->shared(), scales)
        .Encode(frame.at(op.x), batch, frame.at<int32_t>(op.tokens), frame.at(op.sum), frame.cancelled);
  };
  return compiled;
}

CompiledOp Compile(const MultiscaleDecode& op, Compiler& compiler) {
  const int64_t batch = compiler.value(op.y).shape[0];
  std::vector<int> scales(op.scales.begin(), op.scales.end());
  const int count = static_cast<int>(scales.size());
  if (scales.back() != op.grid) scales.push_back(static_cast<int>(op.grid));  // a prefix of the schedule
  const auto codebook = RequestCodebook(compiler, op.codebooks, compiler.value(op.y).Last());
  CompiledOp compiled;
  compiled.run = [=](const Frame& frame) {
    MultiScaleQuantizer(codebook->shared(), scales)
        .Decode(frame.at<int32_t>(op.tokens), batch, count, frame.at(op.y), frame.cancelled);
  };
  return compiled;
}

}  // namespace tokenflow

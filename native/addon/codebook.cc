// Codebooks and their lookups for JavaScript.
#include "codebook/codebook.h"

#include <utility>

#include "addon/handles.h"
#include "codebook/half.h"
#include "codebook/reference.h"
#include "cpu/fma_peak.h"
#include "cpu/read_speed.h"

namespace tokenflow {

namespace {

// codebookCreate(parts: { vectors: Float32Array, dim, normalize, unit }[], codes, metric, screen)
Napi::Value Create(const Napi::CallbackInfo& info) {
  const auto list = info[0].As<Napi::Array>();
  std::vector<CodebookPart> parts;
  std::vector<bool> unit;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto part = list.Get(i).As<Napi::Object>();
    parts.push_back({ArrayData<float>(part.Get("vectors")), static_cast<int>(Integer(part, "dim")),
                     Flag(part, "normalize")});
    unit.push_back(Flag(part, "unit"));
  }
  const int64_t codes = info[1].As<Napi::Number>().Int64Value();
  const std::string screen = info[3].As<Napi::String>();
  const ScreenMode mode = screen == "off"      ? ScreenMode::kOff
                          : screen == "always" ? ScreenMode::kAlways
                                               : ScreenMode::kAuto;
  return WrapShared(info.Env(),
                    std::make_shared<const Codebook>(parts, codes, MetricNamed(info[2]), mode, unit));
}

// codebookInfo(handle) -> { nonFinite, bytes, screen, queries, screened, exactScores }
Napi::Value Info(const Napi::CallbackInfo& info) {
  const auto codebook = UnwrapShared<const Codebook>(info[0]);
  auto result = Napi::Object::New(info.Env());
  result.Set("nonFinite", static_cast<double>(codebook->non_finite()));
  result.Set("bytes", static_cast<double>(codebook->bytes()));
  if (codebook->screen_name() != nullptr) result.Set("screen", codebook->screen_name());
  const LookupCounts counts = codebook->counts();
  result.Set("queries", static_cast<double>(counts.queries));
  result.Set("screened", static_cast<double>(counts.screened));
  result.Set("exactScores", static_cast<double>(counts.exact_scores));
  return result;
}

// codebookRelease(handle): gives up the handle's share now.
Napi::Value Release(const Napi::CallbackInfo& info) {
  info[0].As<Napi::External<std::shared_ptr<const Codebook>>>().Data()->reset();
  return info.Env().Undefined();
}

// Queries as float32, from a Float32Array or a Uint16Array of 16-bit floats.
std::vector<float> FloatsOf(const Napi::Value& value, const std::string& format) {
  if (format == "f32") return ArrayCopy<float>(value);
  const uint16_t* bits = ArrayData<uint16_t>(value);
  std::vector<float> floats(ArrayLength(value));
  const auto convert = format == "f16" ? FloatOfHalf : FloatOfBFloat16;
  for (size_t i = 0; i < floats.size(); i++) floats[i] = convert(bits[i]);
  return floats;
}

// codebookNearest(handle, { queries, format, k, weights?, indices, distances?, partDistances?, codes?, errors?,
// counts?, sync })
Napi::Value Nearest(const Napi::CallbackInfo& info) {
  const auto codebook = UnwrapShared<const Codebook>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value queries = request.Get("queries"), indices = request.Get("indices"),
                    distances = request.Get("distances"), parts = request.Get("partDistances"),
                    codes = request.Get("codes"), errors = request.Get("errors"),
                    counts = request.Get("counts");
  const std::string format = request.Get("format").As<Napi::String>();
  const bool sync = request.Get("sync").ToBoolean();
  const int k = request.Get("k").As<Napi::Number>().Int32Value();
  const int64_t n = ArrayLength(queries) / codebook->dim();
  const NearestOutput out{ArrayData<int32_t>(indices), ArrayData<float>(distances), ArrayData<float>(parts),
                          ArrayData<float>(codes), ArrayData<float>(errors)};
  int32_t* const histogram = ArrayData<int32_t>(counts);
  auto weights = ArrayCopy<float>(request.Get("weights"));
  const bool brief = codebook->IsBrief(n, weights.empty() ? nullptr : weights.data());
  const bool in_place = sync && format == "f32";
  auto copy = in_place ? std::vector<float>() : FloatsOf(queries, format);
  const float* given = ArrayData<float>(queries);
  return DispatchJob(
      info.Env(), sync, {indices, distances, parts, codes, errors, counts},
      [=, copy = std::move(copy), weights = std::move(weights)](const CancelFlag& cancelled) {
        const float* x = in_place ? given : copy.data();
        codebook->Nearest(x, n, k, weights.empty() ? nullptr : weights.data(), out, cancelled);
        if (histogram == nullptr || cancelled.load()) return;
        for (int64_t i = 0; i < n; i++) {
          if (out.indices[i * k] != kNoCode) histogram[out.indices[i * k]]++;
        }
      },
      brief);
}

// codebookGather(handle, indices: Int32Array, out: Float32Array)
Napi::Value Gather(const Napi::CallbackInfo& info) {
  const auto codebook = UnwrapShared<const Codebook>(info[0]);
  codebook->Gather(ArrayData<int32_t>(info[1]), ArrayLength(info[1]), ArrayData<float>(info[2]));
  return info.Env().Undefined();
}

// codebookReference(parts: { vectors, dim, normalize, weight }[], codes, metric, queries, k, indices): the
// float chain of codebook/reference.h, for tests. Returns, per index, its score in double.
Napi::Value Reference(const Napi::CallbackInfo& info) {
  const auto list = info[0].As<Napi::Array>();
  std::vector<reference::Part> parts;
  int64_t dim = 0;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto part = list.Get(i).As<Napi::Object>();
    parts.push_back({ArrayData<float>(part.Get("vectors")), part.Get("dim").As<Napi::Number>().Int32Value(),
                     part.Get("normalize").As<Napi::Boolean>().Value(),
                     part.Get("weight").As<Napi::Number>().FloatValue()});
    dim += parts.back().dim;
  }
  const int64_t codes = info[1].As<Napi::Number>().Int64Value();
  const Metric metric = MetricNamed(info[2]);
  const float* queries = ArrayData<float>(info[3]);
  const int64_t n = ArrayLength(info[3]) / dim;
  const int k = info[4].As<Napi::Number>().Int32Value();
  int32_t* indices = ArrayData<int32_t>(info[5]);
  auto scores = Napi::Float64Array::New(info.Env(), n * k);
  for (int64_t i = 0; i < n; i++) {
    const float* x = queries + i * dim;
    reference::ChainNearest(metric, parts, codes, x, k, indices + i * k);
    for (int64_t at = i * k; at < (i + 1) * k; at++) {
      scores[static_cast<size_t>(at)] =
          indices[at] == kNoCode ? NAN : reference::Score<double>(metric, parts, x, indices[at]);
    }
  }
  return scores;
}

// fmaPeak(threads) -> floating-point operations per second
Napi::Value FmaPeak(const Napi::CallbackInfo& info) {
  const int threads = info[0].As<Napi::Number>().Int32Value();
  double peak = 0;
  ComputeQueue::Cpu().Run([&] { peak = MeasureFmaPeak(threads); });
  return Napi::Number::New(info.Env(), peak);
}

// readSeconds(bytes, threads) -> seconds of one pass
Napi::Value ReadSeconds(const Napi::CallbackInfo& info) {
  const int64_t bytes = info[0].As<Napi::Number>().Int64Value();
  const int threads = info[1].As<Napi::Number>().Int32Value();
  double seconds = 0;
  ComputeQueue::Cpu().Run([&] { seconds = MeasureRead(bytes, threads); });
  return Napi::Number::New(info.Env(), seconds);
}

}  // namespace

void InitCodebook(Napi::Env env, Napi::Object exports) {
  ExportGuarded<Create>(env, exports, "codebookCreate");
  ExportGuarded<Info>(env, exports, "codebookInfo");
  ExportGuarded<Release>(env, exports, "codebookRelease");
  ExportGuarded<Nearest>(env, exports, "codebookNearest");
  ExportGuarded<Gather>(env, exports, "codebookGather");
  ExportGuarded<Reference>(env, exports, "codebookReference");
  ExportGuarded<FmaPeak>(env, exports, "fmaPeak");
  ExportGuarded<ReadSeconds>(env, exports, "readSeconds");
}

}  // namespace tokenflow

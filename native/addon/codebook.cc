// Codebooks and their lookups for JavaScript.
#include "codebook/codebook.h"

#include <utility>

#include "addon/placed.h"
#include "codebook/reference.h"
#include "cpu/fma_peak.h"
#include "cpu/read_speed.h"

namespace tokenflow {

namespace {

// codebookCreate(parts: { vectors: Float32Array, dim, normalize, unit }[], codes, metric, screen, device)
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
  const DevicePlace place = DevicePlace::Named(info[4].As<Napi::String>());
  const auto host = std::make_shared<const Codebook>(parts, codes, MetricNamed(info[2]), mode, unit);
  return WrapShared(info.Env(), std::make_shared<const CodebookEntry>(CodebookEntry{
                                    place, host, place.Keep(place.codebooks->Place(host, mode))}));
}

// codebookInfo(handle) -> { nonFinite, bytes, screen, queries, screened, exactScores }
Napi::Value Info(const Napi::CallbackInfo& info) {
  const auto entry = CodebookOf(info[0]);
  const PlacedCodebook& placed = *entry->placed;
  auto result = Napi::Object::New(info.Env());
  result.Set("nonFinite", static_cast<double>(entry->host->non_finite()));
  result.Set("bytes", static_cast<double>(placed.bytes()));
  if (placed.screen_name() != nullptr) result.Set("screen", placed.screen_name());
  const LookupCounts counts = placed.counts();
  result.Set("queries", static_cast<double>(counts.queries));
  result.Set("screened", static_cast<double>(counts.screened));
  result.Set("exactScores", static_cast<double>(counts.exact_scores));
  return result;
}

// codebookRelease(handle): gives up the handle's share now.
Napi::Value Release(const Napi::CallbackInfo& info) {
  info[0].As<Napi::External<std::shared_ptr<const CodebookEntry>>>().Data()->reset();
  return info.Env().Undefined();
}

// codebookNearest(handle, { queries, format, n, k, weights?, indices, distances?, partDistances?, margins?, codes?, errors?,
// counts?, missing, sync }): arrays or device buffers.
Napi::Value Nearest(const Napi::CallbackInfo& info) {
  const auto entry = CodebookOf(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const bool sync = Flag(request, "sync");
  const Napi::Value missing = request.Get("missing");
  std::vector<Napi::Value> filled{missing};
  const auto output = [&](const Napi::Value& value) {
    filled.push_back(value);
    return OutputArgument(value);
  };
  std::vector<OutputArgument> parts;
  if (request.Get("partDistances").IsArray()) {
    const auto list = request.Get("partDistances").As<Napi::Array>();
    for (uint32_t p = 0; p < list.Length(); p++) parts.push_back(output(list.Get(p)));
  }
  const std::string format = request.Get("format").As<Napi::String>();
  NearestRequest plain;
  plain.format = format == "f16"    ? QueryFormat::kFloat16
                 : format == "bf16" ? QueryFormat::kBFloat16
                                    : QueryFormat::kFloat32;
  plain.n = Integer(request, "n");
  plain.k = static_cast<int>(Integer(request, "k"));
  double* const first_missing = ArrayData<double>(missing);
  const OutputArgument indices = output(request.Get("indices")), distances = output(request.Get("distances")),
                       margins = output(request.Get("margins")), codes = output(request.Get("codes")),
                       errors = output(request.Get("errors")), counts = output(request.Get("counts"));
  auto weights = ArrayCopy<float>(request.Get("weights"));
  const bool brief = entry->placed->IsBrief(plain.n, weights.empty() ? nullptr : weights.data());
  return DispatchJob(
      info.Env(), sync, filled,
      [=, queries = InputArgument(request.Get("queries"), sync),
       weights = std::move(weights)](const CancelFlag& cancelled) {
        NearestRequest wanted = plain;
        wanted.queries = queries.operand();
        wanted.weights = weights.empty() ? nullptr : weights.data();
        wanted.indices = indices.operand();
        wanted.distances = distances.operand();
        for (const OutputArgument& part : parts) wanted.part_distances.push_back(part.operand());
        wanted.margins = margins.operand();
        wanted.codes = codes.operand();
        wanted.errors = errors.operand();
        wanted.counts = counts.operand();
        *first_missing = static_cast<double>(entry->placed->Nearest(wanted, cancelled).first_missing);
      },
      *entry->place.queue, brief);
}

// codebookGather(handle, indices: Int32Array, out: Float32Array): from the host's copy, at once.
Napi::Value Gather(const Napi::CallbackInfo& info) {
  const auto entry = CodebookOf(info[0]);
  entry->host->Gather(ArrayData<int32_t>(info[1]), ArrayLength(info[1]), ArrayData<float>(info[2]));
  return info.Env().Undefined();
}

// codebookGatherPlaced(handle, { indices, n, rows, sync }): arrays or device buffers.
Napi::Value GatherPlaced(const Napi::CallbackInfo& info) {
  const auto entry = CodebookOf(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const bool sync = Flag(request, "sync");
  const Napi::Value rows = request.Get("rows");
  return DispatchJob(
      info.Env(), sync, {rows},
      [=, n = Integer(request, "n"), indices = InputArgument(request.Get("indices"), sync),
       out = OutputArgument(rows)](const CancelFlag&) {
        entry->placed->Gather(indices.operand(), n, out.operand());
      },
      *entry->place.queue);
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
  ExportGuarded<GatherPlaced>(env, exports, "codebookGatherPlaced");
  ExportGuarded<Reference>(env, exports, "codebookReference");
  ExportGuarded<FmaPeak>(env, exports, "fmaPeak");
  ExportGuarded<ReadSeconds>(env, exports, "readSeconds");
}

}  // namespace tokenflow

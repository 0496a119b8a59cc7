// Codebooks for JavaScript: handles, lookups and the quantisers on top of them.
//
// A handle is an External that owns a shared pointer; a job holds another, so a codebook that is disposed of
// or collected while a lookup runs lives until the lookup is done. Arguments arrive checked by lib/codebook.
#include "codebook/codebook.h"

#include <cstring>
#include <utility>

#include "addon/environment.h"
#include "codebook/half.h"
#include "codebook/multiscale.h"
#include "codebook/reference.h"
#include "cpu/fma_peak.h"
#include "runtime/parallel.h"

namespace tokenflow {

namespace {

template <class T>
using Shared = std::shared_ptr<const T>;

template <class T>
Napi::Value Wrap(Napi::Env env, Shared<T> object) {
  const auto handle = Napi::External<Shared<T>>::New(env, new Shared<T>(std::move(object)),
                                                     [](Napi::Env, Shared<T>* p) { delete p; });
  return handle;
}

template <class T>
Shared<T> Unwrap(const Napi::Value& value) {
  return *value.As<Napi::External<Shared<T>>>().Data();
}

Metric MetricOf(const Napi::Value& value) {
  const std::string name = value.As<Napi::String>();
  return name == "l2" ? Metric::kL2 : name == "cosine" ? Metric::kCosine : Metric::kInnerProduct;
}

// The elements of a typed array; null for undefined.
template <class T>
T* Data(const Napi::Value& value) {
  if (!value.IsTypedArray()) return nullptr;
  const auto array = value.As<Napi::TypedArray>();
  return reinterpret_cast<T*>(static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset());
}

size_t Length(const Napi::Value& value) {
  return value.IsTypedArray() ? value.As<Napi::TypedArray>().ElementLength() : 0;
}

template <class T>
std::vector<T> Copied(const Napi::Value& value) {
  const T* data = Data<T>(value);
  return std::vector<T>(data, data + Length(value));
}

// Runs `work` now on the compute thread (sync), or queues it and returns { promise, cancel }. `held` stays
// alive until then; `work` must not touch JavaScript.
Napi::Value Dispatch(const Napi::CallbackInfo& info, bool sync, std::vector<Napi::Value> held,
                     std::function<void(const CancelFlag&)> work) {
  const Napi::Env env = info.Env();
  if (sync) {
    const CancelFlag never{false};
    ComputeQueue::Cpu().Run([&] { work(never); });
    return env.Undefined();
  }
  auto job = std::make_unique<Job>(env);
  for (const Napi::Value& value : held) {
    if (value.IsObject()) job->held.push_back(Napi::Persistent(value.As<Napi::Object>()));
  }
  job->execute = std::move(work);
  job->resolve = [](Napi::Env e) { return e.Undefined(); };
  return Environment::Of(env)->Schedule(env, std::move(job));
}

// codebookCreate(parts: { vectors: Float32Array, dim, normalize }[], codes, metric, screen)
Napi::Value Create(const Napi::CallbackInfo& info) {
  const auto list = info[0].As<Napi::Array>();
  std::vector<CodebookPart> parts;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto part = list.Get(i).As<Napi::Object>();
    parts.push_back({Data<float>(part.Get("vectors")), part.Get("dim").As<Napi::Number>().Int32Value(),
                     part.Get("normalize").As<Napi::Boolean>().Value()});
  }
  const int64_t codes = info[1].As<Napi::Number>().Int64Value();
  const std::string screen = info[3].As<Napi::String>();
  const ScreenMode mode = screen == "off"      ? ScreenMode::kOff
                          : screen == "always" ? ScreenMode::kAlways
                                               : ScreenMode::kAuto;
  return Wrap<Codebook>(info.Env(), std::make_shared<const Codebook>(parts, codes, MetricOf(info[2]), mode));
}

// codebookInfo(handle) -> { nonFinite, bytes, screen, queries, screened, exactScores }
Napi::Value Info(const Napi::CallbackInfo& info) {
  const auto codebook = Unwrap<Codebook>(info[0]);
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
  info[0].As<Napi::External<Shared<Codebook>>>().Data()->reset();
  return info.Env().Undefined();
}

// Queries as float32, from a Float32Array or a Uint16Array of 16-bit floats.
std::vector<float> FloatsOf(const Napi::Value& value, const std::string& format) {
  if (format == "f32") return Copied<float>(value);
  const uint16_t* bits = Data<uint16_t>(value);
  std::vector<float> floats(Length(value));
  const auto convert = format == "f16" ? FloatOfHalf : FloatOfBFloat16;
  for (size_t i = 0; i < floats.size(); i++) floats[i] = convert(bits[i]);
  return floats;
}

// codebookNearest(handle, { queries, format, k, weights?, indices, distances?, partDistances?, codes?, errors?,
// counts?, sync })
Napi::Value Nearest(const Napi::CallbackInfo& info) {
  const auto codebook = Unwrap<Codebook>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value queries = request.Get("queries"), indices = request.Get("indices"),
                    distances = request.Get("distances"), parts = request.Get("partDistances"),
                    codes = request.Get("codes"), errors = request.Get("errors"),
                    counts = request.Get("counts");
  const std::string format = request.Get("format").As<Napi::String>();
  const bool sync = request.Get("sync").ToBoolean();
  const int k = request.Get("k").As<Napi::Number>().Int32Value();
  const int64_t n = Length(queries) / codebook->dim();
  const NearestOutput out{Data<int32_t>(indices), Data<float>(distances), Data<float>(parts),
                          Data<float>(codes), Data<float>(errors)};
  int32_t* const histogram = Data<int32_t>(counts);
  auto weights = Copied<float>(request.Get("weights"));
  const bool in_place = sync && format == "f32";
  auto copy = in_place ? std::vector<float>() : FloatsOf(queries, format);
  const float* given = Data<float>(queries);
  return Dispatch(info, sync, {indices, distances, parts, codes, errors, counts},
                  [=, copy = std::move(copy), weights = std::move(weights)](const CancelFlag& cancelled) {
                    const float* x = in_place ? given : copy.data();
                    codebook->Nearest(x, n, k, weights.empty() ? nullptr : weights.data(), out, cancelled);
                    if (histogram == nullptr || cancelled.load()) return;
                    for (int64_t i = 0; i < n; i++) {
                      if (out.indices[i * k] != kNoCode) histogram[out.indices[i * k]]++;
                    }
                  });
}

// codebookGather(handle, indices: Int32Array, out: Float32Array)
Napi::Value Gather(const Napi::CallbackInfo& info) {
  const auto codebook = Unwrap<Codebook>(info[0]);
  codebook->Gather(Data<int32_t>(info[1]), Length(info[1]), Data<float>(info[2]));
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
    parts.push_back({Data<float>(part.Get("vectors")), part.Get("dim").As<Napi::Number>().Int32Value(),
                     part.Get("normalize").As<Napi::Boolean>().Value(),
                     part.Get("weight").As<Napi::Number>().FloatValue()});
    dim += parts.back().dim;
  }
  const int64_t codes = info[1].As<Napi::Number>().Int64Value();
  const Metric metric = MetricOf(info[2]);
  const float* queries = Data<float>(info[3]);
  const int64_t n = Length(info[3]) / dim;
  const int k = info[4].As<Napi::Number>().Int32Value();
  int32_t* indices = Data<int32_t>(info[5]);
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

// multiScaleCreate(codebook, scales: Int32Array, weights?: Float32Array)
Napi::Value MultiScaleCreate(const Napi::CallbackInfo& info) {
  return Wrap<MultiScaleQuantizer>(
      info.Env(), std::make_shared<const MultiScaleQuantizer>(
                      Unwrap<Codebook>(info[0]), Copied<int32_t>(info[1]), Copied<float>(info[2])));
}

// multiScaleEncode(handle, { features, batch, indices, sum?, sync })
Napi::Value MultiScaleEncode(const Napi::CallbackInfo& info) {
  const auto quantizer = Unwrap<MultiScaleQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value features = request.Get("features"), indices = request.Get("indices"),
                    sum = request.Get("sum");
  const int64_t batch = request.Get("batch").As<Napi::Number>().Int64Value();
  int32_t* const found = Data<int32_t>(indices);
  float* const total = Data<float>(sum);
  return Dispatch(info, request.Get("sync").ToBoolean(), {indices, sum},
                  [=, copy = Copied<float>(features)](const CancelFlag& cancelled) {
                    quantizer->Encode(copy.data(), batch, found, total, cancelled);
                  });
}

// multiScaleDecode(handle, { indices, batch, scales, sum, sync })
Napi::Value MultiScaleDecode(const Napi::CallbackInfo& info) {
  const auto quantizer = Unwrap<MultiScaleQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), sum = request.Get("sum");
  const int64_t batch = request.Get("batch").As<Napi::Number>().Int64Value();
  const int scales = request.Get("scales").As<Napi::Number>().Int32Value();
  float* const total = Data<float>(sum);
  return Dispatch(info, request.Get("sync").ToBoolean(), {sum},
                  [=, copy = Copied<int32_t>(indices)](const CancelFlag& cancelled) {
                    quantizer->Decode(copy.data(), batch, scales, total, cancelled);
                  });
}

// areaDown(in, { batch, from, to, channels }) -> Float32Array: the pooling of the quantiser by itself, for
// tests.
Napi::Value AreaDownOf(const Napi::CallbackInfo& info) {
  const auto shape = info[1].As<Napi::Object>();
  const auto side = [&](const char* name) { return shape.Get(name).As<Napi::Number>().Int32Value(); };
  const int batch = side("batch"), from = side("from"), to = side("to"), channels = side("channels");
  auto out = Napi::Float32Array::New(info.Env(), size_t{1} * batch * to * to * channels);
  const float* in = Data<float>(info[0]);
  float* const pooled = out.Data();
  ComputeQueue::Cpu().Run([&] { AreaDown(in, batch, from, to, channels, pooled); });
  return out;
}

// fmaPeak(threads) -> floating-point operations per second
Napi::Value FmaPeak(const Napi::CallbackInfo& info) {
  const int threads = info[0].As<Napi::Number>().Int32Value();
  double peak = 0;
  ComputeQueue::Cpu().Run([&] { peak = MeasureFmaPeak(threads); });
  return Napi::Number::New(info.Env(), peak);
}

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void Export(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New(
                        env,
                        [](const Napi::CallbackInfo& info) {
                          return Guarded(info.Env(), [&] { return function(info); });
                        },
                        name));
}

}  // namespace

void InitCodebook(Napi::Env env, Napi::Object exports) {
  Export<Create>(env, exports, "codebookCreate");
  Export<Info>(env, exports, "codebookInfo");
  Export<Release>(env, exports, "codebookRelease");
  Export<Nearest>(env, exports, "codebookNearest");
  Export<Gather>(env, exports, "codebookGather");
  Export<Reference>(env, exports, "codebookReference");
  Export<MultiScaleCreate>(env, exports, "multiScaleCreate");
  Export<MultiScaleEncode>(env, exports, "multiScaleEncode");
  Export<MultiScaleDecode>(env, exports, "multiScaleDecode");
  Export<AreaDownOf>(env, exports, "areaDown");
  Export<FmaPeak>(env, exports, "fmaPeak");
}

}  // namespace tokenflow

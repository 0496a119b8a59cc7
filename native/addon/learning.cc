// The learning of codebooks, for JavaScript.
#include <algorithm>

#include "addon/handles.h"
#include "codebook/code_averages.h"
#include "codebook/code_sums.h"
#include "codebook/kmeans.h"

namespace tokenflow {

namespace {

// kMeansCreate(vectors, dim, metric)
Napi::Value KMeansCreate(const Napi::CallbackInfo& info) {
  const float* x = ArrayData<float>(info[0]);
  const int dim = info[1].As<Napi::Number>().Int32Value();
  const int64_t n = ArrayLength(info[0]) / dim;
  const Metric metric = MetricNamed(info[2]);
  return WrapShared(info.Env(), std::make_shared<KMeans>(x, n, dim, metric));
}

// kMeansPrepare(handle, { sync })
Napi::Value KMeansPrepare(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeans>(info[0]);
  return DispatchJob(info.Env(), Flag(info[1].As<Napi::Object>(), "sync"), {},
                     [=](const CancelFlag&) { state->Prepare(); });
}

// kMeansSetCodes(handle, { codes, count, sync })
Napi::Value KMeansSetCodes(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeans>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const int64_t count = Integer(request, "count");
  return DispatchJob(info.Env(), Flag(request, "sync"), {},
                     [=, codes = ArrayCopy<float>(request.Get("codes"))](const CancelFlag&) {
                       state->SetCodes(codes.data(), count);
                     });
}

// kMeansAddRows(handle, { rows: Float64Array, sync })
Napi::Value KMeansAddRows(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeans>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  return DispatchJob(info.Env(), Flag(request, "sync"), {},
                     [=, rows = ArrayCopy<double>(request.Get("rows"))](const CancelFlag&) {
                       for (const double row : rows) state->AddRow(static_cast<int64_t>(row));
                     });
}

// kMeansAddFar(handle, { uniforms: Float64Array, sync })
Napi::Value KMeansAddFar(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeans>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  return DispatchJob(info.Env(), Flag(request, "sync"), {},
                     [=, uniforms = ArrayCopy<double>(request.Get("uniforms"))](const CancelFlag& cancelled) {
                       for (const double uniform : uniforms) {
                         if (cancelled.load(std::memory_order_relaxed)) return;
                         state->AddFar(uniform);
                       }
                     });
}

// kMeansIterate(handle, { report: Float64Array [objective, moved, empty, split], sync })
Napi::Value KMeansIterate(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeans>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value report = request.Get("report");
  double* const filled = ArrayData<double>(report);
  return DispatchJob(info.Env(), Flag(request, "sync"), {report}, [=](const CancelFlag& cancelled) {
    const KMeans::Step step = state->Iterate(cancelled);
    filled[0] = step.objective;
    filled[1] = static_cast<double>(step.moved);
    filled[2] = static_cast<double>(step.empty);
    filled[3] = static_cast<double>(step.split);
  });
}

// kMeansRead(handle, codes): copies the codes out; no job may be under way.
Napi::Value KMeansRead(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeans>(info[0]);
  std::copy(state->codes().begin(), state->codes().end(), ArrayData<float>(info[1]));
  return info.Env().Undefined();
}

// kMeansRelease(handle): gives up the rows now rather than when collected.
Napi::Value KMeansRelease(const Napi::CallbackInfo& info) {
  info[0].As<Napi::External<std::shared_ptr<KMeans>>>().Data()->reset();
  return info.Env().Undefined();
}

// sumByCode({ vectors, indices, dim, normalize, counts, sums, sync })
Napi::Value SumByCodeOf(const Napi::CallbackInfo& info) {
  const auto request = info[0].As<Napi::Object>();
  const Napi::Value counts = request.Get("counts"), sums = request.Get("sums");
  const int dim = static_cast<int>(Integer(request, "dim"));
  const bool normalize = Flag(request, "normalize");
  double* const counted = ArrayData<double>(counts);
  double* const summed = ArrayData<double>(sums);
  const int64_t codes = ArrayLength(counts);
  return DispatchJob(info.Env(), Flag(request, "sync"), {counts, sums},
                     [=, x = ArrayCopy<float>(request.Get("vectors")),
                      indices = ArrayCopy<int32_t>(request.Get("indices"))](const CancelFlag& cancelled) {
                       SumByCode(x.data(), indices.data(), static_cast<int64_t>(indices.size()), dim, codes,
                                 normalize, counted, summed, cancelled);
                     });
}

// codesApply({ rule: 'moving average' | 'running mean', decay?, epsilon?, dim, normalize, batchCounts, batchSums, codes,
// counts, sums, sync }): changes codes, counts and sums in place.
Napi::Value CodesApply(const Napi::CallbackInfo& info) {
  const auto request = info[0].As<Napi::Object>();
  const Napi::Value codes = request.Get("codes"), counts = request.Get("counts"), sums = request.Get("sums");
  const CodeState state{ArrayData<float>(codes),
                        ArrayData<double>(counts),
                        ArrayData<double>(sums),
                        ArrayLength(counts),
                        static_cast<int>(Integer(request, "dim")),
                        Flag(request, "normalize")};
  const bool moving = request.Get("rule").As<Napi::String>().Utf8Value() == "moving average";
  const auto number = [&](const char* name) {
    return moving ? request.Get(name).As<Napi::Number>().DoubleValue() : 0.0;
  };
  return DispatchJob(info.Env(), Flag(request, "sync"), {codes, counts, sums},
                     [=, decay = number("decay"), epsilon = number("epsilon"),
                      batch_counts = ArrayCopy<double>(request.Get("batchCounts")),
                      batch_sums = ArrayCopy<double>(request.Get("batchSums"))](const CancelFlag&) {
                       const CodeBatch batch{batch_counts.data(), batch_sums.data()};
                       CheckBatch(batch, state.size, state.dim);
                       if (moving) {
                         ApplyMovingAverage(state, batch, decay, epsilon);
                       } else {
                         ApplyRunningMean(state, batch);
                       }
                     });
}

// takeRows({ vectors, rows: Float64Array, dim, normalize, codes, sync })
Napi::Value TakeRowsOf(const Napi::CallbackInfo& info) {
  const auto request = info[0].As<Napi::Object>();
  const Napi::Value codes = request.Get("codes");
  const int dim = static_cast<int>(Integer(request, "dim"));
  const bool normalize = Flag(request, "normalize");
  float* const taken = ArrayData<float>(codes);
  return DispatchJob(info.Env(), Flag(request, "sync"), {codes},
                     [=, x = ArrayCopy<float>(request.Get("vectors")),
                      rows = ArrayCopy<double>(request.Get("rows"))](const CancelFlag&) {
                       TakeRows(x.data(), static_cast<int64_t>(x.size()) / dim, dim, rows.data(),
                                static_cast<int64_t>(rows.size()), normalize, taken);
                     });
}

}  // namespace

void InitLearning(Napi::Env env, Napi::Object exports) {
  ExportGuarded<KMeansCreate>(env, exports, "kMeansCreate");
  ExportGuarded<KMeansPrepare>(env, exports, "kMeansPrepare");
  ExportGuarded<KMeansSetCodes>(env, exports, "kMeansSetCodes");
  ExportGuarded<KMeansAddRows>(env, exports, "kMeansAddRows");
  ExportGuarded<KMeansAddFar>(env, exports, "kMeansAddFar");
  ExportGuarded<KMeansIterate>(env, exports, "kMeansIterate");
  ExportGuarded<KMeansRead>(env, exports, "kMeansRead");
  ExportGuarded<KMeansRelease>(env, exports, "kMeansRelease");
  ExportGuarded<SumByCodeOf>(env, exports, "sumByCode");
  ExportGuarded<CodesApply>(env, exports, "codesApply");
  ExportGuarded<TakeRowsOf>(env, exports, "takeRows");
}

}  // namespace tokenflow

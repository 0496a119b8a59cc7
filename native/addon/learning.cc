// The learning of codebooks, for JavaScript.
#include <algorithm>

#include "addon/placed.h"
#include "codebook/code_averages.h"
#include "codebook/code_sums.h"
#include "codebook/kmeans.h"

namespace tokenflow {

namespace {

// A run of k-means and where its passes run.
struct KMeansEntry : KMeans {
  KMeansEntry(const DevicePlace& place, std::shared_ptr<PlacedRows> rows, Metric metric)
      : KMeans(std::move(rows), metric), queue(*place.queue) {}
  ComputeQueue& queue;
};

// kMeansCreate(vectors, dim, metric, device)
Napi::Value KMeansCreate(const Napi::CallbackInfo& info) {
  const float* x = ArrayData<float>(info[0]);
  const int dim = info[1].As<Napi::Number>().Int32Value();
  const int64_t n = ArrayLength(info[0]) / dim;
  const Metric metric = MetricNamed(info[2]);
  const DevicePlace place = DevicePlace::Named(info[3].As<Napi::String>());
  return WrapShared(info.Env(), std::make_shared<KMeansEntry>(
                                    place, place.Keep(place.codebooks->PlaceRows(x, n, dim)), metric));
}

// kMeansPrepare(handle, { sync })
Napi::Value KMeansPrepare(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeansEntry>(info[0]);
  return DispatchJob(
      info.Env(), Flag(info[1].As<Napi::Object>(), "sync"), {}, [=](const CancelFlag&) { state->Prepare(); },
      state->queue);
}

// kMeansSetCodes(handle, { codes, count, sync })
Napi::Value KMeansSetCodes(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeansEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const int64_t count = Integer(request, "count");
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {},
      [=, codes = ArrayCopy<float>(request.Get("codes"))](const CancelFlag&) {
        state->SetCodes(codes.data(), count);
      },
      state->queue);
}

// kMeansAddRows(handle, { rows: Float64Array, sync })
Napi::Value KMeansAddRows(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeansEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {},
      [=, rows = ArrayCopy<double>(request.Get("rows"))](const CancelFlag&) {
        for (const double row : rows) state->AddRow(static_cast<int64_t>(row));
      },
      state->queue);
}

// kMeansAddFar(handle, { uniforms: Float64Array, sync })
Napi::Value KMeansAddFar(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeansEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {},
      [=, uniforms = ArrayCopy<double>(request.Get("uniforms"))](const CancelFlag& cancelled) {
        for (const double uniform : uniforms) {
          if (cancelled.load(std::memory_order_relaxed)) return;
          state->AddFar(uniform);
        }
      },
      state->queue);
}

// kMeansIterate(handle, { report: Float64Array [objective, moved, empty, split], sync })
Napi::Value KMeansIterate(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeansEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value report = request.Get("report");
  double* const filled = ArrayData<double>(report);
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {report},
      [=](const CancelFlag& cancelled) {
        const KMeans::Step step = state->Iterate(cancelled);
        filled[0] = step.objective;
        filled[1] = static_cast<double>(step.moved);
        filled[2] = static_cast<double>(step.empty);
        filled[3] = static_cast<double>(step.split);
      },
      state->queue);
}

// kMeansRead(handle, codes): copies the codes out; no job may be under way.
Napi::Value KMeansRead(const Napi::CallbackInfo& info) {
  const auto state = UnwrapShared<KMeansEntry>(info[0]);
  std::copy(state->codes().begin(), state->codes().end(), ArrayData<float>(info[1]));
  return info.Env().Undefined();
}

// kMeansRelease(handle): gives up the rows now rather than when collected.
Napi::Value KMeansRelease(const Napi::CallbackInfo& info) {
  info[0].As<Napi::External<std::shared_ptr<KMeansEntry>>>().Data()->reset();
  return info.Env().Undefined();
}

// sumByCode({ device, vectors, indices, n, dim, normalize, counts, sums, sync }): vectors and indices are arrays or buffers.
Napi::Value SumByCodeOf(const Napi::CallbackInfo& info) {
  const auto request = info[0].As<Napi::Object>();
  const Napi::Value counts = request.Get("counts"), sums = request.Get("sums");
  const int dim = static_cast<int>(Integer(request, "dim"));
  const bool normalize = Flag(request, "normalize");
  double* const counted = ArrayData<double>(counts);
  double* const summed = ArrayData<double>(sums);
  const int64_t codes = ArrayLength(counts), n = Integer(request, "n");
  const DevicePlace place = DevicePlace::Named(request.Get("device").As<Napi::String>());
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {counts, sums},
      [=, x = InputArgument(request.Get("vectors"), false),
       indices = InputArgument(request.Get("indices"), false)](const CancelFlag& cancelled) {
        place.codebooks->SumByCode(x.operand(), indices.operand(), n, dim, codes, normalize, counted, summed,
                                   cancelled);
      },
      *place.queue);
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

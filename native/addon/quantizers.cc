// The quantisers on top of codebooks, and the learning of codebooks, for JavaScript.
#include <algorithm>

#include "addon/handles.h"
#include "codebook/code_sums.h"
#include "codebook/kmeans.h"
#include "codebook/product.h"
#include "codebook/residual.h"
#include "codebook/scalar_quantizer.h"

namespace tokenflow {

namespace {

Metric MetricNamed(const Napi::Value& value) {
  const std::string name = value.As<Napi::String>();
  return name == "l2" ? Metric::kL2 : name == "cosine" ? Metric::kCosine : Metric::kInnerProduct;
}

int64_t Integer(const Napi::Object& request, const char* name) {
  return request.Get(name).As<Napi::Number>().Int64Value();
}

bool Flag(const Napi::Object& request, const char* name) {
  return request.Get(name).ToBoolean();
}

std::vector<std::shared_ptr<const Codebook>> CodebooksOf(const Napi::Value& value) {
  const auto list = value.As<Napi::Array>();
  std::vector<std::shared_ptr<const Codebook>> codebooks;
  for (uint32_t i = 0; i < list.Length(); i++) codebooks.push_back(UnwrapShared<const Codebook>(list.Get(i)));
  return codebooks;
}

// codebookNormalizes(codebook) -> boolean[]: per part
Napi::Value CodebookNormalizes(const Napi::CallbackInfo& info) {
  const auto codebook = UnwrapShared<const Codebook>(info[0]);
  auto flags = Napi::Array::New(info.Env());
  for (const PartSpan& part : codebook->parts()) {
    flags.Set(flags.Length(), Napi::Boolean::New(info.Env(), part.normalize));
  }
  return flags;
}

// residualCreate(codebooks)
Napi::Value ResidualCreate(const Napi::CallbackInfo& info) {
  return WrapShared(info.Env(), std::make_shared<const ResidualQuantizer>(CodebooksOf(info[0])));
}

// residualEncode(handle, { vectors, beam, indices, quantized, errors, sync })
Napi::Value ResidualEncode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ResidualQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), quantized = request.Get("quantized"),
                    errors = request.Get("errors");
  const int beam = static_cast<int>(Integer(request, "beam"));
  int32_t* const found = ArrayData<int32_t>(indices);
  float* const sum = ArrayData<float>(quantized);
  float* const squares = ArrayData<float>(errors);
  const int64_t n = ArrayLength(errors);
  return DispatchJob(info.Env(), Flag(request, "sync"), {indices, quantized, errors},
                     [=, x = ArrayCopy<float>(request.Get("vectors"))](const CancelFlag& cancelled) {
                       quantizer->Encode(x.data(), n, beam, found, sum, squares, cancelled);
                     });
}

// residualDecode(handle, { indices, stages, quantized, sync })
Napi::Value ResidualDecode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ResidualQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value quantized = request.Get("quantized");
  const int stages = static_cast<int>(Integer(request, "stages"));
  float* const sum = ArrayData<float>(quantized);
  return DispatchJob(info.Env(), Flag(request, "sync"), {quantized},
                     [=, indices = ArrayCopy<int32_t>(request.Get("indices"))](const CancelFlag& cancelled) {
                       quantizer->Decode(indices.data(), static_cast<int64_t>(indices.size()) / stages,
                                         stages, sum, cancelled);
                     });
}

// productCreate(codebooks)
Napi::Value ProductCreate(const Napi::CallbackInfo& info) {
  return WrapShared(info.Env(), std::make_shared<const ProductQuantizer>(CodebooksOf(info[0])));
}

// productEncode(handle, { vectors, indices, quantized, sync })
Napi::Value ProductEncode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ProductQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), quantized = request.Get("quantized");
  int32_t* const found = ArrayData<int32_t>(indices);
  float* const rows = ArrayData<float>(quantized);
  return DispatchJob(info.Env(), Flag(request, "sync"), {indices, quantized},
                     [=, x = ArrayCopy<float>(request.Get("vectors"))](const CancelFlag& cancelled) {
                       const int64_t n = static_cast<int64_t>(x.size()) / quantizer->dim();
                       quantizer->Encode(x.data(), n, found, rows, cancelled);
                     });
}

// productDecode(handle, { indices, quantized, sync })
Napi::Value ProductDecode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ProductQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value quantized = request.Get("quantized");
  float* const rows = ArrayData<float>(quantized);
  return DispatchJob(info.Env(), Flag(request, "sync"), {quantized},
                     [=, indices = ArrayCopy<int32_t>(request.Get("indices"))](const CancelFlag&) {
                       const int64_t n = static_cast<int64_t>(indices.size()) / quantizer->groups();
                       quantizer->Decode(indices.data(), n, rows);
                     });
}

// productTables(handle, { queries, tables, sync })
Napi::Value ProductTables(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ProductQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value tables = request.Get("tables");
  float* const filled = ArrayData<float>(tables);
  return DispatchJob(info.Env(), Flag(request, "sync"), {tables},
                     [=, queries = ArrayCopy<float>(request.Get("queries"))](const CancelFlag& cancelled) {
                       const int64_t n = static_cast<int64_t>(queries.size()) / quantizer->dim();
                       quantizer->Tables(queries.data(), n, filled, cancelled);
                     });
}

// productSearch(handle, { queries, rows, k, indices, distances, sync })
Napi::Value ProductSearch(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ProductQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), distances = request.Get("distances");
  const int k = static_cast<int>(Integer(request, "k"));
  int32_t* const found = ArrayData<int32_t>(indices);
  float* const sums = ArrayData<float>(distances);
  return DispatchJob(info.Env(), Flag(request, "sync"), {indices, distances},
                     [=, queries = ArrayCopy<float>(request.Get("queries")),
                      rows = ArrayCopy<int32_t>(request.Get("rows"))](const CancelFlag& cancelled) {
                       const int64_t n = static_cast<int64_t>(queries.size()) / quantizer->dim();
                       const int64_t count = static_cast<int64_t>(rows.size()) / quantizer->groups();
                       quantizer->Search(queries.data(), n, rows.data(), count, k, found, sums, cancelled);
                     });
}

// scalarCreate(rule, levels: Int32Array, scale)
Napi::Value ScalarCreate(const Napi::CallbackInfo& info) {
  using Rule = ScalarQuantizer::Rule;
  const std::string name = info[0].As<Napi::String>();
  const Rule rule = name == "tanh"        ? Rule::kTanh
                    : name == "clamp"     ? Rule::kClamp
                    : name == "symmetric" ? Rule::kSymmetric
                                          : Rule::kSign;
  return WrapShared(info.Env(),
                    std::make_shared<const ScalarQuantizer>(rule, ArrayCopy<int32_t>(info[1]),
                                                            info[2].As<Napi::Number>().FloatValue()));
}

bool IsDouble(const Napi::Value& array) {
  return array.As<Napi::TypedArray>().TypedArrayType() == napi_float64_array;
}

// scalarEncode(handle, { vectors, indices: Int32Array or Float64Array, quantized, sync })
Napi::Value ScalarEncode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ScalarQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), quantized = request.Get("quantized");
  const bool wide = IsDouble(indices);
  void* const found = ArrayData<uint8_t>(indices);
  const int64_t n = ArrayLength(indices);
  float* const rows = ArrayData<float>(quantized);
  return DispatchJob(info.Env(), Flag(request, "sync"), {indices, quantized},
                     [=, x = ArrayCopy<float>(request.Get("vectors"))](const CancelFlag& cancelled) {
                       if (wide) {
                         quantizer->Encode(x.data(), n, static_cast<double*>(found), rows, cancelled);
                       } else {
                         quantizer->Encode(x.data(), n, static_cast<int32_t*>(found), rows, cancelled);
                       }
                     });
}

// scalarDecode(handle, { indices: Int32Array or Float64Array, quantized, sync })
Napi::Value ScalarDecode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ScalarQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), quantized = request.Get("quantized");
  float* const rows = ArrayData<float>(quantized);
  const auto decode = [&](auto copy) {
    return DispatchJob(info.Env(), Flag(request, "sync"), {quantized},
                       [=, copy = std::move(copy)](const CancelFlag& cancelled) {
                         quantizer->Decode(copy.data(), static_cast<int64_t>(copy.size()), rows, cancelled);
                       });
  };
  return IsDouble(indices) ? decode(ArrayCopy<double>(indices)) : decode(ArrayCopy<int32_t>(indices));
}

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

}  // namespace

void InitQuantizers(Napi::Env env, Napi::Object exports) {
  ExportGuarded<CodebookNormalizes>(env, exports, "codebookNormalizes");
  ExportGuarded<ResidualCreate>(env, exports, "residualCreate");
  ExportGuarded<ResidualEncode>(env, exports, "residualEncode");
  ExportGuarded<ResidualDecode>(env, exports, "residualDecode");
  ExportGuarded<ProductCreate>(env, exports, "productCreate");
  ExportGuarded<ProductEncode>(env, exports, "productEncode");
  ExportGuarded<ProductDecode>(env, exports, "productDecode");
  ExportGuarded<ProductTables>(env, exports, "productTables");
  ExportGuarded<ProductSearch>(env, exports, "productSearch");
  ExportGuarded<ScalarCreate>(env, exports, "scalarCreate");
  ExportGuarded<ScalarEncode>(env, exports, "scalarEncode");
  ExportGuarded<ScalarDecode>(env, exports, "scalarDecode");
  ExportGuarded<KMeansCreate>(env, exports, "kMeansCreate");
  ExportGuarded<KMeansPrepare>(env, exports, "kMeansPrepare");
  ExportGuarded<KMeansSetCodes>(env, exports, "kMeansSetCodes");
  ExportGuarded<KMeansAddRows>(env, exports, "kMeansAddRows");
  ExportGuarded<KMeansAddFar>(env, exports, "kMeansAddFar");
  ExportGuarded<KMeansIterate>(env, exports, "kMeansIterate");
  ExportGuarded<KMeansRead>(env, exports, "kMeansRead");
  ExportGuarded<KMeansRelease>(env, exports, "kMeansRelease");
  ExportGuarded<SumByCodeOf>(env, exports, "sumByCode");
}

}  // namespace tokenflow

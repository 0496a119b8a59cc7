// The quantisers on top of codebooks, for JavaScript.
#include "addon/placed.h"
#include "codebook/multiscale.h"
#include "codebook/product.h"
#include "codebook/residual.h"
#include "codebook/scalar_quantizer.h"

namespace tokenflow {

namespace {

std::vector<std::shared_ptr<const Codebook>> CodebooksOf(const Napi::Value& value) {
  const auto list = value.As<Napi::Array>();
  std::vector<std::shared_ptr<const Codebook>> codebooks;
  for (uint32_t i = 0; i < list.Length(); i++) codebooks.push_back(CodebookOf(list.Get(i))->host);
  return codebooks;
}

// multiScaleCreate(codebook, scales: Int32Array, weights?: Float32Array, phi?: { kernels: { weight: Float32Array,
// bias?: Float32Array }[], ratio })
Napi::Value MultiScaleCreate(const Napi::CallbackInfo& info) {
  const auto codebook = CodebookOf(info[0])->host;
  std::vector<Phi> phis;
  if (info[3].IsObject()) {
    const auto phi = info[3].As<Napi::Object>();
    const auto kernels = phi.Get("kernels").As<Napi::Array>();
    const double ratio = phi.Get("ratio").As<Napi::Number>().DoubleValue();
    for (uint32_t i = 0; i < kernels.Length(); i++) {
      const auto kernel = kernels.Get(i).As<Napi::Object>();
      phis.emplace_back(ArrayData<float>(kernel.Get("weight")), ArrayData<float>(kernel.Get("bias")),
                        codebook->dim(), ratio);
    }
  }
  return WrapShared(info.Env(),
                    std::make_shared<const MultiScaleQuantizer>(codebook, ArrayCopy<int32_t>(info[1]),
                                                                ArrayCopy<float>(info[2]), std::move(phis)));
}

// multiScaleEncode(handle, { features, batch, indices, sum?, sync })
Napi::Value MultiScaleEncode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const MultiScaleQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value features = request.Get("features"), indices = request.Get("indices"),
                    sum = request.Get("sum");
  const int64_t batch = request.Get("batch").As<Napi::Number>().Int64Value();
  int32_t* const found = ArrayData<int32_t>(indices);
  float* const total = ArrayData<float>(sum);
  return DispatchJob(info.Env(), request.Get("sync").ToBoolean(), {indices, sum},
                     [=, copy = ArrayCopy<float>(features)](const CancelFlag& cancelled) {
                       quantizer->Encode(copy.data(), batch, found, total, cancelled);
                     });
}

// multiScaleDecode(handle, { indices, batch, scales, sum, sync })
Napi::Value MultiScaleDecode(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const MultiScaleQuantizer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), sum = request.Get("sum");
  const int64_t batch = request.Get("batch").As<Napi::Number>().Int64Value();
  const int scales = request.Get("scales").As<Napi::Number>().Int32Value();
  float* const total = ArrayData<float>(sum);
  return DispatchJob(info.Env(), request.Get("sync").ToBoolean(), {sum},
                     [=, copy = ArrayCopy<int32_t>(indices)](const CancelFlag& cancelled) {
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
  const float* in = ArrayData<float>(info[0]);
  float* const pooled = out.Data();
  ComputeQueue::Cpu().Run([&] { AreaDown(in, batch, from, to, channels, pooled); });
  return out;
}

PlacedCodebooks PlacedOf(const Napi::Value& value) {
  const auto list = value.As<Napi::Array>();
  PlacedCodebooks placed;
  for (uint32_t i = 0; i < list.Length(); i++) placed.push_back(CodebookOf(list.Get(i))->placed);
  return placed;
}

// A quantiser of codebooks on one device, and where it runs.
template <class Host, class Placed>
struct QuantizerEntry {
  DevicePlace place;
  std::shared_ptr<const Host> host;
  std::shared_ptr<const Placed> placed;
};
using ResidualEntry = QuantizerEntry<ResidualQuantizer, PlacedResidual>;
using ProductEntry = QuantizerEntry<ProductQuantizer, PlacedProduct>;

// residualCreate(codebooks)
Napi::Value ResidualCreate(const Napi::CallbackInfo& info) {
  const auto host = std::make_shared<const ResidualQuantizer>(CodebooksOf(info[0]));  // which checks them
  const DevicePlace place = CodebookOf(info[0].As<Napi::Array>().Get(0u))->place;
  return WrapShared(info.Env(),
                    std::make_shared<const ResidualEntry>(ResidualEntry{
                        place, host, place.Keep(place.codebooks->PlaceResidual(PlacedOf(info[0])))}));
}

// residualEncode(handle, { vectors, n, beam, indices, quantized, errors, sync }): arrays or buffers.
Napi::Value ResidualEncode(const Napi::CallbackInfo& info) {
  const auto entry = UnwrapShared<const ResidualEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), quantized = request.Get("quantized"),
                    errors = request.Get("errors");
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {indices, quantized, errors},
      [entry, n = Integer(request, "n"), beam = static_cast<int>(Integer(request, "beam")),
       x = InputArgument(request.Get("vectors"), false), found = OutputArgument(indices),
       sum = OutputArgument(quantized), squares = OutputArgument(errors)](const CancelFlag& cancelled) {
        entry->placed->Encode(x.operand(), n, beam, found.operand(), sum.operand(), squares.operand(),
                              cancelled);
      },
      *entry->place.queue);
}

// residualDecode(handle, { indices, n, stages, quantized, sync }): arrays or buffers.
Napi::Value ResidualDecode(const Napi::CallbackInfo& info) {
  const auto entry = UnwrapShared<const ResidualEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value quantized = request.Get("quantized");
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {quantized},
      [entry, n = Integer(request, "n"), stages = static_cast<int>(Integer(request, "stages")),
       indices = InputArgument(request.Get("indices"), false),
       sum = OutputArgument(quantized)](const CancelFlag& cancelled) {
        entry->placed->Decode(indices.operand(), n, stages, sum.operand(), cancelled);
      },
      *entry->place.queue);
}

// productCreate(codebooks)
Napi::Value ProductCreate(const Napi::CallbackInfo& info) {
  const auto host = std::make_shared<const ProductQuantizer>(CodebooksOf(info[0]));  // which checks them
  const DevicePlace place = CodebookOf(info[0].As<Napi::Array>().Get(0u))->place;
  return WrapShared(info.Env(),
                    std::make_shared<const ProductEntry>(ProductEntry{
                        place, host, place.Keep(place.codebooks->PlaceProduct(PlacedOf(info[0])))}));
}

// productEncode(handle, { vectors, n, indices, quantized, sync }): arrays or buffers.
Napi::Value ProductEncode(const Napi::CallbackInfo& info) {
  const auto entry = UnwrapShared<const ProductEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value indices = request.Get("indices"), quantized = request.Get("quantized");
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {indices, quantized},
      [entry, n = Integer(request, "n"), x = InputArgument(request.Get("vectors"), false),
       found = OutputArgument(indices), rows = OutputArgument(quantized)](const CancelFlag& cancelled) {
        entry->placed->Encode(x.operand(), n, found.operand(), rows.operand(), cancelled);
      },
      *entry->place.queue);
}

// productDecode(handle, { indices, n, quantized, sync }): arrays or buffers.
Napi::Value ProductDecode(const Napi::CallbackInfo& info) {
  const auto entry = UnwrapShared<const ProductEntry>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value quantized = request.Get("quantized");
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {quantized},
      [entry, n = Integer(request, "n"), indices = InputArgument(request.Get("indices"), false),
       rows = OutputArgument(quantized)](const CancelFlag&) {
        entry->placed->Decode(indices.operand(), n, rows.operand());
      },
      *entry->place.queue);
}

// productTables(handle, { queries, tables, sync })
Napi::Value ProductTables(const Napi::CallbackInfo& info) {
  const auto quantizer = UnwrapShared<const ProductEntry>(info[0])->host;
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
  const auto quantizer = UnwrapShared<const ProductEntry>(info[0])->host;
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

}  // namespace

void InitQuantizers(Napi::Env env, Napi::Object exports) {
  ExportGuarded<MultiScaleCreate>(env, exports, "multiScaleCreate");
  ExportGuarded<MultiScaleEncode>(env, exports, "multiScaleEncode");
  ExportGuarded<MultiScaleDecode>(env, exports, "multiScaleDecode");
  ExportGuarded<AreaDownOf>(env, exports, "areaDown");
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
}

}  // namespace tokenflow

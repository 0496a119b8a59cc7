// Graphs and programs for JavaScript: reads the plain objects of lib/graph/ops.ts, schedules runs.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "addon/environment.h"
#include "runtime/backend.h"
#include "runtime/buffer.h"

namespace tokenflow {

namespace {

// ---- reading a graph

// A JavaScript object with the place it has in the graph, for messages.
class Field {
 public:
  Field(Napi::Value value, std::string where) : value_(value), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  bool absent() const { return value_.IsUndefined() || value_.IsNull(); }

  Field operator[](const char* name) const {
    if (!value_.IsObject()) Fail("an object");
    return Field(value_.As<Napi::Object>().Get(name), where_ + "." + name);
  }
  std::vector<Field> Items() const {
    if (!value_.IsArray()) Fail("an array");
    const Napi::Array array = value_.As<Napi::Array>();
    std::vector<Field> items;
    for (uint32_t i = 0; i < array.Length(); i++) {
      items.emplace_back(array.Get(i), where_ + "[" + std::to_string(i) + "]");
    }
    return items;
  }
  std::vector<std::pair<std::string, Field>> Entries() const {
    if (!value_.IsObject()) Fail("an object");
    const Napi::Object object = value_.As<Napi::Object>();
    const Napi::Array names = object.GetPropertyNames();
    std::vector<std::pair<std::string, Field>> entries;
    for (uint32_t i = 0; i < names.Length(); i++) {
      const std::string name = names.Get(i).ToString();
      entries.emplace_back(name, Field(object.Get(name), where_ + "." + name));
    }
    return entries;
  }
  std::string Text() const {
    if (!value_.IsString()) Fail("a string");
    return value_.As<Napi::String>();
  }
  double Number() const {
    if (!value_.IsNumber()) Fail("a number");
    return value_.As<Napi::Number>().DoubleValue();
  }
  int64_t Integer() const {
    const double number = Number();
    if (number != std::floor(number) || std::abs(number) > 9007199254740991.0) Fail("a whole number");
    return static_cast<int64_t>(number);
  }
  int64_t Integer(int64_t absent_value) const { return absent() ? absent_value : Integer(); }
  ValueId Id() const {
    const int64_t id = Integer();
    if (id < 0 || id > 0x7fffffff) Fail("the number of a value");
    return static_cast<ValueId>(id);
  }
  bool Flag() const {
    if (!value_.IsBoolean()) Fail("true or false");
    return value_.As<Napi::Boolean>();
  }
  std::vector<int64_t> Integers() const {
    std::vector<int64_t> numbers;
    for (const Field& item : Items()) numbers.push_back(item.Integer());
    return numbers;
  }
  std::vector<std::string> Texts() const {
    std::vector<std::string> texts;
    for (const Field& item : Items()) texts.push_back(item.Text());
    return texts;
  }
  WeightParts Parts() const {
    if (absent()) return {};
    if (value_.IsString()) return {Text()};
    WeightParts parts;
    for (const Field& item : Items()) parts.push_back(item.absent() ? "" : item.Text());
    return parts;
  }
  // The position of the text among `names`.
  int Choice(std::initializer_list<const char*> names) const {
    const std::string text = Text();
    int index = 0;
    std::string all;
    for (const char* name : names) {
      if (text == name) return index;
      all += (index++ > 0 ? ", " : "") + std::string(name);
    }
    throw InvalidArgument("Expected one of " + all + " for " + where_ + " but received '" + text + "'");
  }

  [[noreturn]] void Fail(const char* expected) const {
    std::string received = "nothing";
    if (!absent()) {
      received = value_.ToString().Utf8Value().substr(0, 60);
      received = "'" + received + "'";
    }
    throw InvalidArgument(std::string("Expected ") + expected + " for " + where_ + " but received " +
                          received);
  }

 private:
  Napi::Value value_;
  std::string where_;
};

Activation ReadActivation(const Field& field) {
  if (field.absent()) return Activation::kNone;
  return static_cast<Activation>(field.Choice({"none", "tanh", "gelu", "gelu_tanh", "quick_gelu", "swish"}));
}

ValueId ReadOptionalId(const Field& field) {
  return field.absent() ? kNoValue : field.Id();
}

Conv2d ReadConv2d(const Field& op) {
  const std::vector<int64_t> padding = op["padding"].Integers();
  if (padding.size() != 4) op["padding"].Fail("four numbers: top, left, bottom, right");
  return {op["x"].Id(),
          op["y"].Id(),
          op["weight"].Text(),
          op["bias"].absent() ? "" : op["bias"].Text(),
          op["kernel"].Integer(),
          op["stride"].Integer(),
          {padding[0], padding[1], padding[2], padding[3]},
          op["upsample"].Integer(1),
          ReadActivation(op["activation"]),
          ReadOptionalId(op["residual"])};
}

Op ReadOp(const Field& op) {
  switch (op["op"].Choice({"pixels_to_float", "float_to_pixels", "scale_input", "conv2d", "linear",
                           "group_norm", "layer_norm", "attention", "prepend_token", "add_table",
                           "slice_tokens", "slice_channels", "concat_channels", "reshape", "resize_bicubic",
                           "multiscale_encode", "multiscale_decode"})) {
    case 0:
      return PixelsToFloat{op["x"].Id(), op["y"].Id()};
    case 1:
      return FloatToPixels{op["x"].Id(), op["y"].Id()};
    case 2:
      return ScaleInput{op["x"].Id(), op["y"].Id(), op["shift"].Text(), op["scale"].Text()};
    case 3:
      return ReadConv2d(op);
    case 4:
      return Linear{op["x"].Id(),
                    op["y"].Id(),
                    op["weight"].Parts(),
                    op["bias"].Parts(),
                    ReadActivation(op["activation"]),
                    ReadOptionalId(op["residual"])};
    case 5:
      return GroupNorm{op["x"].Id(),      op["y"].Id(),           op["weight"].Text(),
                       op["bias"].Text(), op["groups"].Integer(), static_cast<float>(op["epsilon"].Number()),
                       op["swish"].Flag()};
    case 6:
      return LayerNorm{op["x"].Id(), op["y"].Id(), op["weight"].Text(), op["bias"].Text(),
                       static_cast<float>(op["epsilon"].Number())};
    case 7:
      return Attention{op["x"].Id(), op["y"].Id(), op["heads"].Integer(),
                       static_cast<float>(op["scale"].Number())};
    case 8:
      return PrependToken{op["x"].Id(), op["y"].Id(), op["token"].Text()};
    case 9:
      return AddTable{op["x"].Id(), op["y"].Id(), op["table"].Text()};
    case 10:
      return SliceTokens{op["x"].Id(), op["y"].Id(), op["start"].Integer(), op["count"].Integer()};
    case 11:
      return SliceChannels{op["x"].Id(), op["y"].Id(), op["start"].Integer(), op["count"].Integer()};
    case 12: {
      ConcatChannels concat{{}, op["y"].Id()};
      for (const Field& x : op["xs"].Items()) concat.xs.push_back(x.Id());
      return concat;
    }
    case 13:
      return Reshape{op["x"].Id(), op["y"].Id()};
    case 14:
      return ResizeBicubic{op["x"].Id(), op["y"].Id(), op["height"].Integer(), op["width"].Integer()};
    case 15:
      return MultiscaleEncode{op["x"].Id(), op["tokens"].Id(), op["sum"].Id(), op["codebooks"].Texts(),
                              op["scales"].Integers()};
    default:
      return MultiscaleDecode{op["tokens"].Id(), op["y"].Id(), op["codebooks"].Texts(),
                              op["scales"].Integers(), op["grid"].Integer()};
  }
}

Graph ReadGraph(Napi::Value value) {
  const Field root(value, "graph");
  Graph graph;
  for (const Field& item : root["values"].Items()) {
    graph.values.push_back(
        {item["shape"].Integers(), static_cast<DType>(item["dtype"].Choice({"f32", "u8", "i32"}))});
  }
  for (const Field& item : root["ops"].Items()) graph.ops.push_back(ReadOp(item));
  for (const auto& [name, field] : root["inputs"].Entries()) graph.inputs.push_back({name, field.Id()});
  for (const auto& [name, field] : root["outputs"].Entries()) graph.outputs.push_back({name, field.Id()});
  return graph;
}

// ---- running it

napi_typedarray_type ArrayTypeOf(DType dtype) {
  return dtype == DType::kF32  ? napi_float32_array
         : dtype == DType::kU8 ? napi_uint8_array
                               : napi_int32_array;
}

const char* ArrayNameOf(DType dtype) {
  return dtype == DType::kF32 ? "a Float32Array" : dtype == DType::kU8 ? "a Uint8Array" : "an Int32Array";
}

Error Disposed(const char* what) {
  return Error("ERR_TOKENFLOW_DISPOSED", std::string("The ") + what + " was disposed of");
}

class StoreHandle : public Napi::ObjectWrap<StoreHandle> {
 public:
  static Napi::Function Class(Napi::Env env) {
    return DefineClass(
        env, "NativeWeightStore",
        {InstanceMethod<&StoreHandle::Bytes>("bytes"), InstanceMethod<&StoreHandle::Dispose>("dispose")});
  }
  explicit StoreHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<StoreHandle>(info) {
    Guarded(info.Env(), [&] {
      const std::string device = Field(info[0], "device").Text();
      backend_ = &FindBackend(device);
      queue_ = &ComputeQueue::Of(device);
      store_ = backend_->CreateStore();
    });
  }

  Backend& backend() const { return *backend_; }
  ComputeQueue& queue() const { return *queue_; }
  const std::shared_ptr<WeightStore>& store() const {
    if (store_ == nullptr) throw Disposed("weight store");
    return store_;
  }

 private:
  Napi::Value Bytes(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(),
                   [&] { return Napi::Number::New(info.Env(), static_cast<double>(store()->Bytes())); });
  }
  void Dispose(const Napi::CallbackInfo&) { store_.reset(); }

  Backend* backend_ = nullptr;
  ComputeQueue* queue_ = nullptr;
  std::shared_ptr<WeightStore> store_;
};

class ProgramHandle : public Napi::ObjectWrap<ProgramHandle> {
 public:
  static Napi::Function Class(Napi::Env env) {
    return DefineClass(
        env, "NativeProgram",
        {InstanceMethod<&ProgramHandle::MissingWeights>("missingWeights"),
         InstanceMethod<&ProgramHandle::SetWeight>("setWeight"),
         InstanceMethod<&ProgramHandle::Memory>("memory"), InstanceMethod<&ProgramHandle::Run>("run"),
         InstanceMethod<&ProgramHandle::RunSync>("runSync"),
         InstanceMethod<&ProgramHandle::Profile>("profile"),
         InstanceMethod<&ProgramHandle::Dispose>("dispose")});
  }
  explicit ProgramHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ProgramHandle>(info) {
    Guarded(info.Env(), [&] {
      const Napi::Function store_class = Environment::Of(info.Env())->classes["store"].Value();
      if (!info[1].IsObject() || !info[1].As<Napi::Object>().InstanceOf(store_class)) {
        throw InvalidArgument("Expected a weight store of createWeightStore for store");
      }
      const StoreHandle* store = StoreHandle::Unwrap(info[1].As<Napi::Object>());
      const Precision precision = static_cast<Precision>(Field(info[2], "precision").Choice({"f32", "bf16"}));
      queue_ = &store->queue();
      const int64_t lanes = Field(info[3], "lanes").Integer(1);
      if (lanes < 1 || lanes > kMostLanes || (lanes > 1 && &store->backend() != &CpuBackend())) {
        throw InvalidArgument("Expected lanes from 1 to " + std::to_string(kMostLanes) +
                              " (1 on a device other than the CPU) but received " + std::to_string(lanes));
      }
      program_ = lanes == 1 ? store->backend().Compile(ReadGraph(info[0]), store->store(), precision)
                            : CompileCpuLanes(ReadGraph(info[0]), store->store(), precision,
                                              static_cast<int>(lanes));
    });
  }

 private:
  static constexpr int64_t kMostLanes = 1024;

  // One weight that is no number spoils every result and shows only there, in words about something else.
  static void CheckFinite(const std::string& name,
                          const float* data,  // [count]
                          int64_t count) {
    int32_t spoilt =
        0;  // on the bits, where the order of a sum does not matter and the compiler can vectorise
    for (int64_t i = 0; i < count; i++) {
      int32_t bits;
      std::memcpy(&bits, data + i, sizeof bits);
      spoilt |= (bits & 0x7f800000) == 0x7f800000;
    }
    if (spoilt == 0) return;
    const float* at = std::find_if(data, data + count, [](float x) { return !std::isfinite(x); });
    throw Error("ERR_TOKENFLOW_CHECKPOINT",
                "Expected finite weights but element " + std::to_string(at - data) + " of '" + name +
                    "' is " + std::to_string(*at) + ": the checkpoint is damaged, or its training diverged");
  }

  // Buffers of one run: inputs copied, outputs owned by V8.
  struct Binding {
    std::vector<std::unique_ptr<char[]>> copies;
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    std::vector<Napi::TypedArray> arrays;  // of the outputs
  };

  const std::shared_ptr<Program>& program() const {
    if (program_ == nullptr) throw Disposed("program");
    return program_;
  }

  Napi::Value MissingWeights(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(), [&] {
      Napi::Array result = Napi::Array::New(info.Env());
      for (const MissingWeight& weight : program()->MissingWeights()) {
        Napi::Array shape = Napi::Array::New(info.Env());
        for (const int64_t extent : weight.shape) {
          shape.Set(shape.Length(), Napi::Number::New(info.Env(), static_cast<double>(extent)));
        }
        Napi::Object item = Napi::Object::New(info.Env());
        item.Set("name", weight.name);
        item.Set("shape", shape);
        result.Set(result.Length(), item);
      }
      return result;
    });
  }

  // Packed here and now: neither behind what the compute thread runs nor at the mercy of two switches of threads
  // for each of many small tensors. Its loops have the team of threads where no run has it.
  void SetWeight(const Napi::CallbackInfo& info) {
    Guarded(info.Env(), [&] {
      const std::string name = Field(info[0], "the weight's name").Text();
      const Napi::TypedArray array = TypedArray(info[1], DType::kF32, "the weight '" + name + "'");
      const float* data = reinterpret_cast<const float*>(
          static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset());
      const int64_t count = static_cast<int64_t>(array.ElementLength());
      CheckFinite(name, data, count);
      program()->SetWeight(name, data, count);
    });
  }

  Napi::Value Memory(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(), [&] {
      const ProgramMemory memory = program()->Memory();
      Napi::Object result = Napi::Object::New(info.Env());
      result.Set("activations", static_cast<double>(memory.activations));
      result.Set("scratch", static_cast<double>(memory.scratch));
      return result;
    });
  }

  Napi::Value Run(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(), [&]() -> Napi::Value {
      const auto program = this->program();
      auto binding = std::make_shared<Binding>(Bind(info.Env(), *program, info[0]));
      auto job = std::make_unique<Job>(info.Env());
      Job* handle = job.get();
      job->queue = queue_;
      job->held.push_back(Napi::Persistent(Collect(info.Env(), *program, *binding)));
      binding->arrays.clear();  // handles of this call only
      job->start = [program, binding](const CancelFlag& cancelled) {
        return program->Start(binding->inputs, binding->outputs, cancelled);
      };
      job->resolve = [handle](Napi::Env) -> Napi::Value { return handle->held[0].Value(); };
      return Environment::Of(info.Env())->Schedule(info.Env(), std::move(job));
    });
  }

  Napi::Value RunSync(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(), [&]() -> Napi::Value {
      const auto program = this->program();
      const Binding binding = Bind(info.Env(), *program, info[0]);
      const CancelFlag never(false);
      queue_->Run([&] { program->Run(binding.inputs, binding.outputs, never); });
      return Collect(info.Env(), *program, binding);
    });
  }

  Napi::Value Profile(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(), [&] {
      Napi::Array result = Napi::Array::New(info.Env());
      for (const OpTime& time : program()->Profile()) {
        Napi::Object item = Napi::Object::New(info.Env());
        item.Set("op", time.op);
        item.Set("milliseconds", time.milliseconds);
        result.Set(result.Length(), item);
      }
      return result;
    });
  }

  void Dispose(const Napi::CallbackInfo&) { program_.reset(); }

  static Napi::TypedArray TypedArray(Napi::Value value, DType dtype, const std::string& what) {
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != ArrayTypeOf(dtype)) {
      throw InvalidArgument(std::string("Expected ") + ArrayNameOf(dtype) + " for " + what +
                            " but received something else");
    }
    return value.As<Napi::TypedArray>();
  }

  static Binding Bind(Napi::Env env, const Program& program, Napi::Value given) {
    const Graph& graph = program.graph();
    Binding binding;
    const Field fields(given, "inputs");
    for (const Port& port : graph.inputs) {
      const GraphValue& value = graph.values[port.value];
      if (fields[port.name.c_str()].absent())
        throw InvalidArgument("Expected an input named '" + port.name + "'");
      const Napi::TypedArray array =
          TypedArray(given.As<Napi::Object>().Get(port.name), value.dtype, "the input '" + port.name + "'");
      if (static_cast<int64_t>(array.ElementLength()) != value.Elements()) {
        throw InvalidArgument("Expected " + std::to_string(value.Elements()) + " elements for the input '" +
                              port.name + "' but received " + std::to_string(array.ElementLength()));
      }
      auto copy = std::make_unique<char[]>(value.Bytes());
      std::memcpy(copy.get(), static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset(),
                  value.Bytes());
      binding.inputs.push_back(copy.get());
      binding.copies.push_back(std::move(copy));
    }
    for (const Port& port : graph.outputs) {
      const GraphValue& value = graph.values[port.value];
      const size_t count = static_cast<size_t>(value.Elements());
      RequireMemory(value.Bytes(), "the output '" + port.name + "'");
      Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, static_cast<size_t>(value.Bytes()));
      binding.outputs.push_back(buffer.Data());
      if (value.dtype == DType::kF32) {
        binding.arrays.push_back(Napi::Float32Array::New(env, count, buffer, 0));
      } else if (value.dtype == DType::kU8) {
        binding.arrays.push_back(Napi::Uint8Array::New(env, count, buffer, 0));
      } else {
        binding.arrays.push_back(Napi::Int32Array::New(env, count, buffer, 0));
      }
    }
    return binding;
  }

  static Napi::Object Collect(Napi::Env env, const Program& program, const Binding& binding) {
    Napi::Object result = Napi::Object::New(env);
    for (size_t i = 0; i < binding.arrays.size(); i++) {
      result.Set(program.graph().outputs[i].name, binding.arrays[i]);
    }
    return result;
  }

  ComputeQueue* queue_ = nullptr;
  std::shared_ptr<Program> program_;
};

}  // namespace

void InitProgram(Napi::Env env, Napi::Object exports) {
  Environment* environment = Environment::Of(env);
  environment->classes["store"] = Napi::Persistent(StoreHandle::Class(env));
  environment->classes["program"] = Napi::Persistent(ProgramHandle::Class(env));
  exports.Set("createWeightStore",
              Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Environment::Of(info.Env())->classes["store"].New({info[0]});
              }));
  exports.Set(
      "createProgram", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
        return Environment::Of(info.Env())->classes["program"].New({info[0], info[1], info[2], info[3]});
      }));
}

}  // namespace tokenflow

// Memory of a device for JavaScript.
#include "addon/placed.h"

namespace tokenflow {

namespace {

// deviceBufferCreate(device, bytes)
Napi::Value Create(const Napi::CallbackInfo& info) {
  const std::string device = info[0].As<Napi::String>();
  const int64_t bytes = info[1].As<Napi::Number>().Int64Value();
  return WrapShared(info.Env(), std::make_shared<HeldBuffer>(DevicePlace::Named(device), bytes));
}

// deviceBufferWrite(handle, { data, sync }): `data` has the buffer's bytes.
Napi::Value Write(const Napi::CallbackInfo& info) {
  const auto buffer = UnwrapShared<HeldBuffer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const bool sync = Flag(request, "sync");
  return DispatchJob(
      info.Env(), sync, {},
      [=, from = InputArgument(request.Get("data"), sync)](const CancelFlag&) {
        buffer->place().codebooks->Copy(buffer->Writable(), from.operand(), buffer->bytes());
      },
      *buffer->place().queue);
}

// deviceBufferRead(handle, { data, sync }): likewise.
Napi::Value Read(const Napi::CallbackInfo& info) {
  const auto buffer = UnwrapShared<HeldBuffer>(info[0]);
  const auto request = info[1].As<Napi::Object>();
  const Napi::Value data = request.Get("data");
  return DispatchJob(
      info.Env(), Flag(request, "sync"), {data},
      [=, to = OutputArgument(data)](const CancelFlag&) {
        buffer->place().codebooks->Copy(to.operand(), buffer->Writable(), buffer->bytes());
      },
      *buffer->place().queue);
}

// deviceBufferRelease(handle): gives up the handle's share now.
Napi::Value Release(const Napi::CallbackInfo& info) {
  info[0].As<Napi::External<std::shared_ptr<HeldBuffer>>>().Data()->reset();
  return info.Env().Undefined();
}

}  // namespace

void InitDeviceBuffer(Napi::Env env, Napi::Object exports) {
  ExportGuarded<Create>(env, exports, "deviceBufferCreate");
  ExportGuarded<Write>(env, exports, "deviceBufferWrite");
  ExportGuarded<Read>(env, exports, "deviceBufferRead");
  ExportGuarded<Release>(env, exports, "deviceBufferRelease");
}

}  // namespace tokenflow

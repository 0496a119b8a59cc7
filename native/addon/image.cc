// Image preparation. It runs on libuv's pool, where sharp decodes, and not on the compute queue: the next
// pictures are then made ready while the compute thread encodes.
#include <string>

#include "addon/environment.h"
#include "image/prepare.h"

namespace tokenflow {

namespace {

struct Request {
  Raster raster;
  Fit fit;
  int64_t size;
};

PixelLayout ParseLayout(const std::string& name) {
  if (name == "grey") return PixelLayout::kGrey;
  if (name == "grey-alpha") return PixelLayout::kGreyAlpha;
  if (name == "rgb") return PixelLayout::kRgb;
  if (name == "rgba") return PixelLayout::kRgba;
  if (name == "cmyk") return PixelLayout::kCmyk;
  throw InvalidArgument("Unknown pixel layout '" + name + "'");
}

Fit ParseFit(const std::string& name) {
  if (name == "crop") return Fit::kCrop;
  if (name == "squash") return Fit::kSquash;
  if (name == "pad") return Fit::kPad;
  throw InvalidArgument("Unknown fit '" + name + "'");
}

// (pixels, width, height, layout, fit, size), checked by lib/image/processor.ts. The caller hands the pixels over: the
// array is empty afterwards.
Request ParseRequest(const Napi::CallbackInfo& info) {
  const Napi::Uint8Array pixels = info[0].As<Napi::Uint8Array>();
  Request request;
  request.raster = {pixels.Data(), info[1].As<Napi::Number>().Int64Value(),
                    info[2].As<Napi::Number>().Int64Value(), ParseLayout(info[3].As<Napi::String>())};
  request.fit = ParseFit(info[4].As<Napi::String>());
  request.size = info[5].As<Napi::Number>().Int64Value();
  const Raster& raster = request.raster;
  const int64_t bytes = raster.width * raster.height * Channels(raster.layout);
  if (raster.width < 1 || raster.height < 1 || request.size < 1 ||
      static_cast<int64_t>(pixels.ByteLength()) != bytes) {
    throw InvalidArgument("Expected " + std::to_string(bytes) + " bytes of pixels but received " +
                          std::to_string(pixels.ByteLength()));
  }
  return request;
}

// Frees an array's memory now, for the next picture, and not when it is collected: memory that is touched for the first time
// costs more than what is done with it. The array is empty afterwards. A part of a larger array is left as it is.
void Release(const Napi::Uint8Array& array) {
  Napi::ArrayBuffer memory = array.ArrayBuffer();
  if (memory.ByteLength() == array.ByteLength()) memory.Detach();
}

class PrepareWorker : public Napi::AsyncWorker {
 public:
  PrepareWorker(Napi::Env env, const Request& request, Napi::Uint8Array pixels, Napi::Uint8Array output)
      : Napi::AsyncWorker(env, "tokenflow.prepareImage"),
        deferred_(Napi::Promise::Deferred::New(env)),
        request_(request),
        out_(output.Data()),
        pixels_(Napi::Persistent(pixels.As<Napi::Object>())),
        output_(Napi::Persistent(output.As<Napi::Object>())) {}

  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { PrepareImage(request_.raster, request_.fit, request_.size, out_); }
  void OnOK() override {
    Release(pixels_.Value().As<Napi::Uint8Array>());
    deferred_.Resolve(output_.Value());
  }
  // What PrepareImage can throw is std::bad_alloc.
  void OnError(const Napi::Error&) override {
    deferred_.Reject(
        Environment::Of(Env())
            ->MakeError(Env(), "ERR_TOKENFLOW_OUT_OF_MEMORY", "Not enough memory to resize this image")
            .Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  Request request_;
  uint8_t* out_;
  Napi::ObjectReference pixels_, output_;  // kept alive until the promise settles
};

Napi::Uint8Array NewPicture(Napi::Env env, int64_t size) {
  return Napi::Uint8Array::New(env, static_cast<size_t>(3 * size * size));
}

}  // namespace

void InitImage(Napi::Env env, Napi::Object exports) {
  exports.Set("prepareImage", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Guarded(info.Env(), [&] {
                  const Request request = ParseRequest(info);
                  auto* worker = new PrepareWorker(info.Env(), request, info[0].As<Napi::Uint8Array>(),
                                                   NewPicture(info.Env(), request.size));
                  worker->Queue();
                  return worker->Promise();
                });
              }));
  exports.Set("prepareImageSync", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Guarded(info.Env(), [&] {
                  const Request request = ParseRequest(info);
                  Napi::Uint8Array output = NewPicture(info.Env(), request.size);
                  PrepareImage(request.raster, request.fit, request.size, output.Data());
                  Release(info[0].As<Napi::Uint8Array>());
                  return output;
                });
              }));
  exports.Set("release", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                if (info[0].IsTypedArray()) Release(info[0].As<Napi::Uint8Array>());
              }));
}

}  // namespace tokenflow

#include "addon/environment.h"
#include "runtime/cpu_features.h"
#include "runtime/parallel.h"

namespace tokenflow {

#ifdef __clang__
static const char kCompiler[] = "Clang " __clang_version__;
#elif defined(__GNUC__)
static const char kCompiler[] = "GCC " __VERSION__;
#else
static const char kCompiler[] = "unknown";
#endif

void InitRuntime(Napi::Env env, Napi::Object exports) {
  exports.Set("initialize", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                Environment::Of(info.Env())->error_class = Napi::Persistent(info[0].As<Napi::Function>());
              }));
  exports.Set("simdLevel", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Guarded(info.Env(), [&] {
                  return Napi::String::New(info.Env(), SimdLevelName(ActiveSimdLevel()));
                });
              }));
  exports.Set("cpuFeatures", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                const CpuFeatures& f = DetectedCpuFeatures();
                Napi::Object result = Napi::Object::New(info.Env());
                result.Set("avx2", f.avx2);
                result.Set("avx512", f.avx512);
                result.Set("avx512Vnni", f.avx512_vnni);
                result.Set("avx512Bf16", f.avx512_bf16);
                return result;
              }));
  exports.Set("buildInfo", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                Napi::Object result = Napi::Object::New(info.Env());
                result.Set("compiler", kCompiler);
                result.Set("nodeApi", NAPI_VERSION);
                return result;
              }));
  exports.Set("threads", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), Threads()); });
              }));
  exports.Set("setThreads", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                SetThreads(info[0].As<Napi::Number>().Int32Value());
              }));
  exports.Set("pending", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Napi::Number::New(info.Env(), Environment::Of(info.Env())->Pending());
              }));
}

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  InitRuntime(env, exports);
  InitImage(env, exports);
  InitCodebook(env, exports);
  InitQuantizers(env, exports);
  InitLearning(env, exports);
  InitProgram(env, exports);
  InitCuda(env, exports);
  InitDeviceBuffer(env, exports);
  return exports;
}

NODE_API_MODULE(tokenflow, Init)

}  // namespace tokenflow

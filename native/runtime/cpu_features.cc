#include "runtime/cpu_features.h"

#include <cstdlib>
#include <string>

#include "runtime/error.h"

namespace tokenflow {

const CpuFeatures& DetectedCpuFeatures() {
  static const CpuFeatures features = [] {
    CpuFeatures f{};
#if defined(__x86_64__)
    __builtin_cpu_init();
    f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    f.avx512_vnni = f.avx512 && __builtin_cpu_supports("avx512vnni");
    f.avx512_bf16 = f.avx512 && __builtin_cpu_supports("avx512bf16");
#endif
    return f;
  }();
  return features;
}

namespace {

SimdLevel BestLevel() {
  const CpuFeatures& f = DetectedCpuFeatures();
  return f.avx512 ? SimdLevel::kAvx512 : f.avx2 ? SimdLevel::kAvx2 : SimdLevel::kScalar;
}

SimdLevel RequestedLevel() {
  const char* wanted = std::getenv("TOKENFLOW_SIMD");
  if (wanted == nullptr || *wanted == '\0') return BestLevel();
  for (SimdLevel level : {SimdLevel::kScalar, SimdLevel::kAvx2, SimdLevel::kAvx512}) {
    if (std::string(wanted) != SimdLevelName(level)) continue;
    if (level > BestLevel()) {
      throw InvalidArgument(std::string("TOKENFLOW_SIMD=") + wanted +
                            " is not available on this processor; its best level is " +
                            SimdLevelName(BestLevel()));
    }
    return level;
  }
  throw InvalidArgument(std::string("Expected scalar, avx2 or avx512 for TOKENFLOW_SIMD but received '") +
                        wanted + "'");
}

}  // namespace

SimdLevel ActiveSimdLevel() {
  static const SimdLevel level = RequestedLevel();
  return level;
}

bool UseAvx512Vnni() {
  return ActiveSimdLevel() == SimdLevel::kAvx512 && DetectedCpuFeatures().avx512_vnni;
}
bool UseAvx512Bf16() {
  return ActiveSimdLevel() == SimdLevel::kAvx512 && DetectedCpuFeatures().avx512_bf16;
}

const char* SimdLevelName(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kAvx512:
      return "avx512";
    default:
      return "scalar";
  }
}

}  // namespace tokenflow

// Which instruction sets this processor has, and which one the kernels use.
//
// TOKENFLOW_SIMD=scalar|avx2|avx512 lowers the level; asking for one the processor lacks is an error at first
// use. Files named *_avx2.cc, *_avx512.cc, *_avx512vnni.cc and *_avx512bf16.cc are compiled with those flags
// and may be entered only after the matching question here. They include no standard containers: an inline
// function compiled there could be the copy the linker keeps for everyone.
#pragma once

namespace tokenflow {

enum class SimdLevel { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

struct CpuFeatures {
  bool avx2;         // AVX2, FMA and F16C
  bool avx512;       // AVX-512 F, BW, DQ, VL
  bool avx512_vnni;  // int8 dot products
  bool avx512_bf16;  // bfloat16 dot products
};

// What the processor and the operating system offer.
const CpuFeatures& DetectedCpuFeatures();

// The level in force: the best available, or what TOKENFLOW_SIMD asks for. Throws Error on a bad value.
SimdLevel ActiveSimdLevel();

// VNNI and bf16 are used only at level avx512.
bool UseAvx512Vnni();
bool UseAvx512Bf16();

const char* SimdLevelName(SimdLevel level);

}  // namespace tokenflow

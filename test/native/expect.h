// What the native tests share: a check that ends the program, seeded numbers, and the refusal of a level that the
// processor lacks (exit code 2).
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "runtime/cpu_features.h"
#include "runtime/error.h"

inline void Expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  std::exit(1);
}

inline void RequireLevel() {
  try {
    tokenflow::ActiveSimdLevel();
  } catch (const tokenflow::Error& error) {
    std::printf("%s\n", error.what());
    std::exit(2);
  }
}

// xorshift64*
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  uint64_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  int Below(int limit) { return static_cast<int>(Next() % limit); }
  float Float() { return static_cast<float>(Next() >> 40) / (1 << 23) - 1.0f; }  // from [-1, 1)
  std::vector<float> Floats(int64_t count, float scale = 1.0f) {
    std::vector<float> values(count);
    for (float& value : values) value = Float() * scale;
    return values;
  }

 private:
  uint64_t state_;
};

// The smallest test frame: TEST(name) { ... } registers a case, CHECK and its kin report, main() is in check.cc.
#pragma once
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "device_buffer.h"
#include "simt.h"

namespace simt {

struct Case {
  const char* name;
  void (*body)();
};
std::vector<Case>& cases();
struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

// Marks the running case failed; the first few messages of a case are printed.
void Fail(const std::string& message);

// Runs `body` under each thread order.
void ForEachOrder(const std::function<void()>& body);

// The message of the Fault that `body` throws, or "" and a failure when it throws none.
std::string ExpectFault(const std::function<void()>& body);

// Normal values from a fixed seed.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  float Normal() { return normal_(engine_); }
  int Below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  std::vector<float> Normals(size_t n, float scale = 1, float offset = 0) {
    std::vector<float> v(n);
    for (float& x : v) x = Normal() * scale + offset;
    return v;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

}  // namespace simt

#define SIMT_JOIN2(a, b) a##b
#define SIMT_JOIN(a, b) SIMT_JOIN2(a, b)
#define TEST(name)                                                                              \
  static void SIMT_JOIN(Case, __LINE__)();                                                      \
  static const ::simt::Register SIMT_JOIN(register, __LINE__)(name, SIMT_JOIN(Case, __LINE__)); \
  static void SIMT_JOIN(Case, __LINE__)()

#define CHECK(condition)                                                                                    \
  do {                                                                                                      \
    if (!(condition)) ::simt::Fail(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition); \
  } while (0)

#include "check.h"

#include <chrono>
#include <cstdlib>
#include <cstring>

namespace simt {

namespace {
int messages = 0;
bool failed = false;
}  // namespace

std::vector<Case>& cases() {
  static std::vector<Case> instance;
  return instance;
}

void Fail(const std::string& message) {
  failed = true;
  if (messages++ < 5) std::printf("    %s\n", message.c_str());
}

void ForEachOrder(const std::function<void()>& body) {
  const Options before = options();
  for (Order order : {Order::kForward, Order::kReverse, Order::kRandom, Order::kLockstep}) {
    options().order = order;
    try {
      body();
    } catch (const std::exception& error) {
      Fail(std::string(OrderName(order)) + " order: " + error.what());
    }
  }
  options() = before;
}

std::string ExpectFault(const std::function<void()>& body) {
  try {
    body();
  } catch (const Fault& fault) {
    return fault.what();
  }
  Fail("expected a Fault, none came");
  return "";
}

}  // namespace simt

// Runs the cases whose names contain every argument.
int main(int argc, char** argv) {
  simt::InstallFaultHandler();
  int passed = 0, bad = 0;
  for (const simt::Case& c : simt::cases()) {
    bool chosen = true;
    for (int i = 1; i < argc; i++) chosen &= std::strstr(c.name, argv[i]) != nullptr;
    if (!chosen) continue;
    simt::failed = false;
    simt::messages = 0;
    simt::options() = {};
    simt::ResetCounters();
    const auto start = std::chrono::steady_clock::now();
    try {
      c.body();
    } catch (const std::exception& error) {
      simt::Fail(error.what());
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("  %s %s (%.2f s)\n", simt::failed ? "FAIL" : "ok  ", c.name, seconds);
    std::fflush(stdout);
    ++(simt::failed ? bad : passed);
    if (simt::failed && std::getenv("SIMT_FAIL_FAST") != nullptr) break;
  }
  std::printf("%d passed, %d failed\n", passed, bad);
  return bad != 0;
}

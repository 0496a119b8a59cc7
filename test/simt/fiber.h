// A stack of its own on which a function runs until it parks: one CUDA thread of the emulation.
//
// One operating-system thread at a time runs fibers. The first entry of a fiber's life uses setcontext, every later switch and
// start _setjmp and _longjmp, which save no signal mask and so cost some nanoseconds instead of two system calls.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <memory>

namespace simt {

class Fiber {
 public:
  // The next Resume() enters `entry` from the top. `entry` must never return: it ends with Finish().
  void Reset(void (*entry)());

  // Called by the scheduler: runs the fiber until it parks or finishes.
  void Resume();

  // Called on the fiber: back to the scheduler, to continue here at the next Resume().
  void Park();

  // Called on the fiber, also from a signal handler on it: back to the scheduler for good.
  [[noreturn]] void Finish();

 private:
  static constexpr size_t kStackBytes = 256
                                        << 10;  // AddressSanitizer's frames are several times the usual size

  static void Trampoline();

  std::unique_ptr<unsigned char[]> stack_;
  ucontext_t context_;
  jmp_buf start_;  // the bottom of the stack, once started
  jmp_buf here_;
  jmp_buf scheduler_;
  bool fresh_ = false, started_ = false;
  void* fiber_fake_stack_ = nullptr;
};

}  // namespace simt

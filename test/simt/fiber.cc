#include "fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

namespace simt {

namespace {

// AddressSanitizer keeps the bounds of the stack in use; each switch has to tell it. The scheduler's own stack is
// learnt at the first arrival on a fiber.
struct StackBounds {
  const void* bottom = nullptr;
  size_t bytes = 0;
};

#if SIMT_ASAN
StackBounds scheduler_stack;

void Leaving(void** fake_stack, StackBounds to) {
  __sanitizer_start_switch_fiber(fake_stack, to.bottom, to.bytes);
}
void ArrivedOnFiber(void* fake_stack) {
  __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack.bottom, &scheduler_stack.bytes);
}
void ArrivedOnScheduler(void* fake_stack) {
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}
#endif

void (*entry_point)() = nullptr;
Fiber* starting = nullptr;

}  // namespace

void Fiber::Trampoline() {
  Fiber* const self = starting;
  (void)_setjmp(self->start_);  // every start but the first comes in here
#if SIMT_ASAN
  ArrivedOnFiber(nullptr);
#endif
  entry_point();
}

void Fiber::Reset(void (*entry)()) {
  const bool first = !stack_;
  if (first) stack_ = std::make_unique<unsigned char[]>(kStackBytes);
#if SIMT_ASAN
  __asan_unpoison_memory_region(stack_.get(), kStackBytes);  // an abandoned run leaves its frames marked
#endif
  entry_point = entry;
  if (first) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, Trampoline, 0);
  }
  fresh_ = true;
  fiber_fake_stack_ = nullptr;
}

void Fiber::Resume() {
#if SIMT_ASAN
  void* fake_stack = nullptr;
  Leaving(&fake_stack, {stack_.get(), kStackBytes});
#endif
  if (!_setjmp(scheduler_)) {
    if (!fresh_) _longjmp(here_, 1);
    fresh_ = false;
    if (started_) _longjmp(start_, 1);
    started_ = true;
    starting = this;
    setcontext(&context_);
  }
#if SIMT_ASAN
  ArrivedOnScheduler(fake_stack);
#endif
}

void Fiber::Park() {
#if SIMT_ASAN
  Leaving(&fiber_fake_stack_, scheduler_stack);
#endif
  if (!_setjmp(here_)) _longjmp(scheduler_, 1);
#if SIMT_ASAN
  ArrivedOnFiber(fiber_fake_stack_);
#endif
}

void Fiber::Finish() {
#if SIMT_ASAN
  Leaving(nullptr, scheduler_stack);
#endif
  _longjmp(scheduler_, 1);
}

}  // namespace simt

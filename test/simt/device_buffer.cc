#include "device_buffer.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>

#include "simt.h"

namespace simt {

namespace {

struct Block {
  unsigned char* mapping;
  size_t mapped, bytes, slack;
};
std::map<void*, Block>& blocks() {
  static auto& instance = *new std::map<void*, Block>;
  return instance;
}

constexpr unsigned char kSlack = 0xa5;

void OnBadAccess(int, siginfo_t* info, void*) {
  Machine& m = machine();
  if (!m.running) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    return;
  }
  char text[160];
  std::snprintf(text, sizeof text,
                "global memory touched outside every buffer, at %p (block %u,%u,%u, thread %d)",
                info->si_addr, m.block_index.x, m.block_index.y, m.block_index.z, m.current);
  m.fault = text;
  m.threads[m.current].wait = Wait::kDone;
  m.threads[m.current]
      .fiber.Finish();  // leaves the handler for good; SA_NODEFER keeps the signal deliverable
}

}  // namespace

void* AllocateGuarded(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t slack = (16 - bytes % 16) % 16;
  const size_t inner = (bytes + slack + page - 1) / page * page;
  const size_t mapped = inner + 2 * page;
  auto* mapping = static_cast<unsigned char*>(
      mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (mapping == MAP_FAILED)
    throw Fault("no memory for a device buffer of " + std::to_string(bytes) + " bytes");
  if (inner) mprotect(mapping + page, inner, PROT_READ | PROT_WRITE);
  unsigned char* data = mapping + page + inner - bytes - slack;
  std::memset(data, 0xff, bytes);
  std::memset(data + bytes, kSlack, slack);
  blocks()[data] = {mapping, mapped, bytes, slack};
  return data;
}

void FreeGuarded(void* p) {
  const auto found = blocks().find(p);
  if (found == blocks().end()) throw Fault("freeing what was never allocated");
  const Block b = found->second;
  bool touched = false;
  for (size_t i = 0; i < b.slack; i++) touched |= static_cast<unsigned char*>(p)[b.bytes + i] != kSlack;
  blocks().erase(found);
  munmap(b.mapping, b.mapped);
  if (touched && !std::uncaught_exceptions()) {
    throw Fault("a write just past the end of a device buffer of " + std::to_string(b.bytes) + " bytes");
  }
}

void InstallFaultHandler() {
  static unsigned char stack[64 << 10];
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action {};
  action.sa_sigaction = OnBadAccess;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace simt

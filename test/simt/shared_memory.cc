#include "shared_memory.h"

#include <algorithm>
#include <cstring>

#include "simt.h"

namespace simt {

SharedMemory& the_shared_memory = *new SharedMemory;

void SharedMemory::Begin(size_t bytes) {
  constexpr size_t kLargest = 227 << 10;  // of any architecture built for (sm_90)
  if (bytes > kLargest) Die("a block asks for " + std::to_string(bytes) + " bytes of shared memory");
  constexpr size_t kAlign = 128;
  if (storage_.size() < bytes + kAlign) storage_.resize(bytes + kAlign);
  const auto address = reinterpret_cast<uintptr_t>(storage_.data());
  base_ = reinterpret_cast<unsigned char*>((address + kAlign - 1) & ~(kAlign - 1));
  bytes_ = bytes;
  if (!options().watch_shared_memory) return;
  std::memset(base_, 0xff, bytes);  // a NaN as float and as bf16
  shadow_.resize(std::max(shadow_.size(), (bytes + kUnit - 1) / kUnit));
  for (Shadow& s : shadow_) s.pending = false;
  first_phase_ = machine().phase;
  traces_.resize(machine().threads.size());
  for (auto& trace : traces_) trace.clear();
}

size_t SharedMemory::Unit(const void* p, size_t n, const char* what) const {
  const auto* c = static_cast<const unsigned char*>(p);
  if (c < base_ || c + n > base_ + bytes_) Die(std::string(what) + " outside shared memory");
  if (n % kUnit) Die("an access of " + std::to_string(n) + " bytes; the shadow knows words of 4");
  if (reinterpret_cast<uintptr_t>(p) % (n < 16 ? n : 16))
    Die(std::string(what) + " of shared memory, misaligned");
  return static_cast<size_t>(c - base_) / kUnit;
}

// Whether the running thread comes after what `thread` did at that time.
bool SharedMemory::After(uint32_t phase, uint32_t warp_phase, int thread) const {
  const Machine& m = machine();
  if (thread == m.current || phase < m.phase) return true;
  return thread / 32 == Warp() && warp_phase < m.warp_phase[Warp()];
}

void SharedMemory::Trace(const void* p, size_t n) {
  const auto offset = static_cast<uint32_t>(static_cast<const unsigned char*>(p) - base_);
  traces_[machine().current].push_back({offset, static_cast<uint32_t>(n)});
}

void SharedMemory::CountConflicts() {
  for (size_t first = 0; first < traces_.size(); first += 32) {
    bool even = first + 32 <= traces_.size();
    for (size_t lane = 1; even && lane < 32; lane++) {
      even = traces_[first + lane].size() == traces_[first].size();
    }
    for (size_t i = 0; even && i < traces_[first].size(); i++) {
      const uint32_t bytes = traces_[first][i].bytes;
      const size_t lanes = bytes > 4 ? 128 / bytes : 32;  // served together: 128 bytes a pass
      for (size_t group = 0; group < 32; group += lanes) {
        uint32_t words[32][32];  // the different words wanted of each bank
        int count[32] = {};
        int passes = 1;
        for (size_t lane = group; lane < group + lanes; lane++) {
          const Access a = traces_[first + lane][i];
          for (uint32_t word = a.offset / 4; word <= (a.offset + a.bytes - 1) / 4; word++) {
            uint32_t* wanted = words[word % 32];
            int& n = count[word % 32];
            if (std::find(wanted, wanted + n, word) != wanted + n) continue;
            wanted[n++] = word;
            passes = std::max(passes, n);
          }
        }
        counters().bank_conflicts += passes - 1;
      }
    }
  }
  for (auto& trace : traces_) trace.clear();
}

void SharedMemory::CheckRead(const void* p, size_t n, const char* what) {
  const Machine& m = machine();
  const size_t first = Unit(p, n, what);
  Trace(p, n);
  for (size_t u = first; u < first + n / kUnit; u++) {
    Shadow& s = shadow_[u];
    if (s.pending) Die(std::string(what) + " of shared memory that cp.async is still filling");
    if (s.write_phase < first_phase_) Die(std::string(what) + " of shared memory that nothing wrote");
    if (!After(s.write_phase, s.write_warp_phase, s.writer)) {
      Die(std::string(what) + " of shared memory that thread " + std::to_string(s.writer) +
          " wrote, with no barrier between");
    }
    const uint32_t warp_phase = m.warp_phase[Warp()];
    if (s.read_phase != m.phase) {
      s.reader = static_cast<int16_t>(m.current);
      s.reader_warp = static_cast<int16_t>(Warp());
    } else {
      if (s.reader != m.current) s.reader = kMany;
      if (s.reader_warp != Warp()) s.reader_warp = kMany;
    }
    s.read_phase = m.phase;
    s.read_warp_phase = warp_phase;
  }
}

void SharedMemory::MarkWrite(Shadow& s, const char* what) {
  const Machine& m = machine();
  if (s.write_phase >= first_phase_ && !After(s.write_phase, s.write_warp_phase, s.writer)) {
    Die(std::string(what) + " to shared memory that thread " + std::to_string(s.writer) +
        " wrote, with no barrier between");
  }
  if (s.read_phase == m.phase && s.reader != m.current) {
    const bool same_warp = s.reader_warp == Warp() && s.read_warp_phase < m.warp_phase[Warp()];
    if (!same_warp)
      Die(std::string(what) + " to shared memory that another thread read, with no barrier between");
  }
  s.write_phase = m.phase;
  s.write_warp_phase = m.warp_phase[Warp()];
  s.writer = static_cast<int16_t>(m.current);
}

void SharedMemory::CheckWrite(void* p, size_t n, const char* what) {
  const size_t first = Unit(p, n, what);
  Trace(p, n);
  for (size_t u = first; u < first + n / kUnit; u++) {
    if (shadow_[u].pending) Die(std::string(what) + " to shared memory that cp.async is still filling");
    MarkWrite(shadow_[u], what);
  }
}

void SharedMemory::BeginAsync(void* p, size_t n) {
  if (!options().watch_shared_memory) return;
  const size_t first = Unit(p, n, "cp.async");
  for (size_t u = first; u < first + n / kUnit; u++) {
    if (shadow_[u].pending) Die("cp.async into shared memory that another cp.async is filling");
    MarkWrite(shadow_[u], "cp.async");
    shadow_[u].pending = true;
  }
  std::memset(p, 0xff, n);
}

void SharedMemory::EndAsync(void* p, size_t n) {
  if (!options().watch_shared_memory) return;
  const size_t first = Unit(p, n, "cp.async");
  for (size_t u = first; u < first + n / kUnit; u++) {
    shadow_[u].pending = false;
    MarkWrite(shadow_[u], "cp.async");
  }
}

}  // namespace simt

#include "runtime/buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "runtime/error.h"

namespace tokenflow {

namespace {

// From here on a buffer has pages of its own, which go back to the system when it is freed.
constexpr int64_t kOwnPages = int64_t{1} << 20;

Error OutOfMemory(int64_t bytes, const std::string& purpose) {
  return Error("ERR_TOKENFLOW_OUT_OF_MEMORY", "Not enough memory for " + purpose + ": " +
                                                  std::to_string(bytes) +
                                                  " bytes are needed; a smaller batch needs less");
}

// Pages of their own for so many bytes, from the start of a huge page on: only whole huge pages are granted. Null if
// there are none.
void* MapAligned(int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t more = bytes < kHugePage ? 0 : kHugePage;
  void* const mapped =
      mmap(nullptr, bytes + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(mapped);
  if (more == 0) return begin;
  const int64_t before = -reinterpret_cast<intptr_t>(begin) & (kHugePage - 1);
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t whole = (bytes + page - 1) / page * page;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + whole, more - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

void RequireMemory(int64_t bytes, const std::string& purpose) {
  static const int64_t physical = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (bytes > physical) throw OutOfMemory(bytes, purpose);
}

Buffer::Buffer(int64_t bytes, const std::string& purpose) : bytes_(bytes) {
  if (bytes == 0) return;
  RequireMemory(bytes, purpose);
  if (bytes < kOwnPages) {
    data_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  } else {
    data_ = MapAligned(bytes);
  }
  if (data_ == nullptr) throw OutOfMemory(bytes, purpose);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (bytes_ < kOwnPages) {
    std::free(data_);
  } else {
    munmap(data_, bytes_);
  }
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace tokenflow

// Working memory that a thread keeps between calls: a lookup takes milliseconds, and the page faults of memory that
// is new each time would be a tenth of it.
#pragma once
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace tokenflow {

// Makes room without giving any back, and leaves what is there.
template <class Vector>
void AtLeast(Vector* vector, std::size_t size) {
  if (vector->size() < size) vector->resize(size);
}

// A T as an earlier Kept<T> of this thread left it, or a new one. For scratch whose sizes are set anew with each use.
template <class T>
class Kept {
 public:
  Kept() {
    if (Shelf().empty()) {
      value_ = std::make_unique<T>();
    } else {
      value_ = std::move(Shelf().back());
      Shelf().pop_back();
    }
  }
  ~Kept() { Shelf().push_back(std::move(value_)); }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

  T& operator*() const { return *value_; }
  T* operator->() const { return value_.get(); }

 private:
  static std::vector<std::unique_ptr<T>>& Shelf() {
    static thread_local std::vector<std::unique_ptr<T>> shelf;
    return shelf;
  }

  std::unique_ptr<T> value_;
};

}  // namespace tokenflow

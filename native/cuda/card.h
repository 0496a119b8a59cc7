// A card, and what everything that runs on it shares: its shape, the streams, and whether its context was lost.
#pragma once
#include <mutex>
#include <string>

#include "driver.h"
#include "lookup_plan.h"

namespace tokenflow::cuda {

class Card {
 public:
  // Throws DeviceError.
  explicit Card(int index);

  int index() const { return index_; }
  const CardShape& shape() const { return shape_; }
  const Stream& stream() const { return stream_; }  // of kernels
  // Of copies that run beside the kernels of other batches (program.cc).
  const Stream& uploads() const { return uploads_; }
  const Stream& downloads() const { return downloads_; }

  // Free bytes now, and all of them.
  struct Space {
    size_t free, total;
  };
  Space Memory() const;

  // Runs `body` with this card as the thread's current one, on any thread. A DeviceError that leaves no context marks the
  // card lost; every later call throws ERR_TOKENFLOW_BACKEND_UNAVAILABLE with the reason and touches the driver no more.
  template <class Body>
  auto Use(Body&& body) -> decltype(body()) {
    ThrowIfLost();
    try {
      const OnDevice current(index_);
      return body();
    } catch (const DeviceError& error) {
      if (IsRecoverable(error.status)) throw;
      MarkLost(error.what());
      ThrowIfLost();
      throw;
    }
  }

  // Why it was lost; empty while it was not.
  std::string LostReason() const;

 private:
  void MarkLost(const std::string& reason);
  void ThrowIfLost() const;

  const int index_;
  const CardShape shape_;
  const Stream stream_, uploads_, downloads_;
  mutable std::mutex mutex_;
  std::string lost_;
};

}  // namespace tokenflow::cuda

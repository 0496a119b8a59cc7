// What the codebook calls on a card work with, one call at a time: memory that grows to the largest call so far, and pinned
// host memory that arrays of the host pass through, in pieces.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "card.h"

namespace tokenflow::cuda {

// Between the host's arrays and the card. A copy up is in the stream when Upload returns, and the array may go; a copy down
// is in its array after Finish.
class Staging {
 public:
  explicit Staging(const Stream& stream) : stream_(stream) {}

  void Upload(void* to, const void* from, size_t bytes);
  void Download(void* to, const void* from, size_t bytes);
  // Waits for everything in the stream, and completes the downloads.
  void Finish();
  // After a failure: waits, and forgets what was under way.
  void Drop();

 private:
  struct Landing {
    void* to;
    const unsigned char* from;
    size_t bytes;
  };
  unsigned char* Take(size_t bytes);

  const Stream& stream_;
  PinnedMemory pinned_;
  size_t used_ = 0;
  std::vector<Landing> landings_;
};

// What is made of lookups has memory of its own beside theirs.
enum class Layer { kLookup, kQuantizer };

class Workspace {
 public:
  explicit Workspace(std::shared_ptr<Card> card) : card_(std::move(card)), staging_(card_->stream()) {}

  Card& card() const { return *card_; }
  Staging& staging() { return staging_; }

  // Bytes a call may count on: what its layer has already, or a good part of what is free.
  size_t Budget(Layer layer) const;

  // At least so many, until the next call of that layer. Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY, naming the purpose.
  void* Reserve(Layer layer, size_t bytes, const std::string& purpose);

  // Memory that stays. Throws likewise.
  DeviceMemory Allocate(size_t bytes, const std::string& purpose);

  // Runs `body` on the card; what it put into the stream has ended when this returns or throws.
  template <class Body>
  auto Call(Body&& body) -> decltype(body()) {
    return card_->Use([&] {
      try {
        return body();
      } catch (...) {
        staging_.Drop();
        throw;
      }
    });
  }

 private:
  const std::shared_ptr<Card> card_;
  Staging staging_;
  DeviceMemory memory_[2];  // by layer
};

}  // namespace tokenflow::cuda

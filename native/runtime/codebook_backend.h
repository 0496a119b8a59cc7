// What a device does for the codebook layer, and the memory on it that calls hand on to each other. Every device gives the
// indices, distances and sums of the CPU, bit for bit.
//
// A device's functions are called as jobs of its queue (runtime/queue.h) but for Place, which only notes down; whatever lies
// on a device is destroyed by one too.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "codebook/pack.h"
#include "codebook/plan.h"
#include "runtime/queue.h"

namespace tokenflow {

class Codebook;

// What a call reads or fills: an array in the host's memory, or one in the memory of the call's device. For the CPU the
// two are the same. `data` is null where a result is not wanted.
struct Operand {
  void* data = nullptr;
  bool on_device = false;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Memory on a device.
class PlacedBuffer {
 public:
  virtual ~PlacedBuffer() = default;
  virtual Operand operand() const = 0;
  virtual int64_t bytes() const = 0;
};

enum class QueryFormat { kFloat32, kFloat16, kBFloat16 };

struct NearestRequest {
  Operand queries;  // [N][dim] in the format
  QueryFormat format = QueryFormat::kFloat32;
  int64_t n = 0;
  int k = 1;
  const float* weights = nullptr;  // [part], in the host's memory; null for ones
  // All but the indices may be left out.
  Operand indices;                      // int32 [N][k]
  Operand distances;                    // float [N][k]
  std::vector<Operand> part_distances;  // by part, or none: float [N][k]
  Operand margins;  // float [N]: |second best distance - best|; NaN without a best, inf without a second
  Operand codes;    // float [N][dim]: the nearest code, NaN where there is none
  Operand errors;   // float [N]: squared distance from it, unweighted
  Operand counts;   // int32 [codes]: queries by nearest code
};

struct NearestReport {
  int64_t first_missing = -1;  // the first query without a nearest code
};

// What lookups on a codebook did, added up over its life.
struct LookupCounts {
  int64_t queries;
  int64_t screened;      // queries answered by the screen
  int64_t exact_scores;  // codes scored exactly for those
};

// A codebook where its lookups run.
class PlacedCodebook {
 public:
  virtual ~PlacedCodebook() = default;
  virtual int64_t bytes() const = 0;  // on the device
  virtual LookupCounts counts() const = 0;
  virtual const char* screen_name() const = 0;  // null where there is none
  // Whether so many queries take less time than handing them to another thread.
  virtual bool IsBrief(int64_t n, const float* weights) const { return false; }
  // Stops early, with unspecified results, once `cancelled` is set.
  virtual NearestReport Nearest(const NearestRequest& request, const CancelFlag& cancelled) const = 0;
  // rows[i] = code indices[i] as it is compared. Throws Error on an index out of range.
  virtual void Gather(const Operand& indices, int64_t n, const Operand& rows) const = 0;
};

class CodebookBackend {
 public:
  virtual ~CodebookBackend() = default;
  // Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY.
  virtual std::unique_ptr<PlacedBuffer> Allocate(int64_t bytes) = 0;
  virtual void Copy(const Operand& to, const Operand& from, int64_t bytes) = 0;
  // Shares the codes with the host. What it needs on the device goes there with its first call.
  virtual std::unique_ptr<PlacedCodebook> Place(std::shared_ptr<const Codebook> codebook,
                                                ScreenMode screen) = 0;
};

}  // namespace tokenflow

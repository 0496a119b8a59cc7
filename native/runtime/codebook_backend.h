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

// What one step of k-means needs to know of an assignment of the rows to codes.
struct RowAssignment {
  int64_t first_missing = -1;     // the first row without a nearest code; the rest then is unspecified
  int64_t moved = 0;              // rows whose code is another than in the assignment before; 0 without one
  std::vector<double> distances;  // of the rows from their codes, summed block by block
};

// Sums over the rows of each code, one row after the other in double.
struct RowSums {
  std::vector<int64_t> counts;
  std::vector<double> sums;       // [code][dim]
  std::vector<double> distances;  // [code]
};

// The rows of k-means where the passes over them run (codebook/kmeans.h). A block is of 4096 rows.
class PlacedRows {
 public:
  virtual ~PlacedRows() = default;
  virtual int64_t count() const = 0;
  virtual int dim() const = 0;
  // Comes first. Throws Error when a row is not finite. Makes them unit vectors where asked.
  virtual void Prepare(bool normalize) = 0;
  virtual std::vector<float> Row(int64_t row) const = 0;
  // Keeps of every row its squared distance from the nearest of all codes seen since `first`; its sums by block.
  virtual std::vector<double> LowerNearest(const float* codes, int64_t count,
                                           bool first) = 0;  // [count][dim]
  virtual std::vector<float> Nearest(int64_t begin, int64_t end) const = 0;
  virtual RowAssignment Assign(const float* codes, int64_t count, Metric metric,
                               const CancelFlag& cancelled) = 0;
  // Of the last assignment.
  virtual RowSums Sums(int64_t codes) = 0;
  // The row of each of these codes that is farthest from it, the first of equal ones. After Sums.
  virtual std::vector<int64_t> Farthest(const std::vector<int32_t>& codes) const = 0;
};

// A residual quantiser where it runs (codebook/residual.h).
class PlacedResidual {
 public:
  virtual ~PlacedResidual() = default;
  virtual void Encode(const Operand& x,  // float [n][dim]
                      int64_t n, int beam,
                      const Operand& indices,  // int32 [n][stages]
                      const Operand& sum,      // float [n][dim]
                      const Operand& errors,   // float [n]
                      const CancelFlag& cancelled) const = 0;
  virtual void Decode(const Operand& indices,  // int32 [n][stages]
                      int64_t n, int stages,
                      const Operand& sum,  // float [n][dim]
                      const CancelFlag& cancelled) const = 0;
};

// A product quantiser where it runs (codebook/product.h).
class PlacedProduct {
 public:
  virtual ~PlacedProduct() = default;
  virtual void Encode(const Operand& x,  // float [n][dim]
                      int64_t n,
                      const Operand& indices,    // int32 [n][groups]
                      const Operand& quantized,  // float [n][dim]
                      const CancelFlag& cancelled) const = 0;
  virtual void Decode(const Operand& indices,  // int32 [n][groups]
                      int64_t n,
                      const Operand& quantized) const = 0;  // float [n][dim]
};

using PlacedCodebooks = std::vector<std::shared_ptr<const PlacedCodebook>>;

class CodebookBackend {
 public:
  virtual ~CodebookBackend() = default;
  // Throws Error with ERR_TOKENFLOW_OUT_OF_MEMORY.
  virtual std::unique_ptr<PlacedBuffer> Allocate(int64_t bytes) = 0;
  virtual void Copy(const Operand& to, const Operand& from, int64_t bytes) = 0;
  // Shares the codes with the host. What it needs on the device goes there with its first call.
  virtual std::unique_ptr<PlacedCodebook> Place(std::shared_ptr<const Codebook> codebook,
                                                ScreenMode screen) = 0;

  // Counts and sums of all codes (codebook/code_sums.h). Throws Error on an index out of range or a row that is not finite.
  virtual void SumByCode(const Operand& x,        // float [n][dim]
                         const Operand& indices,  // int32 [n]
                         int64_t n, int dim, int64_t codes, bool normalize,
                         double* counts,  // [codes]
                         double* sums,    // [codes][dim]
                         const CancelFlag& cancelled) = 0;

  // Copies the rows. Notes down, as Place does.
  virtual std::unique_ptr<PlacedRows> PlaceRows(const float* x, int64_t n, int dim) = 0;  // [n][dim]

  // Of codebooks that this backend placed. Throw Error where they make no quantiser.
  virtual std::unique_ptr<PlacedResidual> PlaceResidual(const PlacedCodebooks& stages) = 0;
  virtual std::unique_ptr<PlacedProduct> PlaceProduct(const PlacedCodebooks& groups) = 0;
};

}  // namespace tokenflow

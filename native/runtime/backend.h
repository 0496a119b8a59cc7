// Where programs run. A backend compiles a checked graph and runs it; the CPU is one, each card of the CUDA library, which
// is loaded on first need, another. Across that border go plain structs, pointers, these three classes and those of
// codebook_backend.h, nothing of N-API.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/codebook_backend.h"
#include "runtime/graph.h"
#include "runtime/queue.h"

namespace tokenflow {

struct MissingWeight {
  std::string name;
  std::vector<int64_t> shape;  // 0 where the graph leaves an extent open
};

struct ProgramMemory {
  int64_t activations;  // bytes of the arena
  int64_t scratch;      // bytes the steps share besides
};

struct OpTime {
  const char* op;
  double milliseconds;
};

// The packed weights of a model on a device, shared by its programs, and the memory its programs run in.
class WeightStore {
 public:
  virtual ~WeightStore() = default;
  virtual int64_t Bytes() const = 0;
};

class Program {
 public:
  virtual ~Program() = default;
  virtual const Graph& graph() const = 0;
  virtual std::vector<MissingWeight> MissingWeights() const = 0;
  // Packs one tensor. Throws Error when the program does not want it or its size is wrong.
  virtual void SetWeight(const std::string& name, const float* data, int64_t count) = 0;
  virtual ProgramMemory Memory() const = 0;
  // `inputs` and `outputs` in the order of the graph's ports, in host memory, of the ports' sizes. On the
  // device's compute thread only. Stops between ops once `cancelled` is set, the outputs then unspecified.
  virtual void Run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                   const CancelFlag& cancelled) = 0;
  // As Run, but returns once the device has its work. What is returned, unless that is empty, waits for the results: to be
  // called on the same thread, program and outputs still being there. Between the two another run may be started.
  virtual std::function<void()> Start(const std::vector<const void*>& inputs,
                                      const std::vector<void*>& outputs, const CancelFlag& cancelled) {
    Run(inputs, outputs, cancelled);
    return {};
  }
  // By op of the graph, over the runs so far.
  virtual std::vector<OpTime> Profile() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual CodebookBackend& codebooks() = 0;
  virtual std::shared_ptr<WeightStore> CreateStore() = 0;
  // `store` is one of this backend's. Throws Error with ERR_TOKENFLOW_BACKEND_UNAVAILABLE for a precision
  // that the device lacks.
  virtual std::shared_ptr<Program> Compile(const Graph& graph, std::shared_ptr<WeightStore> store,
                                           Precision precision) = 0;
  virtual bool Supports(Precision precision) const = 0;
  // Why the device cannot be used any more; empty while it can.
  virtual std::string LostReason() const { return {}; }
};

Backend& CpuBackend();

// The CPU's program over `lanes` times the graph's images, each lane of one thread doing its own: faster than a program
// whose threads share every op, where there are as many images as threads. `store` is the CPU's.
std::shared_ptr<Program> CompileCpuLanes(const Graph& graph, std::shared_ptr<WeightStore> store,
                                         Precision precision, int lanes);

// By name: 'cpu', 'cuda:0', 'cuda:1', ... Throws Error with ERR_TOKENFLOW_BACKEND_UNAVAILABLE and the reason.
Backend& FindBackend(const std::string& device);

}  // namespace tokenflow

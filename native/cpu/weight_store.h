// The packed weights of a model on the CPU, and the memory its programs run in.
#pragma once
#include <string>

#include "runtime/buffer.h"
#include "runtime/packed_weights.h"

namespace tokenflow {

class CpuWeightStore : public PackedWeights {
 public:
  // At least `bytes` of memory, for the program that runs now: on the compute thread there is one at a time.
  char* Workspace(int64_t bytes, const std::string& purpose) {
    if (bytes > workspace_.bytes()) {
      workspace_ = Buffer();  // the old one goes first: both need not fit
      workspace_ = Buffer(bytes, purpose);
    }
    return workspace_.as<char>();
  }

 private:
  Buffer workspace_;
};

}  // namespace tokenflow

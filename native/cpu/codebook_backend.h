// The codebook layer on the CPU.
#pragma once
#include "runtime/codebook_backend.h"

namespace tokenflow {

CodebookBackend& CpuCodebooks();

}  // namespace tokenflow

#pragma once

namespace tokenflow {

// What lib/graph/ops.ts says of each.
enum class Activation { kNone, kTanh, kGelu, kGeluTanh, kQuickGelu, kSwish };

}  // namespace tokenflow

// Where a 16-byte chunk of a tile row lies in shared memory, without padding and without bank conflicts: when eight lanes
// read the same chunk of eight neighbouring rows, as float4 loads and ldmatrix do, the eight addresses fall into the
// eight different 16-byte columns of the banks.
#pragma once
#include "device.cuh"

namespace tokenflow::cuda {

// kChunks 16-byte chunks a row, 2 or 4: 4 or 2 rows share a 128-byte line, so the chunk is turned by the row's line.
template <int kChunks>
DEVICE int SwizzledOffset(int row, int chunk) {
  static_assert(kChunks == 2 || kChunks == 4, "rows of 32 or 64 bytes");
  const int turn = kChunks == 4 ? (row >> 1) & 3 : (row >> 2) & 1;
  return row * kChunks * 16 + ((chunk ^ turn) << 4);
}

}  // namespace tokenflow::cuda

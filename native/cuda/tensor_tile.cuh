// A warp's share of a matrix product on tensor cores: acc(kWarpRows x kWarpColumns) += A B^T, bf16 in shared memory, fp32
// accumulators in registers.
//
// A stage holds 32 k: rows of 64 bytes, four 16-byte chunks, for A (rows m) and for B (rows n). In A chunk c of row r lies at
// c ^ (r / 2 % 4) (swizzle.cuh). In B it lies at c ^ (r / 8 % 4), because B's rows are visited in another order:
//
// Column permutation. In every group of 32 columns the mma's column (tile j, column 2t + e) is fed with column 8t + 2j + e,
// by the choice of the rows whose addresses ldmatrix gets. A thread then owns 8 neighbouring columns of a row instead of 4
// pairs, so an epilogue reads and writes 16 bytes of bf16 at once, straight from registers. The 8 rows of one ldmatrix
// phase are r, r+1, r+8, r+9, r+16, ...: the swizzle by r / 8 puts them into different banks.
//
// With g = lane / 4 and t = lane % 4 the thread holds rows 16 i + g + 8 h and columns 32 q + 8 t + e: at(i, h, q, e).
#pragma once
#include "mma.cuh"
#include "swizzle.cuh"

namespace tokenflow::cuda {

constexpr int kStageK = 32;    // k of one stage
constexpr int kRowBytes = 64;  // of a stage's row
constexpr int kRowChunks = 4;  // 16-byte chunks of a row

DEVICE int OffsetA(int row, int chunk) {
  return SwizzledOffset<kRowChunks>(row, chunk);
}
DEVICE int OffsetB(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ ((row >> 3) & 3)) << 4);
}

template <int kWarpRows, int kWarpColumns>
class TensorTile {
 public:
  static_assert(kWarpRows % 16 == 0 && kWarpColumns % 32 == 0, "whole fragments");
  static constexpr int kRowTiles = kWarpRows / 16;
  static constexpr int kColumnGroups = kWarpColumns / 32;

  DEVICE float& at(int i, int h, int q, int e) { return acc_[i][q * 4 + (e >> 1)][2 * h + (e & 1)]; }
  DEVICE float at(int i, int h, int q, int e) const { return acc_[i][q * 4 + (e >> 1)][2 * h + (e & 1)]; }

  DEVICE void Clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles; i++) {
#pragma unroll
      for (int j = 0; j < kColumnGroups * 4; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) acc_[i][j][e] = 0.0f;
      }
    }
  }

  // One stage, or its first half (k_steps 1: 16 k). row0 and column0 are the warp's corner in the block's tile.
  DEVICE void Multiply(const unsigned char* a, const unsigned char* b, int row0, int column0, int lane,
                       int k_steps = 2) {
    MultiplyAt<16 * kRowBytes>(a, OffsetA(row0 + (lane & 15), lane >> 4), b, column0, lane, k_steps);
  }

  // The same with the rows of A anywhere: a_offset is where the lane's chunk lies (row lane % 16 of the first row tile, chunk
  // lane / 16), kRowTile the bytes from there to the next row tile. Of the rows a thread addresses, the next tiles' in A and 4
  // or 32 further in B, all have the same swizzle: one address each, plus constants.
  template <int kRowTile>
  DEVICE void MultiplyAt(const unsigned char* a, int a_offset, const unsigned char* b, int column0, int lane,
                         int k_steps = 2) {
    const int b_offset =
        OffsetB(column0 + ((lane & 7) >> 1) * 8 + (lane & 1) + (lane >> 4) * 2, (lane >> 3) & 1);
#pragma unroll
    for (int step = 0; step < 2; step++) {
      if (step >= k_steps) break;
      const unsigned char* a_lane = a + (a_offset ^ (step * 32));  // two chunks further
      const unsigned char* b_lane = b + (b_offset ^ (step * 32));
      // The fragments of one side stay in registers while the other side's pass by: the fewer of the two.
      if constexpr (kRowTiles * 4 < kColumnGroups * 8) {
        uint32_t fa[kRowTiles][4];
#pragma unroll
        for (int i = 0; i < kRowTiles; i++) LoadMatrix4(fa[i], a_lane + i * kRowTile);
#pragma unroll
        for (int pair = 0; pair < kColumnGroups * 2; pair++) {
          uint32_t fb[4];
          LoadMatrix4(fb, b_lane + ((pair >> 1) * 32 + (pair & 1) * 4) * kRowBytes);
#pragma unroll
          for (int i = 0; i < kRowTiles; i++) {
            MmaBf16(acc_[i][pair * 2], fa[i], fb);
            MmaBf16(acc_[i][pair * 2 + 1], fa[i], fb + 2);
          }
        }
      } else {
        uint32_t fb[kColumnGroups * 2][4];
#pragma unroll
        for (int pair = 0; pair < kColumnGroups * 2; pair++) {
          LoadMatrix4(fb[pair], b_lane + ((pair >> 1) * 32 + (pair & 1) * 4) * kRowBytes);
        }
#pragma unroll
        for (int i = 0; i < kRowTiles; i++) {
          uint32_t fa[4];
          LoadMatrix4(fa, a_lane + i * kRowTile);
#pragma unroll
          for (int j = 0; j < kColumnGroups * 4; j++) MmaBf16(acc_[i][j], fa, fb[j >> 1] + (j & 1) * 2);
        }
      }
    }
  }

 private:
  float acc_[kRowTiles][kColumnGroups * 4][4];
};

}  // namespace tokenflow::cuda

// What the producer of a map leaves behind for the group norm of it, so that nobody reads the map again for its statistics:
// count, mean and M2 = sum (v - mean)^2 of each piece of the map, a piece being some pixels of one image by four neighbouring
// channels (a quad). Which pixels is the producer's own choice (what one warp holds), but a function of the image's extents
// alone, never of the batch, the tile or the card; and a piece says how many it has. So the same bits come in any batch.
//
// Mean first, then the squares about it, both from the values as they are stored (after activation, residual and rounding),
// while they still lie in registers: no offset of the map cancels the squares away, and no memory is read. The lanes that share
// a quad add up in a butterfly, whose result is the same in each of them.
#pragma once
#include "device.cuh"

namespace tokenflow::cuda {

constexpr int kQuad = 4;  // channels

struct Moments {
  float* at = nullptr;  // [images][pieces][3][quads]: count, mean, M2; null: nobody wants them
  int pieces = 0;       // of an image
  int quads = 0;

  DEVICE void Store(int image, int piece, int quad, float count, float mean, float squares) const {
    float* to = at + (static_cast<int64_t>(image) * pieces + piece) * 3 * quads + quad;
    to[0] = count;
    to[quads] = mean;
    to[2 * quads] = squares;
  }
};

// Over the lanes that differ in the bits of kLanes; every lane of the warp has to come.
template <int kLanes>
DEVICE float SumOverLanes(float v) {
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
    if (kLanes & bit) v += __shfl_xor_sync(kFullWarp, v, bit);
  }
  return v;
}

// The moments of `count` values (0 too) spread over the lanes of kLanes. visit(f) calls f with each of the calling lane's.
template <int kLanes, class Visit>
DEVICE void MomentsOfLanes(float count, Visit visit, float* mean, float* squares) {
  float sum = 0.0f;
  visit([&](float v) { sum += v; });
  sum = SumOverLanes<kLanes>(sum);
  const float centre = count > 0.0f ? __fdiv_rn(sum, count) : 0.0f;
  float square = 0.0f;
  visit([&](float v) { square = fmaf(v - centre, v - centre, square); });
  *mean = centre;
  *squares = SumOverLanes<kLanes>(square);
}

// Of a strip of 32 rows of a warp's tensor tile (tensor_tile.cuh): row tiles 2 strip and 2 strip + 1, the lane's eight columns
// q as two quads. inside(i, h) says whether the lane's row (i, h) exists; `rows` of the strip do. Rows of the lanes are spread
// over lane / 4.
template <class Tile, class Inside>
DEVICE void StoreStripMoments(const Tile& tile, int strip, int q, int lane, int rows, Inside inside,
                              const Moments& to, int image, int piece, int column, bool column_inside) {
#pragma unroll
  for (int u = 0; u < 2; u++) {
    const float count = static_cast<float>(rows * kQuad);
    float mean, squares;
    MomentsOfLanes<4 | 8 | 16>(
        count,
        [&](auto f) {
#pragma unroll
          for (int i = 2 * strip; i < 2 * strip + 2; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
              if (!inside(i, h)) continue;
#pragma unroll
              for (int e = 0; e < kQuad; e++) f(tile.at(i, h, q, u * kQuad + e));
            }
          }
        },
        &mean, &squares);
    if ((lane >> 2) == u && column_inside && piece < to.pieces) {
      to.Store(image, piece, column / kQuad + u, count, mean, squares);
    }
  }
}

}  // namespace tokenflow::cuda

// The 3x3 convolution of a group-normalised map, the norm applied as the map is loaded; see halo_conv.cu.
#pragma once
#include "gemm.cuh"
#include "group_norm.cuh"

namespace tokenflow::cuda {

// x as it is before the norm: [images][height][width][channels] in bf16, channels a multiple of 8. Padding of one zero pixel
// on every side, of the normalised map.
struct NormedMap {
  const uint16_t* x;
  int height, width, channels;
  Scales scales;
  bool swish;
};

enum class HaloTile { k128Columns, k64Columns };

// A pure function of the shapes and the card; the choice changes no result.
HaloTile ChooseHaloTile(int height, int width, int columns, int images, int multiprocessors);

// Whether patches of 8 x 16 pixels cover a map without more waste than the rows of an implicit GEMM do, or a little more.
bool HaloFits(int height, int width);

// The pieces of an image's map in Epilogue::moments.
int HaloPieces(int height, int width);

// y[pixel][column] = activation(sum over taps and channels of normed(x) W + bias) + residual, as Gemm has it; W is packed
// [columns][9][channels]. y may be neither x nor overlap it.
template <class Out>
void HaloConv(const NormedMap& map, const PackedColumns<uint16_t>& w, int images, const Epilogue& epilogue,
              HaloTile tile, const ResultRows<Out>& y, cudaStream_t stream);

}  // namespace tokenflow::cuda

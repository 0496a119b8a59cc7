// From decoded pixels of any layout to the square RGB picture that a model reads, as the official evaluation
// does it with Pillow.
#pragma once
#include <cstdint>

namespace tokenflow {

enum class PixelLayout { kGrey, kGreyAlpha, kRgb, kRgba, kCmyk };

int Channels(PixelLayout layout);

struct Raster {
  const uint8_t* pixels;  // [height][width][Channels(layout)]
  int64_t width, height;
  PixelLayout layout;
};

enum class Fit {
  kCrop,    // halve with BOX while the shorter side is >= 2 size, BICUBIC to size, centre crop
  kSquash,  // BICUBIC to size x size, whatever the aspect
  kPad,     // centred in a square of grey 127, then BICUBIC to size x size
};

// Alpha is laid over white; CMYK becomes (255 - ink)(255 - K) / 255, as Pillow's convert('RGB') has it.
void PrepareImage(const Raster& raster, Fit fit, int64_t size,
                  uint8_t* out);  // [size][size][3]

}  // namespace tokenflow

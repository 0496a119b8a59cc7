#include "image/prepare.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "image/resize.h"

namespace tokenflow {

namespace {

constexpr uint8_t kPadGrey = 127;  // int(255 * 0.5)

// round(a * b / 255) for bytes.
inline uint8_t MultiplyBytes(int a, int b) {
  const int product = a * b + 128;
  return static_cast<uint8_t>((product + (product >> 8)) >> 8);
}

// round((value * alpha + 255 * (255 - alpha)) / 255)
inline uint8_t OverWhite(int value, int alpha) {
  const int sum = value * alpha + 255 * (255 - alpha) + 128;
  return static_cast<uint8_t>((sum + (sum >> 8)) >> 8);
}

void ToRgb(PixelLayout layout, const uint8_t* in, int64_t n, uint8_t* out) {
  switch (layout) {
    case PixelLayout::kRgb:
      std::copy(in, in + 3 * n, out);
      break;
    case PixelLayout::kGrey:
      for (int64_t i = 0; i < n; i++) out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = in[i];
      break;
    case PixelLayout::kGreyAlpha:
      for (int64_t i = 0; i < n; i++) {
        out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = OverWhite(in[2 * i], in[2 * i + 1]);
      }
      break;
    case PixelLayout::kRgba:
      for (int64_t i = 0; i < n; i++) {
        for (int c = 0; c < 3; c++) out[3 * i + c] = OverWhite(in[4 * i + c], in[4 * i + 3]);
      }
      break;
    case PixelLayout::kCmyk:
      for (int64_t i = 0; i < n; i++) {
        const int light = 255 - in[4 * i + 3];
        for (int c = 0; c < 3; c++) {
          out[3 * i + c] = static_cast<uint8_t>(light - MultiplyBytes(in[4 * i + c], light));
        }
      }
      break;
  }
}

RowReader Rows(const Raster& raster) {
  const int64_t stride = raster.width * Channels(raster.layout);
  if (raster.layout == PixelLayout::kRgb) {
    return [=](int64_t y, uint8_t*) { return raster.pixels + y * stride; };
  }
  return [=](int64_t y, uint8_t* scratch) {
    ToRgb(raster.layout, raster.pixels + y * stride, raster.width, scratch);
    return static_cast<const uint8_t*>(scratch);
  };
}

struct Stage {
  Axis x, y;
};

// The stages that make the centre crop, each limited to what the next one reads.
std::vector<Stage> CropStages(int64_t width, int64_t height, int64_t size) {
  struct Step {
    Filter filter;
    int64_t width, height;
  };
  std::vector<Step> steps{{Filter::kBox, width, height}};
  while (std::min(width, height) >= 2 * size) {
    width /= 2;
    height /= 2;
    steps.push_back({Filter::kBox, width, height});
  }
  const double scale = static_cast<double>(size) / static_cast<double>(std::min(width, height));
  // nearbyint rounds halves to even, as Python's round does.
  width = static_cast<int64_t>(std::nearbyint(static_cast<double>(width) * scale));
  height = static_cast<int64_t>(std::nearbyint(static_cast<double>(height) * scale));
  steps.push_back({Filter::kBicubic, width, height});

  const int64_t left = (width - size) / 2, top = (height - size) / 2;
  Span columns{left, left + size}, rows{top, top + size};
  std::vector<Stage> stages;
  for (size_t s = steps.size() - 1; s > 0; s--) {
    Stage stage{Axis(steps[s].filter, steps[s - 1].width, steps[s].width, columns),
                Axis(steps[s].filter, steps[s - 1].height, steps[s].height, rows)};
    if (s > 1) {
      columns = stage.x.support();
      rows = stage.y.support();
      stage.x.Restrict(columns, 0);
      stage.y.Restrict(rows, 0);
    }
    stages.push_back(std::move(stage));
  }
  std::reverse(stages.begin(), stages.end());
  return stages;
}

std::vector<Stage> SquareStages(int64_t width, int64_t height, Fit fit, int64_t size) {
  const Span all{0, size};
  if (fit == Fit::kSquash) {
    return {{Axis(Filter::kBicubic, width, size, all), Axis(Filter::kBicubic, height, size, all)}};
  }
  const int64_t side = std::max(width, height);
  const int64_t left = (side - width) / 2, top = (side - height) / 2;
  Axis x(Filter::kBicubic, side, size, all), y = x;
  x.Restrict({left, left + width}, kPadGrey);
  y.Restrict({top, top + height}, kPadGrey);
  return {{std::move(x), std::move(y)}};
}

}  // namespace

int Channels(PixelLayout layout) {
  switch (layout) {
    case PixelLayout::kGrey:
      return 1;
    case PixelLayout::kGreyAlpha:
      return 2;
    case PixelLayout::kRgb:
      return 3;
    default:
      return 4;
  }
}

void PrepareImage(const Raster& raster, Fit fit, int64_t size, uint8_t* out) {
  const std::vector<Stage> stages = fit == Fit::kCrop ? CropStages(raster.width, raster.height, size)
                                                      : SquareStages(raster.width, raster.height, fit, size);
  std::vector<uint8_t> current, next;
  RowReader rows = Rows(raster);
  int64_t width = raster.width;
  for (size_t s = 0; s < stages.size(); s++) {
    const Stage& stage = stages[s];
    const bool last = s + 1 == stages.size();
    if (!last) next.resize(static_cast<size_t>(3 * stage.x.size() * stage.y.size()));
    Resize(rows, width, stage.x, stage.y, last ? out : next.data());
    current.swap(next);
    width = stage.x.size();
    rows = [pixels = current.data(), stride = 3 * width](int64_t y, uint8_t*) { return pixels + y * stride; };
  }
}

}  // namespace tokenflow

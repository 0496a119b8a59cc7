#include "cpu/winograd.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cpu/winograd_kernels.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {
namespace {

constexpr int64_t kLine = 16;                            // floats of a cache line
constexpr int64_t kRegionColumns = 16;                   // tiles
constexpr int64_t kBlockTiles = 64;                      // tiles multiplied at a time
constexpr int64_t kInputChannels = 64;                   // channels transformed at a time
constexpr int64_t kSuperblockFloats = int64_t{9} << 17;  // of transformed input, per thread (4.5 MiB)

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

const WinogradKernels& ActiveKernels() {
  return ActiveSimdLevel() == SimdLevel::kAvx512 ? WinogradKernelsAvx512() : WinogradKernelsAvx2();
}

// How the planes of a call are cut. Regions depend on one image's size alone, so that sums over a region are
// the same in any batch.
struct Regions {
  int64_t rows, columns;            // tiles of one image
  int64_t row_parts, column_parts;  // regions of one image

  Regions(int64_t height, int64_t width)
      : rows(CeilDiv(height, kWinogradTile)), columns(CeilDiv(width, kWinogradTile)) {
    column_parts = CeilDiv(columns, kRegionColumns);
    row_parts = CeilDiv(rows, std::max<int64_t>(1, kBlockTiles / CeilDiv(columns, column_parts)));
  }

  int64_t PerImage() const { return row_parts * column_parts; }
  int64_t MaxTiles() const { return CeilDiv(rows, row_parts) * CeilDiv(columns, column_parts); }
  int64_t PatchPixels() const { return 6 * (CeilDiv(columns, column_parts) * kWinogradTile + 2); }

  WinogradRegion At(int64_t index) const {
    const int64_t within = index % PerImage(), i = within / column_parts, j = within % column_parts;
    WinogradRegion region;
    region.image = index / PerImage();
    region.tile_row = rows * i / row_parts;
    region.tile_rows = rows * (i + 1) / row_parts - region.tile_row;
    region.tile_col = columns * j / column_parts;
    region.tile_cols = columns * (j + 1) / column_parts - region.tile_col;
    return region;
  }
};

// Sizes of everything Run uses. A block is some regions whose tiles are multiplied together; a superblock is
// the blocks that share one expansion of the weights.
struct Plan {
  Regions regions;
  int64_t region_count;
  int64_t block_regions;        // regions of a block
  int64_t superblock_blocks;    // blocks of a superblock
  int64_t panels, tile_groups;  // a superblock's products are panels x tile_groups tasks
  int64_t weight_channels;      // input channels expanded at a time

  int64_t v_group, v_frequency, v_block;  // strides in floats
  int64_t u_frequency;
  int64_t m_frequency;
  int64_t patch_floats, u_floats, m_floats;  // per thread
  int64_t sums_region;                       // doubles per region
  size_t v_at, threads_at, per_thread, sums_at, bytes;

  Plan(const Conv3x3Call& call, int64_t cin, int64_t cout, int64_t threads)
      : regions(call.height, call.width) {
    region_count = call.batch * regions.PerImage();
    block_regions = std::max<int64_t>(1, kBlockTiles / regions.MaxTiles());
    const int64_t block_tiles = block_regions * regions.MaxTiles();
    v_group = block_tiles * kWinogradGroup;
    v_frequency =
        cin * block_tiles + kLine;  // the extra line keeps frequencies out of each other's cache sets
    v_block = kWinogradFrequencies * v_frequency;
    const int64_t blocks = CeilDiv(region_count, block_regions);
    const int64_t most = std::max<int64_t>(1, threads * kSuperblockFloats / v_block);
    superblock_blocks = CeilDiv(blocks, CeilDiv(blocks, most));

    panels = CeilDiv(cout, kWinogradPanel);
    tile_groups = 1;
    while (tile_groups < superblock_blocks && panels * tile_groups % threads != 0 &&
           panels * tile_groups < 4 * threads) {
      tile_groups++;
    }
    // With one block to a task the expanded weights are used once: expand little and use it from the L2
    // cache.
    weight_channels = tile_groups == superblock_blocks ? std::min<int64_t>(cin, kWinogradChunk) : cin;
    u_frequency = weight_channels * kWinogradPanel + kLine;
    m_frequency = block_tiles * kWinogradPanel + kLine;

    patch_floats = regions.PatchPixels() * std::min(cin, kInputChannels);
    u_floats = kWinogradFrequencies * u_frequency;
    m_floats = kWinogradFrequencies * m_frequency;
    sums_region = call.group_sums == nullptr ? 0 : 2 * panels * kWinogradPanel;

    const auto align = [](size_t n) { return (n + 63) / 64 * 64; };
    v_at = 0;
    threads_at = align(superblock_blocks * v_block * sizeof(float));
    per_thread = align((patch_floats + u_floats + m_floats) * sizeof(float));
    sums_at = threads_at + threads * per_thread;
    bytes = sums_at + align(region_count * sums_region * sizeof(double));
  }
};

void Check(bool condition, const std::string& message) {
  if (!condition) throw InvalidArgument("convolution: " + message);
}

}  // namespace

bool WinogradConv3x3::Supports(int64_t cin, int64_t cout) {
  return ActiveSimdLevel() != SimdLevel::kScalar && cin > 0 && cout > 0 && cin % kLine == 0 &&
         cout % kLine == 0;
}

WinogradConv3x3::WinogradConv3x3(int64_t cin, int64_t cout, const float* weight, const float* bias)
    : cin_(cin), cout_(cout), weight_(cin * cout * 9), bias_(cout, 0.f) {
  Check(Supports(cin, cout), "Winograd serves multiples of 16 channels at SIMD level avx2 or avx512, not " +
                                 std::to_string(cin) + " to " + std::to_string(cout) + " channels at level " +
                                 SimdLevelName(ActiveSimdLevel()));
  if (bias != nullptr) std::copy(bias, bias + cout, bias_.begin());
  const int64_t panels = CeilDiv(cout, kWinogradPanel);
  ParallelRanges(panels, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t first = begin * kWinogradPanel; first < std::min(cout, end * kWinogradPanel);
         first += kWinogradPanel) {
      const int64_t channels = std::min<int64_t>(kWinogradPanel, cout - first);
      float* out = weight_.data() + first * cin * 9;
      for (int64_t k = 0; k < cin; k++) {
        for (int64_t tap = 0; tap < 9; tap++) {
          for (int64_t c = 0; c < channels; c++) *out++ = weight[((first + c) * cin + k) * 9 + tap];
        }
      }
    }
  });
}

size_t WinogradConv3x3::PackedBytes() const {
  return (weight_.size() + bias_.size()) * sizeof(float);
}

size_t WinogradConv3x3::ScratchBytes(const Conv3x3Call& call, int64_t cin, int64_t cout) {
  return Plan(call, cin, cout, Threads()).bytes;
}

void WinogradConv3x3::Run(const Conv3x3Call& call) const {
  Check(call.batch > 0 && call.height > 0 && call.width > 0, "empty input");
  Check(call.x != nullptr && call.y != nullptr && call.x != call.y, "x and y must be two arrays");
  Check(!call.upsample || (call.height % 2 == 0 && call.width % 2 == 0), "an enlarged plane has even sides");
  Check((call.scale == nullptr) == (call.shift == nullptr), "scale and shift go together");
  Check(call.group_sums == nullptr || (call.groups > 0 && cout_ % call.groups == 0),
        "groups must divide the output channels");
  const Plan plan(call, cin_, cout_, Threads());
  Check(call.scratch_bytes >= plan.bytes && reinterpret_cast<uintptr_t>(call.scratch) % 64 == 0,
        "scratch of " + std::to_string(plan.bytes) + " bytes, 64-byte aligned, expected; " +
            std::to_string(call.scratch_bytes) + " given");

  const WinogradKernels& kernels = ActiveKernels();
  char* const scratch = static_cast<char*>(call.scratch);
  float* const v = reinterpret_cast<float*>(scratch + plan.v_at);
  double* const sums = reinterpret_cast<double*>(scratch + plan.sums_at);
  const auto thread_scratch = [&](int thread) {
    return reinterpret_cast<float*>(scratch + plan.threads_at + thread * plan.per_thread);
  };
  const int64_t x_image = call.height * call.width / (call.upsample ? 4 : 1) * cin_;
  const int64_t y_image = call.height * call.width * cout_;
  const int64_t input_parts = CeilDiv(cin_, kInputChannels);
  const int64_t superblock_regions = plan.superblock_blocks * plan.block_regions;

  // Calls body(region index, its block within the superblock, its first tile within the block).
  const auto for_regions = [&](int64_t first, int64_t last, auto&& body) {
    int64_t tile = 0;
    for (int64_t index = first; index < last; index++) {
      const int64_t within = index % superblock_regions;
      if (within % plan.block_regions == 0) tile = 0;
      const WinogradRegion region = plan.regions.At(index);
      body(index, region, within / plan.block_regions, tile);
      tile += region.tile_rows * region.tile_cols;
    }
  };

  const auto transform_input = [&](int thread, int64_t block_first_region, int64_t part,
                                   int64_t last_region) {
    const int64_t channel = part * kInputChannels, channels = std::min(kInputChannels, cin_ - channel);
    float* const patch = thread_scratch(thread);
    for_regions(block_first_region, last_region,
                [&](int64_t, const WinogradRegion& region, int64_t block, int64_t tile) {
                  const int64_t at = region.image * cin_ + channel;
                  const WinogradInput input = {call.x + region.image * x_image + channel,
                                               call.height,
                                               call.width,
                                               cin_,
                                               call.upsample,
                                               call.scale == nullptr ? nullptr : call.scale + at,
                                               call.shift == nullptr ? nullptr : call.shift + at};
                  kernels.transform_input(input, region, channels, patch,
                                          v + block * plan.v_block + channel / kWinogradGroup * plan.v_group +
                                              tile * kWinogradGroup,
                                          plan.v_group, plan.v_frequency);
                });
  };

  // One panel of output channels over blocks [first_block, last_block) of the superblock that begins at
  // `first_region` and ends before `last_region`.
  const auto multiply = [&](int thread, int64_t panel, bool expanded, int64_t first_region,
                            int64_t last_region, int64_t first_block, int64_t last_block) {
    float* const u = thread_scratch(thread) + plan.patch_floats;
    float* const m = u + plan.u_floats;
    const int64_t channel = panel * kWinogradPanel,
                  channels = std::min<int64_t>(kWinogradPanel, cout_ - channel);
    for (int64_t k = 0; k < cin_; k += plan.weight_channels) {
      const int64_t depth = std::min(plan.weight_channels, cin_ - k);
      if (!expanded) {
        kernels.transform_weights(weight_.data() + (channel * cin_ + k * channels) * 9, depth, channels, u,
                                  plan.u_frequency);
      }
      for (int64_t block = first_block; block < last_block; block++) {
        const int64_t begin = first_region + block * plan.block_regions;
        const int64_t end = std::min(begin + plan.block_regions, last_region);
        int64_t tiles = 0;
        for_regions(begin, end, [&](int64_t, const WinogradRegion& region, int64_t, int64_t) {
          tiles += region.tile_rows * region.tile_cols;
        });
        for (int64_t f = 0; f < kWinogradFrequencies; f++) {
          kernels.multiply(
              v + block * plan.v_block + f * plan.v_frequency + k / kWinogradGroup * plan.v_group,
              plan.v_group, u + f * plan.u_frequency, m + f * plan.m_frequency, tiles, depth, channels,
              k == 0);
        }
        if (k + depth < cin_) continue;
        for_regions(begin, end, [&](int64_t index, const WinogradRegion& region, int64_t, int64_t tile) {
          double* region_sums = nullptr;
          if (call.group_sums != nullptr) {
            region_sums = sums + index * plan.sums_region + 2 * channel;
            std::fill(region_sums, region_sums + 2 * channels, 0.);
          }
          const int64_t at = region.image * y_image + channel;
          const WinogradOutput output = {call.y + at,
                                         call.residual == nullptr ? nullptr : call.residual + at,
                                         bias_.data() + channel,
                                         region_sums,
                                         call.height,
                                         call.width,
                                         cout_};
          kernels.transform_output(m + tile * channels, plan.m_frequency, channels, region, output);
        });
      }
    }
  };

  for (int64_t first = 0; first < plan.region_count; first += superblock_regions) {
    const int64_t last = std::min(first + superblock_regions, plan.region_count);
    const int64_t blocks = CeilDiv(last - first, plan.block_regions);
    ParallelRanges(blocks * input_parts, 1, [&](int thread, int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t region = first + task / input_parts * plan.block_regions;
        transform_input(thread, region, task % input_parts, std::min(region + plan.block_regions, last));
      }
    });
    ParallelRanges(plan.panels * plan.tile_groups, 1, [&](int thread, int64_t begin, int64_t end) {
      int64_t expanded = -1;
      for (int64_t task = begin; task < end; task++) {
        const int64_t panel = task / plan.tile_groups, group = task % plan.tile_groups;
        const int64_t first_block = blocks * group / plan.tile_groups;
        const int64_t last_block = blocks * (group + 1) / plan.tile_groups;
        if (first_block == last_block) continue;
        multiply(thread, panel, panel == expanded && plan.weight_channels == cin_, first, last, first_block,
                 last_block);
        expanded = panel;
      }
    });
  }

  if (call.group_sums == nullptr) return;
  const int64_t group_channels = cout_ / call.groups;
  for (int64_t image = 0; image < call.batch; image++) {
    for (int64_t channel = 0; channel < cout_; channel++) {
      const int64_t panel = channel / kWinogradPanel * kWinogradPanel;
      const int64_t channels = std::min<int64_t>(kWinogradPanel, cout_ - panel);
      double total[2] = {0, 0};
      for (int64_t region = 0; region < plan.regions.PerImage(); region++) {
        const double* at = sums + (image * plan.regions.PerImage() + region) * plan.sums_region + 2 * panel +
                           (channel - panel);
        total[0] += at[0];
        total[1] += at[channels];
      }
      double* group = call.group_sums + 2 * (image * call.groups + channel / group_channels);
      if (channel % group_channels == 0) group[0] = group[1] = 0;
      group[0] += total[0];
      group[1] += total[1];
    }
  }
}

}  // namespace tokenflow

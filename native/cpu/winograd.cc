#include "cpu/winograd.h"

#include <algorithm>
#include <string>

#include "cpu/winograd_kernels.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/parallel.h"

namespace tokenflow {
namespace {

constexpr int64_t kLine = 16;                             // floats of a cache line
constexpr int64_t kRegionColumns = 16;                    // tiles
constexpr int64_t kBlockTiles = 64;                       // tiles multiplied at a time
constexpr int64_t kInputChannels = 64;                    // channels transformed at a time
constexpr int64_t kExpandOnceFloats = int64_t{10} << 18;  // of expanded weights, at most (10 MiB)
constexpr int64_t kExpandOnceBlocks = 2;                  // per thread, at least
constexpr int64_t kSuperblockFloats = int64_t{8} << 18;   // of transformed input, per thread (8 MiB)

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

// Sizes of everything Run uses. A block is some regions whose tiles are multiplied together.
//
// With many tiles and few channels (`expand_once`) all weights are expanded first, and each thread takes one
// block after the other from input to output: the transformed input of a block stays in its own cache.
// Otherwise the expanded weights would be too large to keep or used too little: all threads transform the
// input of a superblock of blocks, then each expands some panels of the weights and multiplies them with the
// whole superblock.
struct Plan {
  Regions regions;
  int64_t block_regions;  // regions of a block
  int64_t blocks;
  bool expand_once;
  int64_t superblock_blocks;    // blocks of a superblock; expand_once: one for each thread
  int64_t panels, tile_groups;  // a superblock's products are panels x tile_groups tasks
  int64_t weight_channels;      // input channels expanded at a time

  int64_t v_group, v_frequency, v_block;  // strides in floats
  int64_t u_frequency, u_panel;
  int64_t m_frequency;
  int64_t patch_floats;
  int64_t sums_region;  // stride in doubles
  size_t v_at, u_at, threads_at, per_thread, sums_at, bytes;

  Plan(const Conv3x3Call& call, int64_t cin, int64_t cout, int64_t threads)
      : regions(call.height, call.width) {
    const int64_t region_count = call.batch * regions.PerImage();
    block_regions = std::max<int64_t>(1, kBlockTiles / regions.MaxTiles());
    blocks = CeilDiv(region_count, block_regions);
    panels = CeilDiv(cout, kWinogradPanel);

    // The extra lines keep the frequencies out of each other's cache sets.
    const int64_t block_tiles = block_regions * regions.MaxTiles();
    v_group = block_tiles * kWinogradGroup;
    v_frequency = cin * block_tiles + kLine;
    v_block = kWinogradFrequencies * v_frequency;
    m_frequency = block_tiles * kWinogradPanel + kLine;

    expand_once = blocks >= kExpandOnceBlocks * threads &&
                  kWinogradFrequencies * cin * panels * kWinogradPanel <= kExpandOnceFloats;
    if (expand_once) {
      superblock_blocks = threads;
      tile_groups = 1;
      weight_channels = cin;
    } else {
      const int64_t most = std::max<int64_t>(1, threads * kSuperblockFloats / v_block);
      superblock_blocks = CeilDiv(blocks, CeilDiv(blocks, most));
      tile_groups = 1;
      while (tile_groups < superblock_blocks && panels * tile_groups % threads != 0 &&
             panels * tile_groups < 4 * threads) {
        tile_groups++;
      }
      // With one block to a task the expanded weights are used once: expand little and use it from the L2
      // cache.
      weight_channels = tile_groups == superblock_blocks ? std::min<int64_t>(cin, kWinogradChunk) : cin;
    }
    u_frequency = weight_channels * kWinogradPanel + kLine;
    u_panel = kWinogradFrequencies * u_frequency;
    patch_floats = regions.PatchPixels() * std::min(cin, kInputChannels);
    sums_region = call.group_sums == nullptr ? 0 : 2 * panels * kWinogradPanel;

    const auto align = [](size_t n) { return (n + 63) / 64 * 64; };
    v_at = 0;
    u_at = v_at + align(superblock_blocks * v_block * sizeof(float));
    threads_at = u_at + align((expand_once ? panels : threads) * u_panel * sizeof(float));
    per_thread = align((patch_floats + kWinogradFrequencies * m_frequency) * sizeof(float));
    sums_at = threads_at + threads * per_thread;
    bytes = sums_at + align(region_count * sums_region * sizeof(double));
  }
};

void Check(bool condition, const std::string& message) {
  if (!condition) throw InvalidArgument("convolution: " + message);
}

// One call on its way.
class Execution {
 public:
  Execution(const Conv3x3Call& call, const Plan& plan, int64_t cin, int64_t cout, const float* weight,
            const float* bias)
      : call_(call), plan_(plan), cin_(cin), cout_(cout), weight_(weight), bias_(bias) {}

  void Run() {
    if (plan_.expand_once) {
      RunBlocks();
    } else {
      for (int64_t first = 0; first < plan_.blocks; first += plan_.superblock_blocks) {
        RunSuperblock(first, std::min(first + plan_.superblock_blocks, plan_.blocks));
      }
    }
    if (call_.group_sums != nullptr) AddGroupSums();
  }

 private:
  void RunBlocks() {
    const int64_t slices = CeilDiv(cin_, kWinogradChunk);
    ParallelRanges(plan_.panels * slices, 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t panel = task / slices, channel = task % slices * kWinogradChunk;
        ExpandWeights(panel, channel, std::min<int64_t>(kWinogradChunk, cin_ - channel),
                      U(panel) + channel * PanelChannels(panel));
      }
    });
    ParallelRanges(plan_.blocks, 1, [&](int thread, int64_t begin, int64_t end) {
      float* const v = V(thread);
      for (int64_t block = begin; block < end; block++) {
        for (int64_t part = 0; part < InputParts(); part++) TransformInput(thread, block, part, v);
        for (int64_t panel = 0; panel < plan_.panels; panel++) {
          Multiply(thread, block, panel, 0, cin_, v, U(panel));
          TransformOutput(thread, block, panel);
        }
      }
    });
  }

  void RunSuperblock(int64_t first, int64_t last) {
    const int64_t blocks = last - first;
    ParallelRanges(blocks * InputParts(), 1, [&](int thread, int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; task++) {
        const int64_t block = task / InputParts();
        TransformInput(thread, first + block, task % InputParts(), V(block));
      }
    });
    ParallelRanges(
        plan_.panels * plan_.tile_groups, 1,
        [&](int thread, int64_t begin, int64_t end) {
          float* const u = U(thread);
          int64_t expanded_panel = -1, expanded_channel = -1;
          for (int64_t task = begin; task < end; task++) {
            const int64_t panel = task / plan_.tile_groups, group = task % plan_.tile_groups;
            const int64_t first_block = blocks * group / plan_.tile_groups;
            const int64_t last_block = blocks * (group + 1) / plan_.tile_groups;
            for (int64_t channel = 0; channel < cin_; channel += plan_.weight_channels) {
              const int64_t depth = std::min(plan_.weight_channels, cin_ - channel);
              if (panel != expanded_panel || channel != expanded_channel) {
                ExpandWeights(panel, channel, depth, u);
                expanded_panel = panel, expanded_channel = channel;
              }
              for (int64_t block = first_block; block < last_block; block++) {
                Multiply(thread, first + block, panel, channel, depth, V(block), u);
                if (channel + depth == cin_) TransformOutput(thread, first + block, panel);
              }
            }
          }
        },
        /*chunks_per_thread=*/1);  // a chunk begins by expanding weights
  }

  void ExpandWeights(int64_t panel, int64_t channel, int64_t depth, float* u) const {
    const int64_t channels = PanelChannels(panel);
    kernels_.transform_weights(weight_ + (panel * kWinogradPanel * cin_ + channel * channels) * 9, depth,
                               channels, u, plan_.u_frequency);
  }

  void TransformInput(int thread, int64_t block, int64_t part, float* v) const {
    const int64_t channel = part * kInputChannels, channels = std::min(kInputChannels, cin_ - channel);
    const int64_t image_floats = call_.height * call_.width / (call_.upsample ? 4 : 1) * cin_;
    ForRegions(block, [&](int64_t, const WinogradRegion& region, int64_t tile) {
      const int64_t at = region.image * cin_ + channel;
      const WinogradInput input = {call_.x + region.image * image_floats + channel,
                                   call_.height,
                                   call_.width,
                                   cin_,
                                   call_.upsample,
                                   call_.scale == nullptr ? nullptr : call_.scale + at,
                                   call_.shift == nullptr ? nullptr : call_.shift + at};
      kernels_.transform_input(input, region, channels, Patch(thread),
                               v + channel / kWinogradGroup * plan_.v_group + tile * kWinogradGroup,
                               plan_.v_group, plan_.v_frequency);
    });
  }

  void Multiply(int thread, int64_t block, int64_t panel, int64_t channel, int64_t depth, const float* v,
                const float* u) const {
    int64_t tiles = 0;
    ForRegions(block, [&](int64_t, const WinogradRegion& region, int64_t) {
      tiles += region.tile_rows * region.tile_cols;
    });
    for (int64_t f = 0; f < kWinogradFrequencies; f++) {
      kernels_.multiply(v + f * plan_.v_frequency + channel / kWinogradGroup * plan_.v_group, plan_.v_group,
                        plan_.v_frequency, u + f * plan_.u_frequency, M(thread) + f * plan_.m_frequency,
                        tiles, depth, PanelChannels(panel), channel == 0);
    }
  }

  void TransformOutput(int thread, int64_t block, int64_t panel) const {
    const int64_t channel = panel * kWinogradPanel, channels = PanelChannels(panel);
    ForRegions(block, [&](int64_t index, const WinogradRegion& region, int64_t tile) {
      double* region_sums = nullptr;
      if (call_.group_sums != nullptr) {
        region_sums = RegionSums(index) + 2 * channel;
        std::fill(region_sums, region_sums + 2 * channels, 0.);
      }
      const int64_t at = region.image * call_.height * call_.width * cout_ + channel;
      const WinogradOutput output = {call_.y + at,
                                     call_.residual == nullptr ? nullptr : call_.residual + at,
                                     bias_ + channel,
                                     region_sums,
                                     call_.height,
                                     call_.width,
                                     cout_};
      kernels_.transform_output(M(thread) + tile * channels, plan_.m_frequency, channels, region, output);
    });
  }

  // Region by region, channel by channel: an order that nothing but the image's size decides.
  void AddGroupSums() const {
    const int64_t per_image = plan_.regions.PerImage(), group_channels = cout_ / call_.groups;
    for (int64_t image = 0; image < call_.batch; image++) {
      for (int64_t channel = 0; channel < cout_; channel++) {
        const int64_t panel = channel / kWinogradPanel, first = panel * kWinogradPanel;
        double total[2] = {0, 0};
        for (int64_t region = 0; region < per_image; region++) {
          const double* at = RegionSums(image * per_image + region) + 2 * first + (channel - first);
          total[0] += at[0];
          total[1] += at[PanelChannels(panel)];
        }
        double* group = call_.group_sums + 2 * (image * call_.groups + channel / group_channels);
        if (channel % group_channels == 0) group[0] = group[1] = 0;
        group[0] += total[0];
        group[1] += total[1];
      }
    }
  }

  // body(region's index, region, its first tile within the block)
  template <class Body>
  void ForRegions(int64_t block, Body&& body) const {
    const int64_t first = block * plan_.block_regions;
    const int64_t last = std::min(first + plan_.block_regions, call_.batch * plan_.regions.PerImage());
    int64_t tile = 0;
    for (int64_t index = first; index < last; index++) {
      const WinogradRegion region = plan_.regions.At(index);
      body(index, region, tile);
      tile += region.tile_rows * region.tile_cols;
    }
  }

  int64_t InputParts() const { return CeilDiv(cin_, kInputChannels); }
  int64_t PanelChannels(int64_t panel) const {
    return std::min<int64_t>(kWinogradPanel, cout_ - panel * kWinogradPanel);
  }

  template <class T>
  T* Scratch(size_t at) const {
    return reinterpret_cast<T*>(static_cast<char*>(call_.scratch) + at);
  }
  float* V(int64_t block) const { return Scratch<float>(plan_.v_at) + block * plan_.v_block; }
  float* U(int64_t panel) const { return Scratch<float>(plan_.u_at) + panel * plan_.u_panel; }
  float* Patch(int thread) const { return Scratch<float>(plan_.threads_at + thread * plan_.per_thread); }
  float* M(int thread) const { return Patch(thread) + plan_.patch_floats; }
  double* RegionSums(int64_t region) const {
    return Scratch<double>(plan_.sums_at) + region * plan_.sums_region;
  }

  const Conv3x3Call& call_;
  const Plan& plan_;
  const int64_t cin_, cout_;
  const float* const weight_;
  const float* const bias_;
  const WinogradKernels& kernels_ = ActiveKernels();
};

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
  Execution(call, plan, cin_, cout_, weight_.data(), bias_.data()).Run();
}

}  // namespace tokenflow

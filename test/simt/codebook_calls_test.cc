// What codebook calls do beside the lookup: codes, errors and histogram, margins, gathers, 16-bit queries. Bits as the CPU's.
#include <cmath>
#include <cstring>

#include "check.h"
#include "codebook/half.h"
#include "codebook/ranks.h"
#include "cpu/lookup_kernels.h"
#include "gather.cuh"
#include "quantize.cuh"
#include "ranks.cuh"

using namespace tokenflow;
using simt::DeviceBuffer;

namespace {

#include "cpu/lookup_rows.inc"

bool SameBits(float a, float b) {
  return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b));
}

constexpr unsigned long long kNone = ~0ull;

}  // namespace

TEST("codes, errors and histogram of the nearest, tails and missing codes") {
  simt::ForEachOrder([] {
    for (const int64_t count : {1, 31, 33, 128, 129, 200}) {
      const int dim = 13, stride = 16;
      const int64_t codes = 40, k = 3;
      simt::Random random(static_cast<unsigned>(count));
      const std::vector<PartSpan> spans = {{0, 5, false, 2, -4}, {5, 13, true, -1, 2}};
      std::vector<float> rows = random.Normals(codes * stride), seen = random.Normals(count * stride);
      std::vector<int32_t> nearest(count * k);
      for (int64_t q = 0; q < count; q++) {
        nearest[q * k] = q % 7 == 3 ? kNoCode : random.Below(static_cast<int>(codes));
        if (q % 5 == 0 && nearest[q * k] >= 0) {  // itself: error 0
          std::memcpy(&seen[q * stride], &rows[nearest[q * k] * stride], stride * 4);
        }
      }
      const DeviceBuffer<float> device_rows(rows);
      DeviceBuffer<float> device_seen(seen);
      const DeviceBuffer<PartSpan> device_spans(spans);
      const DeviceBuffer<int32_t> device_nearest(nearest);
      cuda::CodebookView book{};
      book.codes = device_rows.data();
      book.parts = device_spans.data();
      book.part_count = 2;
      book.count = codes;
      book.dim = dim;
      book.stride = stride;
      cuda::QueryView queries{};
      queries.count = count;
      queries.seen = device_seen.data();
      DeviceBuffer<float> found(count * dim), errors(count);
      DeviceBuffer<int32_t> counts(codes, 0);
      cuda::Quantize(queries, book, device_nearest.data(), k, {found.data(), errors.data(), counts.data()},
                     nullptr);
      // One at a time: what is not asked for is not touched.
      DeviceBuffer<float> alone(count);
      cuda::Quantize(queries, book, device_nearest.data(), k, {nullptr, alone.data(), nullptr}, nullptr);
      std::vector<int32_t> histogram(codes);
      const std::vector<PartSpan> plain = {{0, 5, false, 1, 0}, {5, 13, true, 1, 0}};
      for (int64_t q = 0; q < count; q++) {
        const int32_t code = nearest[q * k];
        float error = NAN;
        if (code != kNoCode) {
          histogram[code]++;
          const float* const row = &rows[code * stride];
          DistancesOf(Metric::kL2, plain.data(), 2, &seen[q * stride], &row, 1, &error, nullptr, 0);
        }
        CHECK(SameBits(errors[q], error));
        CHECK(SameBits(alone[q], error));
        if (q % 5 == 0 && code != kNoCode) CHECK(errors[q] == 0);
        for (int e = 0; e < dim; e++) {
          CHECK(SameBits(found[q * dim + e], code == kNoCode ? NAN : rows[code * stride + e]));
        }
      }
      CHECK(counts.ToHost() == histogram);
    }
  });
}

TEST("the first of the places found, margins, and the first query without a code") {
  simt::ForEachOrder([] {
    for (const int64_t rows : {1, 255, 256, 257}) {
      for (const int ranks : {1, 2, 5}) {
        simt::Random random(static_cast<unsigned>(rows + ranks));
        std::vector<int32_t> indices(rows * ranks);
        std::vector<float> distances = random.Normals(rows * ranks);
        int64_t first = -1;
        for (int64_t row = 0; row < rows; row++) {
          for (int rank = 0; rank < ranks; rank++) {
            const bool missing = rank >= (row * 3 + 4) % (ranks + 2);
            indices[row * ranks + rank] = missing ? kNoCode : random.Below(1000);
            if (missing) distances[row * ranks + rank] = NAN;
          }
          if (first < 0 && indices[row * ranks] == kNoCode) first = row;
        }
        const DeviceBuffer<int32_t> device_indices(indices);
        const DeviceBuffer<float> device_distances(distances);
        DeviceBuffer<float> margins(rows), taken(rows);
        DeviceBuffer<unsigned long long> missing(1, kNone);
        cuda::Margins(device_indices.data(), device_distances.data(), rows, ranks, margins.data(), nullptr);
        cuda::TakeRanks(device_distances.data(), rows, ranks, 1, taken.data(), nullptr);
        cuda::FirstMissing(device_indices.data(), rows, ranks, 1000, missing.data(), nullptr);
        for (int64_t row = 0; row < rows; row++) {
          CHECK(SameBits(margins[row], MarginOf(&indices[row * ranks], &distances[row * ranks], ranks)));
          CHECK(SameBits(taken[row], distances[row * ranks]));
        }
        CHECK(missing[0] == (first < 0 ? kNone : 1000ull + static_cast<unsigned long long>(first)));
        if (ranks == 5) {
          DeviceBuffer<int32_t> three(rows * 3);
          cuda::TakeRanks(device_indices.data(), rows, ranks, 3, three.data(), nullptr);
          for (int64_t i = 0; i < rows * 3; i++) CHECK(three[i] == indices[i / 3 * 5 + i % 3]);
        }
      }
    }
  });
}

TEST("rows of indices, into columns of wider rows, and the first index out of range") {
  simt::ForEachOrder([] {
    const int64_t count = 77, codes = 9;
    const int groups = 3, stride = 8, dim = 7, to_stride = 20, begin = 6;
    simt::Random random(5);
    const DeviceBuffer<float> rows(random.Normals(codes * stride));
    std::vector<int32_t> indices(count * groups);
    for (int32_t& index : indices) index = random.Below(static_cast<int>(codes));
    const auto gather = [&](const std::vector<int32_t>& from, std::vector<float>* to) {
      const DeviceBuffer<int32_t> device(from);
      DeviceBuffer<float> out(count * to_stride, -1.0f);
      DeviceBuffer<unsigned long long> first(1, kNone);
      cuda::GatherRows({rows.data(), codes, stride, dim}, device.data(), count, groups, 1, 30, out.data(),
                       to_stride, begin, first.data(), nullptr);
      *to = out.ToHost();
      return first[0];
    };
    std::vector<float> out;
    CHECK(gather(indices, &out) == kNone);
    for (int64_t i = 0; i < count; i++) {
      for (int e = 0; e < to_stride; e++) {
        const bool inside = e >= begin && e < begin + dim;
        CHECK(out[i * to_stride + e] ==
              (inside ? rows[indices[i * groups + 1] * stride + e - begin] : -1.0f));
      }
    }
    indices[40 * groups + 1] = static_cast<int32_t>(codes);
    indices[50 * groups + 1] = -1;
    indices[10 * groups] = 1000;  // of another group
    CHECK(gather(indices, &out) == 30u + 40 * groups + 1);
    indices[40 * groups + 1] = 0;
    CHECK(gather(indices, &out) == 30u + 50 * groups + 1);
  });
}

TEST("every 16-bit float, as the host widens it") {
  std::vector<uint16_t> bits(65536);
  for (int i = 0; i < 65536; i++) bits[i] = static_cast<uint16_t>(i);
  const DeviceBuffer<uint16_t> from(bits);
  DeviceBuffer<float> half(65536), brain(65536);
  cuda::WidenHalf(from.data(), 65536, half.data(), nullptr);
  cuda::WidenBFloat16(from.data(), 65536, brain.data(), nullptr);
  for (int i = 0; i < 65536; i++) {
    CHECK(SameBits(half[i], FloatOfHalf(bits[i])));
    CHECK(SameBits(brain[i], FloatOfBFloat16(bits[i])));
  }
}

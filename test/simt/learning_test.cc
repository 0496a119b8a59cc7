// What the learning of codebooks and the residual and product quantisers add to lookups, against the CPU's own code: the same
// order of rows, the same bits of every sum.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "check.h"
#include "codebook/code_sums.h"
#include "codebook/kmeans_rows.h"
#include "gather.cuh"
#include "kmeans.cuh"
#include "residual.cuh"
#include "rows.cuh"
#include "rows_by_code.cuh"

using namespace tokenflow;
using simt::DeviceBuffer;

namespace {

constexpr unsigned long long kNone = ~0ull;

// Memory for an arena to carve.
struct Space {
  explicit Space(size_t bytes) : memory(bytes) {}
  cuda::Arena arena() { return cuda::Arena(memory.data()); }
  DeviceBuffer<unsigned char> memory;
};

Space SpaceToSort(int64_t n, int64_t codes) {
  cuda::Arena counted(nullptr);
  cuda::SortedRows sorted(counted, n, codes);
  return Space(counted.used());
}

bool SameBits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

void CheckSort(const std::vector<int32_t>& indices, int64_t codes, int dim) {
  const auto n = static_cast<int64_t>(indices.size());
  Space space = SpaceToSort(n, codes);
  cuda::Arena arena = space.arena();
  const cuda::SortedRows sorted(arena, n, codes);
  const DeviceBuffer<int32_t> keys(indices);
  cuda::SortByCode(keys.data(), sorted, nullptr);
  const RowsByCode expected(indices.data(), n, codes);
  for (int64_t i = 0; i < n; i++) CHECK(sorted.rows[i] == expected.rows[i]);
  for (int64_t code = 0; code <= codes; code++) CHECK(sorted.begin[code] == expected.begin[code]);

  simt::Random random(static_cast<unsigned>(n + codes));
  std::vector<float> x = random.Normals(n * dim);
  for (int64_t i = 0; i < n; i++)
    x[i * dim] *= std::pow(10.0f, static_cast<float>(i % 9) - 4);  // the order tells
  const DeviceBuffer<float> vectors(x);
  DeviceBuffer<double> sums(codes * dim);
  cuda::SumRows(sorted, vectors.data(), dim, sums.data(), nullptr);
  std::vector<double> wanted(codes * dim);
  for (int64_t code = 0; code < codes; code++) {
    tokenflow::SumRows(expected, code, x.data(), dim, wanted.data() + code * dim);
  }
  CHECK(SameBits(sums.ToHost(), wanted));
}

}  // namespace

TEST("rows in the order of their codes, and their sums: tails of tiles, one to three digits") {
  const auto check = [](int64_t n, int64_t codes) {
    simt::Random random(static_cast<unsigned>(n + codes));
    std::vector<int32_t> indices(n);
    for (int32_t& index : indices) index = random.Below(static_cast<int>(codes));
    CheckSort(indices, codes, codes > 1000 ? 1 : 3);
  };
  simt::ForEachOrder([&] { check(1090, 257); });
  for (const int64_t n : {0, 1, 33, 1024, 1025}) check(n, n == 33 ? 1 : 7);
  check(600, 66000);
}

TEST("all rows of one code, codes ascending and descending") {
  std::vector<int32_t> indices(2100, 299);
  CheckSort(indices, 300, 1);
  for (int i = 0; i < 2100; i++) indices[i] = 299 - i / 7;
  CheckSort(indices, 300, 1);
}

TEST("counters for three steps of the scan") {
  std::vector<int32_t> indices(33 * 1024);
  simt::Random random(4);
  for (int32_t& index : indices) index = random.Below(300);
  CheckSort(indices, 300, 1);
}

TEST("the farthest row of a code, the first of equal ones") {
  simt::ForEachOrder([] {
    const int64_t n = 500, codes = 6;
    simt::Random random(9);
    std::vector<int32_t> indices(n), which = {5, 0, 3};
    std::vector<float> values(n);
    for (int64_t i = 0; i < n; i++) {
      indices[i] = random.Below(6);
      values[i] = static_cast<float>(random.Below(20));  // ties
    }
    Space space = SpaceToSort(n, codes);
    cuda::Arena arena = space.arena();
    const cuda::SortedRows sorted(arena, n, codes);
    const DeviceBuffer<int32_t> keys(indices), asked(which);
    const DeviceBuffer<float> distances(values);
    DeviceBuffer<int32_t> found(3);
    cuda::SortByCode(keys.data(), sorted, nullptr);
    cuda::FarthestRows(sorted, distances.data(), asked.data(), 3, found.data(), nullptr);
    for (int i = 0; i < 3; i++) {
      int32_t best = -1;
      for (int32_t row = 0; row < n; row++) {
        if (indices[row] == which[i] && (best < 0 || values[row] > values[best])) best = row;
      }
      CHECK(found[i] == best);
    }
  });
}

TEST("the first index out of range, the first row that is not finite") {
  std::vector<int32_t> indices(700, 3);
  std::vector<float> x(700 * 5, 1.0f);
  const auto first_index = [&] {
    const DeviceBuffer<int32_t> device(indices);
    DeviceBuffer<unsigned long long> first(1, kNone);
    cuda::FirstOutOfRange(device.data(), 700, 4, first.data(), nullptr);
    return first[0];
  };
  const auto first_row = [&] {
    const DeviceBuffer<float> device(x);
    DeviceBuffer<unsigned long long> first(1, kNone);
    cuda::FirstNonFinite(device.data(), 700, 5, first.data(), nullptr);
    return first[0];
  };
  CHECK(first_index() == kNone && first_row() == kNone);
  indices[699] = 4;
  x[699 * 5 + 4] = NAN;
  CHECK(first_index() == 699 && first_row() == 699);
  indices[300] = -1;
  x[300 * 5] = -INFINITY;
  CHECK(first_index() == 300 && first_row() == 300);
}

TEST("unit vectors as the CPU makes them") {
  simt::ForEachOrder([] {
    for (const int64_t n : {1, 31, 300}) {
      const int dim = 37;
      simt::Random random(static_cast<unsigned>(n));
      std::vector<float> x = random.Normals(n * dim);
      std::fill_n(x.begin() + (n - 1) * dim, dim, 0.0f);
      DeviceBuffer<float> device(x);
      cuda::NormalizeRows(device.data(), n, dim, nullptr);
      tokenflow::NormalizeRows(x.data(), n, dim);
      CHECK(std::memcmp(device.data(), x.data(), x.size() * sizeof(float)) == 0);
    }
  });
}

TEST("distances from the nearest of the codes so far, and their sums by block") {
  for (const int dim : {3, 8, 21}) {
    const int64_t n = 2 * cuda::kSumBlock + 77;
    simt::Random random(static_cast<unsigned>(dim));
    const std::vector<float> x = random.Normals(n * dim), codes = random.Normals(3 * dim);
    const auto host = HostRows(x.data(), n, dim);
    const DeviceBuffer<float> vectors(x), device_codes(codes);
    DeviceBuffer<float> nearest(n);
    const auto blocks = static_cast<int64_t>(cuda::DivideUp<int64_t>(n, cuda::kSumBlock));
    DeviceBuffer<double> sums(blocks);
    for (int j = 0; j < 3; j++) {
      const std::vector<double> wanted = host->LowerNearest(&codes[j * dim], 1, j == 0);
      cuda::LowerNearest(vectors.data(), n, dim, device_codes.data() + j * dim, j == 0, nearest.data(),
                         nullptr);
      cuda::BlockSums(nearest.data(), n, sums.data(), nullptr);
      CHECK(SameBits(sums.ToHost(), wanted));
      CHECK(nearest.ToHost() == host->Nearest(0, n));
    }
  }
}

TEST("positions where two assignments differ are counted") {
  simt::ForEachOrder([] {
    for (const int64_t n : {1, 32, 255, 257, 1000}) {
      std::vector<int32_t> a(n), b(n);
      unsigned long long wanted = 0;
      for (int64_t i = 0; i < n; i++) {
        a[i] = static_cast<int32_t>(i % 5);
        b[i] = static_cast<int32_t>(i % 3);
        wanted += a[i] != b[i];
      }
      const DeviceBuffer<int32_t> one(a), other(b);
      DeviceBuffer<unsigned long long> count(1, 100);
      cuda::CountDifferent(one.data(), other.data(), n, count.data(), nullptr);
      CHECK(count[0] == 100 + wanted);
    }
  });
}

TEST("a stage of the residual quantiser, and the error of the sum") {
  simt::ForEachOrder([] {
    const int64_t rows = 71, codes = 12;
    const int dim = 9, stride = 12, stages = 3;
    simt::Random random(3);
    const std::vector<float> code_rows = random.Normals(codes * stride), x = random.Normals(rows * dim);
    std::vector<int32_t> found(rows * stages);
    for (int32_t& index : found) index = random.Below(static_cast<int>(codes));
    std::vector<float> residual = x, sum(rows * dim);
    const DeviceBuffer<float> device_codes(code_rows), device_x(x);
    DeviceBuffer<float> device_residual(x), device_sum(rows * dim), errors(rows);
    const DeviceBuffer<int32_t> indices(found);
    DeviceBuffer<int32_t> tokens(rows * stages);
    DeviceBuffer<unsigned long long> bad(1, kNone);
    for (int stage = 0; stage < stages; stage++) {
      cuda::AddStage({{device_codes.data(), codes, stride, dim},
                      indices.data(),
                      stages,
                      stage,
                      rows,
                      stage == 0,
                      device_sum.data(),
                      device_residual.data(),
                      tokens.data(),
                      stages,
                      stage,
                      bad.data(),
                      0},
                     nullptr);
      for (int64_t i = 0; i < rows * dim; i++) {
        const float code = code_rows[found[i / dim * stages + stage] * stride + i % dim];
        residual[i] -= code;
        sum[i] = (stage == 0 ? 0.0f : sum[i]) + code;
      }
    }
    CHECK(device_residual.ToHost() == residual);
    CHECK(device_sum.ToHost() == sum);
    CHECK(tokens.ToHost() == found);
    CHECK(bad[0] == kNone);
    cuda::ResidualErrors(device_x.data(), device_sum.data(), rows, dim, errors.data(), nullptr);
    for (int64_t row = 0; row < rows; row++) {
      double error = 0;
      for (int k = 0; k < dim; k++) {
        const float rest = x[row * dim + k] - sum[row * dim + k];
        error += double{rest} * rest;
      }
      CHECK(errors[row] == static_cast<float>(error));
    }
    found[50 * stages + 1] = static_cast<int32_t>(codes);
    found[60 * stages + 1] = -1;
    const DeviceBuffer<int32_t> wrong(found);
    cuda::AddStage({{device_codes.data(), codes, stride, dim},
                    wrong.data(),
                    stages,
                    1,
                    rows,
                    false,
                    device_sum.data(),
                    nullptr,
                    nullptr,
                    0,
                    0,
                    bad.data(),
                    30},
                   nullptr);
    CHECK(bad[0] == 30u + 50 * stages + 1);
  });
}

TEST("columns of rows taken out, and a column put in") {
  simt::Random random(2);
  const std::vector<float> x = random.Normals(300 * 11);
  const DeviceBuffer<float> rows(x);
  DeviceBuffer<float> part(300 * 4);
  cuda::SliceColumns(rows.data(), 300, 11, 5, 4, part.data(), nullptr);
  for (int i = 0; i < 300 * 4; i++) CHECK(part[i] == x[i / 4 * 11 + 5 + i % 4]);
  std::vector<int32_t> found(300);
  std::iota(found.begin(), found.end(), 7);
  const DeviceBuffer<int32_t> from(found);
  DeviceBuffer<int32_t> to(300 * 3, -5);
  cuda::PutColumn(from.data(), 300, to.data(), 3, 1, nullptr);
  for (int i = 0; i < 900; i++) CHECK(to[i] == (i % 3 == 1 ? found[i / 3] : -5));
}

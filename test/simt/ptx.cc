#include "ptx.h"

namespace simt {

namespace {

Thread& Self() {
  return machine().threads[machine().current];
}

float LowBf16(uint32_t u) {
  return __uint_as_float(u << 16);
}
float HighBf16(uint32_t u) {
  return __uint_as_float(u & 0xffff0000u);
}

}  // namespace

void CopyAsync16(void* target, const void* source, int bytes) {
  if (bytes != 0 && bytes != 16)
    Die("cp.async of " + std::to_string(bytes) + " bytes; 0 or 16 are used here");
  if (bytes && reinterpret_cast<uintptr_t>(source) % 16) Die("cp.async from a misaligned address");
  shared_memory().BeginAsync(target, 16);
  counters().async_copies++;
  // Reading the source at issue, too, finds an address outside every buffer where it was made.
  if (bytes) {
    volatile unsigned char probe = static_cast<const unsigned char*>(source)[0];
    probe = static_cast<const unsigned char*>(source)[15];
    (void)probe;
  }
  Self().open.push_back({target, source, bytes});
}

void CommitAsync() {
  Thread& t = Self();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void WaitAsync(int groups_in_flight) {
  Thread& t = Self();
  while (static_cast<int>(t.groups.size()) > groups_in_flight) {
    for (const AsyncCopy& copy : t.groups.front()) {
      std::memset(copy.target, 0, 16);
      if (copy.bytes) std::memcpy(copy.target, copy.source, copy.bytes);
      shared_memory().EndAsync(copy.target, 16);
    }
    t.groups.erase(t.groups.begin());
  }
}

void LoadMatrix4(uint32_t* r, const void* row, bool transposed) {
  shared_memory().Read(row, 16, "ldmatrix");
  WarpArrive(&row, sizeof row, 0xffffffffu, WarpOp::kLdmatrix);
  auto address = [](int lane) {
    const unsigned char* p;
    std::memcpy(&p, PublishedBy(lane), sizeof p);
    return p;
  };
  const int lane = Lane();
  if (lane == 0) counters().ldmatrix += 4;
  for (int m = 0; m < 4; m++) {
    if (!transposed) {
      std::memcpy(&r[m], address(m * 8 + lane / 4) + lane % 4 * 4, 4);
    } else {
      uint16_t low, high;
      std::memcpy(&low, address(m * 8 + 2 * (lane % 4)) + lane / 4 * 2, 2);
      std::memcpy(&high, address(m * 8 + 2 * (lane % 4) + 1) + lane / 4 * 2, 2);
      r[m] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

float Accumulate(float acc, const float* products, int n) {
  if (options().tensor_core == TensorCore::kNearest) {
    for (int i = 0; i < n; i++) acc += products[i];
    return acc;
  }
  bool special = !std::isfinite(acc);
  int largest = acc == 0 ? -200 : std::ilogb(acc);
  for (int i = 0; i < n; i++) {
    special |= !std::isfinite(products[i]);
    if (products[i] != 0 && std::isfinite(products[i])) largest = std::max(largest, std::ilogb(products[i]));
  }
  if (special) {
    for (int i = 0; i < n; i++) acc += products[i];
    return acc;
  }
  // Every term cut towards zero at bit 23 below the largest one's leading bit, then the sum cut again.
  const double unit = std::ldexp(1.0, largest - 23);
  double sum = std::trunc(static_cast<double>(acc) / unit);
  for (int i = 0; i < n; i++) sum += std::trunc(static_cast<double>(products[i]) / unit);
  const double exact = sum * unit;
  if (exact == 0) return 0.0f;
  const double ulp = std::ldexp(1.0, std::max(std::ilogb(exact) - 23, -149));
  return static_cast<float>(std::trunc(exact / ulp) * ulp);
}

void MmaBf16(float* c, const uint32_t* a, const uint32_t* b) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  WarpArrive(&mine, sizeof mine, 0xffffffffu, WarpOp::kMma);
  const int lane = Lane(), g = lane / 4, t = lane % 4;
  if (lane == 0) counters().mma++;
  auto of = [](int lane) {
    Fragments f;
    std::memcpy(&f, PublishedBy(lane), sizeof f);
    return f;
  };
  Fragments rows[4], columns[2][4];  // by the k quarter their lane holds
  for (int q = 0; q < 4; q++) {
    rows[q] = of(g * 4 + q);
    for (int e = 0; e < 2; e++) columns[e][q] = of((2 * t + e) * 4 + q);
  }
  for (int i = 0; i < 4; i++) {
    const int half = i / 2, e = i % 2;
    float products[16];
    for (int k2 = 0; k2 < 8; k2++) {  // k = 2 k2 and 2 k2 + 1: register half k2/4 of the lane with t = k2%4
      const uint32_t x = rows[k2 % 4].a[half + 2 * (k2 / 4)], y = columns[e][k2 % 4].b[k2 / 4];
      products[2 * k2] = LowBf16(x) * LowBf16(y);
      products[2 * k2 + 1] = HighBf16(x) * HighBf16(y);
    }
    c[i] = Accumulate(c[i], products, 16);
  }
}

}  // namespace simt

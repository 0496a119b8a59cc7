// The machine itself: what it must refuse, and that its warp operations are CUDA's.
#include "check.h"
#include "cp_async.cuh"
#include "mma.cuh"

using namespace tokenflow::cuda;
using simt::DeviceBuffer;
using simt::ExpectFault;

namespace {

bool Contains(const std::string& text, const char* part) {
  if (text.find(part) != std::string::npos) return true;
  simt::Fail("the message '" + text + "' does not contain '" + part + "'");
  return false;
}

unsigned char* Shared() {
  return simt::shared_memory().base();
}

}  // namespace

TEST("a block sums through shared memory, whatever the order") {
  simt::ForEachOrder([] {
    DeviceBuffer<float> out(3);
    simt::Run(dim3(3), dim3(96), 96 * 4, [&] {
      const int t = static_cast<int>(threadIdx.x);
      StoreShared<float>(Shared() + t * 4, static_cast<float>(t + blockIdx.x));
      for (int stride = 48; stride >= 3; stride /= 2) {
        __syncthreads();
        if (t < stride) {
          StoreShared<float>(Shared() + t * 4, LoadShared<float>(Shared() + t * 4) +
                                                   LoadShared<float>(Shared() + (t + stride) * 4));
        }
      }
      __syncthreads();
      if (t == 0) {
        out[blockIdx.x] =
            LoadShared<float>(Shared()) + LoadShared<float>(Shared() + 4) + LoadShared<float>(Shared() + 8);
      }
    });
    for (int b = 0; b < 3; b++) CHECK(out[b] == 96 * 95 / 2 + 96 * b);
  });
}

TEST("shuffles and votes") {
  simt::ForEachOrder([] {
    DeviceBuffer<int> out(32 * 5);
    simt::Run(dim3(1), dim3(32), 0, [&] {
      const int lane = static_cast<int>(threadIdx.x);
      out[lane] = __shfl_xor_sync(kFullWarp, lane * 10, 5);
      out[32 + lane] = __shfl_down_sync(kFullWarp, lane, 3, 8);
      out[64 + lane] = __shfl_sync(kFullWarp, lane, 2, 4);
      out[96 + lane] = static_cast<int>(__ballot_sync(kFullWarp, lane % 3 == 0));
      out[128 + lane] = __shfl_up_sync(kFullWarp, lane, 1);
    });
    for (int lane = 0; lane < 32; lane++) {
      CHECK(out[lane] == (lane ^ 5) * 10);
      CHECK(out[32 + lane] == (lane % 8 + 3 < 8 ? lane + 3 : lane));
      CHECK(out[64 + lane] == lane / 4 * 4 + 2);
      CHECK(static_cast<unsigned>(out[96 + lane]) == 0x49249249u);
      CHECK(out[128 + lane] == (lane ? lane - 1 : 0));
    }
  });
}

TEST("halves of a warp may take different shuffles under their own masks") {
  DeviceBuffer<int> out(32);
  simt::Run(dim3(1), dim3(32), 0, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    if (lane < 16) {
      out[lane] = __shfl_xor_sync(mask, lane, 1);
    } else {
      out[lane] = __shfl_xor_sync(mask, lane, 2);
    }
  });
  for (int lane = 0; lane < 32; lane++) CHECK(out[lane] == (lane ^ (lane < 16 ? 1 : 2)));
}

TEST("a barrier that only some threads reach") {
  simt::ForEachOrder([] {
    Contains(ExpectFault([] {
               simt::Run(dim3(1), dim3(64), 0, [] {
                 if (threadIdx.x < 32) __syncthreads();
               });
             }),
             "__syncthreads reached by only some");
  });
}

TEST("a warp operation while other lanes wait at a barrier") {
  simt::ForEachOrder([] {
    Contains(ExpectFault([] {
               simt::Run(dim3(1), dim3(32), 0, [] {
                 if (threadIdx.x < 8) __syncthreads();
                 __shfl_sync(kFullWarp, 1, 0);
               });
             }),
             "divergent warp operation");
  });
}

TEST("a shuffle in one branch and a vote in the other") {
  Contains(ExpectFault([] {
             simt::Run(dim3(1), dim3(32), 0, [] {
               if (threadIdx.x < 8) {
                 __shfl_sync(kFullWarp, 1, 0);
               } else {
                 __ballot_sync(kFullWarp, 1);
               }
             });
           }),
           "different warp operations");
}

TEST("a mask without its caller, and a shuffle from outside the mask") {
  Contains(ExpectFault([] { simt::Run(dim3(1), dim3(32), 0, [] { __shfl_sync(0xfffffffeu, 1, 1); }); }),
           "leaves out its caller");
  Contains(ExpectFault([] {
             simt::Run(dim3(1), dim3(32), 0, [] {
               if (threadIdx.x > 0) __shfl_sync(0xfffffffeu, 1, 0);
             });
           }),
           "which its mask leaves out");
}

TEST("shared memory read before anything wrote it") {
  simt::ForEachOrder([] {
    Contains(ExpectFault([] {
               simt::Run(dim3(2), dim3(32), 256, [] {
                 // The first block writes word 1; what the second one finds there is not its own.
                 if (blockIdx.x == 0 && threadIdx.x == 0) StoreShared<float>(Shared() + 4, 1.0f);
                 __syncthreads();
                 if (blockIdx.x == 1) LoadShared<float>(Shared() + 4);
               });
             }),
             "that nothing wrote");
  });
}

TEST("shared memory out of bounds, and misaligned") {
  Contains(
      ExpectFault([] { simt::Run(dim3(1), dim3(1), 64, [] { StoreShared<float>(Shared() + 64, 1.0f); }); }),
      "outside shared memory");
  Contains(ExpectFault([] {
             simt::Run(dim3(1), dim3(1), 64,
                       [] { StoreShared<uint4>(Shared() + 8, make_uint4(0, 0, 0, 0)); });
           }),
           "misaligned");
}

TEST("races in shared memory: write-read, read-write, write-write") {
  simt::ForEachOrder([] {
    Contains(ExpectFault([] {
               simt::Run(dim3(1), dim3(64), 256, [] {
                 StoreShared<float>(Shared() + threadIdx.x * 4, 1.0f);
                 LoadShared<float>(Shared() + (threadIdx.x ^ 32) * 4);
               });
             }),
             "shared memory that");
    Contains(ExpectFault([] {
               simt::Run(dim3(1), dim3(64), 256, [] {
                 StoreShared<float>(Shared() + threadIdx.x * 4, 1.0f);
                 __syncthreads();
                 LoadShared<float>(Shared() + (threadIdx.x ^ 32) * 4);
                 StoreShared<float>(Shared() + threadIdx.x * 4, 2.0f);
               });
             }),
             "no barrier between");
    Contains(ExpectFault([] {
               simt::Run(dim3(1), dim3(64), 256,
                         [] { StoreShared<float>(Shared() + threadIdx.x / 2 * 4, 1.0f); });
             }),
             "no barrier between");
  });
}

TEST("inside a warp __syncwarp orders shared memory, a shuffle does not") {
  simt::ForEachOrder([] {
    auto neighbour = [](bool sync) {
      simt::Run(dim3(1), dim3(64), 256, [&] {
        StoreShared<int>(Shared() + threadIdx.x * 4, static_cast<int>(threadIdx.x));
        if (sync) {
          __syncwarp();
        } else {
          __shfl_xor_sync(kFullWarp, 0, 1);
        }
        CHECK(LoadShared<int>(Shared() + (threadIdx.x ^ 1) * 4) == static_cast<int>(threadIdx.x ^ 1));
      });
    };
    neighbour(true);
    Contains(ExpectFault([&] { neighbour(false); }), "no barrier between");
  });
}

TEST("global memory outside every buffer") {
  DeviceBuffer<float> x(100, 1.0f);
  Contains(ExpectFault([&] { simt::Run(dim3(1), dim3(32), 0, [&] { x.data()[100 + threadIdx.x] = 1; }); }),
           "outside every buffer");
  Contains(ExpectFault([&] {
             simt::Run(dim3(1), dim3(32), 0, [&] {
               const volatile float* p = x.data();
               (void)p[-1024];
             });
           }),
           "outside every buffer");
  // The machine still works afterwards.
  simt::Run(dim3(1), dim3(32), 0, [&] { x[threadIdx.x] = 2; });
  CHECK(x[31] == 2 && x[32] == 1);
}

TEST("a write into the slack behind a buffer") {
  Contains(ExpectFault([] {
             DeviceBuffer<char> x(5);
             x.data()[5] = 1;
           }),
           "just past the end");
}

TEST("cp.async fills at wait_group, not before") {
  simt::ForEachOrder([] {
    DeviceBuffer<float> x(256);
    for (int i = 0; i < 256; i++) x[i] = static_cast<float>(i);
    DeviceBuffer<float> y(128);
    simt::Run(dim3(1), dim3(32), 32 * 32, [&] {
      const int t = static_cast<int>(threadIdx.x);
      CopyAsync16(Shared() + t * 16, x.data() + t * 4, 16);
      CommitAsync();
      CopyAsync16(Shared() + 512 + t * 16, x.data() + 128 + t * 4, t < 16 ? 16 : 0);
      CommitAsync();
      WaitAsync<1>();
      __syncthreads();
      const float4 v = LoadShared<float4>(Shared() + (31 - t) * 16);
      y[t] = v.y;
      WaitAsync<0>();
      __syncthreads();
      y[32 + t] = LoadShared<float4>(Shared() + 512 + (31 - t) * 16).x;
    });
    for (int t = 0; t < 32; t++) {
      CHECK(y[t] == (31 - t) * 4 + 1);
      CHECK(y[32 + t] == (31 - t < 16 ? 128 + (31 - t) * 4 : 0));
    }
  });
}

TEST("misuse of cp.async") {
  DeviceBuffer<float> x(256, 1.0f);
  auto run = [&](void (*body)(const float*)) {
    return ExpectFault([&] { simt::Run(dim3(1), dim3(32), 1024, [&] { body(x.data()); }); });
  };
  Contains(run([](const float* p) {
             CopyAsync16(Shared() + threadIdx.x * 16, p, 16);
             CommitAsync();
             LoadShared<float>(Shared() + threadIdx.x * 16);
             WaitAsync<0>();
           }),
           "still filling");
  Contains(run([](const float* p) {
             CopyAsync16(Shared() + threadIdx.x * 16, p, 16);
             CommitAsync();
             __syncthreads();  // before the wait instead of after it: the neighbour's copy is not waited for
             WaitAsync<0>();
             LoadShared<float>(Shared() + (threadIdx.x ^ 1) * 16);
           }),
           "still filling");
  Contains(run([](const float* p) { CopyAsync16(Shared() + threadIdx.x * 16, p, 16); }), "never committed");
  Contains(run([](const float* p) {
             CopyAsync16(Shared() + threadIdx.x * 16, p, 16);
             CommitAsync();
           }),
           "in flight");
  Contains(run([](const float* p) {
             CopyAsync16(Shared() + threadIdx.x * 16, p + 1, 16);
             CommitAsync();
             WaitAsync<0>();
           }),
           "misaligned");
  Contains(run([](const float* p) {
             CopyAsync16(Shared() + threadIdx.x * 16, p + 256, 16);
             CommitAsync();
             WaitAsync<0>();
           }),
           "outside every buffer");
}

TEST("mma and ldmatrix agree with a matrix product") {
  // A[m][k] and B[n][k] row-major in shared memory, as a kernel would keep them: C = A B^T.
  simt::Random random(1);
  std::vector<float> a(16 * 16), b(16 * 16);
  auto round = [](float f) { return __uint_as_float(PackBf16(f, 0) << 16); };
  for (float& v : a) v = round(random.Normal());
  for (float& v : b) v = round(random.Normal());
  simt::ForEachOrder([&] {
    DeviceBuffer<float> c(16 * 16);
    constexpr int kPitch = 24 * 2;  // bytes; an odd number of 16-byte chunks would be conflict-free
    simt::Run(dim3(1), dim3(32), 2 * 16 * kPitch, [&] {
      const int lane = static_cast<int>(threadIdx.x);
      unsigned char* sa = Shared();
      unsigned char* sb = sa + 16 * kPitch;
      for (int i = lane; i < 128; i += 32) {
        const int row = i / 8, k = i % 8 * 2;
        StoreShared<uint32_t>(sa + row * kPitch + k * 2, PackBf16(a[row * 16 + k], a[row * 16 + k + 1]));
        StoreShared<uint32_t>(sb + row * kPitch + k * 2, PackBf16(b[row * 16 + k], b[row * 16 + k + 1]));
      }
      __syncthreads();
      uint32_t fa[4], fb[4];
      LoadMatrix4(fa, sa + (lane & 15) * kPitch + (lane >> 4) * 16);
      LoadMatrix4(fb, sb + ((lane & 7) + (lane >> 4) * 8) * kPitch + (lane >> 3 & 1) * 16);
      for (int n = 0; n < 2; n++) {
        float acc[4] = {0, 0, 0, 0};
        MmaBf16(acc, fa, fb + 2 * n);
        const int g = lane >> 2, t = lane & 3;
        for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 16 + n * 8 + 2 * t + i % 2] = acc[i];
      }
    });
    for (int m = 0; m < 16; m++) {
      for (int n = 0; n < 16; n++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += a[m * 16 + k] * b[n * 16 + k];
        CHECK(c[m * 16 + n] == sum);
      }
    }
  });
}

TEST("ldmatrix.trans turns each 8x8") {
  DeviceBuffer<uint32_t> out(32 * 4);
  simt::Run(dim3(1), dim3(32), 4 * 8 * 16, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    for (uint32_t e = 0; e < 8; e += 2) {
      const uint32_t first = lane * 8 + e;
      StoreShared<uint32_t>(Shared() + lane * 16 + e * 2, first | (first + 1) << 16);
    }
    __syncthreads();
    uint32_t r[4];
    LoadMatrix4Transposed(r, Shared() + lane * 16);
    for (int m = 0; m < 4; m++) out[lane * 4 + m] = r[m];
  });
  for (int lane = 0; lane < 32; lane++) {
    for (int m = 0; m < 4; m++) {
      const uint32_t low = (m * 8 + 2 * (lane % 4)) * 8 + lane / 4;
      CHECK(out[lane * 4 + m] == (low | (low + 8) << 16));
    }
  }
}

TEST("the truncating tensor core loses what the nearest one keeps") {
  const float tiny[1] = {0x1p-25f};
  simt::options().tensor_core = simt::TensorCore::kTruncate;
  CHECK(simt::Accumulate(1.0f, tiny, 1) == 1.0f);
  const float below[2] = {-0x1p-24f, -0x1p-24f};  // each vanishes alone
  CHECK(simt::Accumulate(1.0f, below, 2) == 1.0f);
  const float exact[3] = {0.5f, 0.25f, -3.0f};
  CHECK(simt::Accumulate(1.0f, exact, 3) == -1.25f);
  simt::options().tensor_core = simt::TensorCore::kNearest;
  CHECK(simt::Accumulate(1.0f, below, 2) == 1.0f - 0x1p-23f);
}

TEST("bank conflicts are counted") {
  auto conflicts = [](int stride) {
    simt::ResetCounters();
    simt::Run(dim3(1), dim3(32), 32 * 128,
              [&] { StoreShared<float>(Shared() + threadIdx.x * stride, 1.0f); });
    return simt::counters().bank_conflicts;
  };
  CHECK(conflicts(4) == 0);
  CHECK(conflicts(8) == 1);
  CHECK(conflicts(128) == 31);
  simt::ResetCounters();
  simt::Run(dim3(1), dim3(32), 32 * 32,
            [&] { StoreShared<float4>(Shared() + threadIdx.x * 32, make_float4(0, 0, 0, 0)); });
  CHECK(simt::counters().bank_conflicts == 4);  // four passes of eight lanes, each twice
}

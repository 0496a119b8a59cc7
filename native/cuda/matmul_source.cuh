// Where the rows of the left matrix of a product come from: a matrix as it lies, or the windows of a convolution, which are
// never laid out ("implicit GEMM"). In both, a row is a pixel or token of one image and k runs over what is multiplied:
// for a window k = (ky * kernel + kx) * channels + c, the order in which the weights are packed.
//
// A thread asks for one 16-byte chunk of k in each of its rows per stage; a stage is four chunks. Chunks outside the matrix,
// outside the image or beyond k are zeros (CopyAsync16 with 0 bytes), so there is no other padding anywhere.
#pragma once
#include "device.cuh"
#include "moments.cuh"
#include "runtime/activation.h"

namespace tokenflow::cuda {

// Where the i-th matrix of a batch begins, in elements. With heads, i counts the heads of all images.
struct Batch {
  int heads = 1;
  int64_t image = 0;  // 0: all images share one matrix
  int64_t head = 0;

  HOST_DEVICE int64_t At(int i) const { return i / heads * image + i % heads * head; }
};

// T is float or uint16_t (bf16). Row starts and depths are multiples of 16 bytes.
template <class T>
struct MatrixRows {
  const T* x;          // [batch][rows][row_stride]
  int rows;            // of one matrix
  int depth;           // k
  int64_t row_stride;  // elements
  Batch batch;
};

// A square window over [images][height][width][channels], after every pixel was repeated 2^upsample times each way.
template <class T>
struct WindowRows {
  const T* x;
  int height, width, channels;  // channels a multiple of 16 bytes
  int out_height, out_width;
  int kernel, stride, top, left;  // padding above and to the left; below and right it follows from the sizes
  int upsample;                   // 0 or 1: shift
};

template <class T>
HOST_DEVICE int RowsOf(const MatrixRows<T>& a) {
  return a.rows;
}
template <class T>
HOST_DEVICE int RowsOf(const WindowRows<T>& a) {
  return a.out_height * a.out_width;
}
template <class T>
HOST_DEVICE int DepthOf(const MatrixRows<T>& a) {
  return a.depth;
}
template <class T>
HOST_DEVICE int DepthOf(const WindowRows<T>& a) {
  return a.kernel * a.kernel * a.channels;
}

// kOwned: rows of a thread.
template <class Rows, int kOwned>
class Source;

template <class T, int kOwned>
class Source<MatrixRows<T>, kOwned> {
 public:
  static constexpr int kChunk = 16 / sizeof(T);

  DEVICE Source(const MatrixRows<T>& a, int image, int chunk) : k_(chunk * kChunk) {
    base_ = a.x + a.batch.At(image);
  }
  DEVICE void SetRow(const MatrixRows<T>& a, int i, int row) { row_[i] = row < a.rows ? row : -1; }
  DEVICE const T* Address(const MatrixRows<T>& a, int i, int* bytes) const {
    *bytes = row_[i] >= 0 && k_ < a.depth ? 16 : 0;
    return *bytes ? base_ + row_[i] * a.row_stride + k_ : base_;
  }
  DEVICE void Next(const MatrixRows<T>&) { k_ += 4 * kChunk; }

 private:
  const T* base_;
  int row_[kOwned];  // -1: none
  int k_;
};

template <class T, int kOwned>
class Source<WindowRows<T>, kOwned> {
 public:
  static constexpr int kChunk = 16 / sizeof(T);

  DEVICE Source(const WindowRows<T>& a, int image, int chunk) : channel_(chunk * kChunk) {
    image_ = a.x + static_cast<int64_t>(image) * a.height * a.width * a.channels;
    Wrap(a);
  }
  // Keeps the corner of the row's window, both coordinates biased to stay positive, in one register.
  DEVICE void SetRow(const WindowRows<T>& a, int i, int row) {
    const int y = row / a.out_width, x = row - y * a.out_width;
    corner_[i] = row < a.out_height * a.out_width
                     ? (y * a.stride - a.top + kBias) << 16 | (x * a.stride - a.left + kBias)
                     : -1;
  }
  DEVICE const T* Address(const WindowRows<T>& a, int i, int* bytes) const {
    const int y = (corner_[i] >> 16) - kBias + ky_, x = (corner_[i] & 0xffff) - kBias + kx_;
    const bool inside = corner_[i] >= 0 && ky_ < a.kernel &&
                        static_cast<unsigned>(y) < static_cast<unsigned>(a.height << a.upsample) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(a.width << a.upsample);
    *bytes = inside ? 16 : 0;
    return inside ? image_ + ((y >> a.upsample) * a.width + (x >> a.upsample)) * a.channels + channel_
                  : image_;
  }
  DEVICE void Next(const WindowRows<T>& a) {
    channel_ += 4 * kChunk;
    Wrap(a);
  }

  // What the packing of a corner asks of a layer.
  static constexpr int kBias = 64;
  static constexpr int kMaxExtent = 32767 - 2 * kBias;  // of the enlarged map; the sign bit says "no row"

 private:
  DEVICE void Wrap(const WindowRows<T>& a) {
    while (channel_ >= a.channels) {
      channel_ -= a.channels;
      if (++kx_ == a.kernel) {
        kx_ = 0;
        ky_++;
      }
    }
  }

  const T* image_;
  int corner_[kOwned];
  int channel_;
  int ky_ = 0, kx_ = 0;
};

// The right matrix: [batch][columns][row_stride], k contiguous. As for the rows, 16-byte chunks from the depth on are not read.
template <class T>
struct PackedColumns {
  const T* w;
  int columns;
  int64_t row_stride;
  Batch batch;
};

// The result, and the residual if there is one: [batch][rows][row_stride].
template <class T>
struct ResultRows {
  T* y;
  int64_t row_stride;
  Batch batch;
};

// What happens to a sum before it is stored, in this order.
struct Epilogue {
  const float* bias;  // [columns], or [rows] with bias_by_row, or null
  bool bias_by_row;
  Activation activation;
  const void* residual;  // laid out as y, or null; may be y itself
  Moments moments = {};  // of what is stored
};

}  // namespace tokenflow::cuda

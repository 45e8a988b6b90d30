// Matrix products through cuBLASLt. Row-major, like everything here.
#pragma once

#include <cstdint>
#include <memory>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_device.h"

namespace fairway {

// Element (i, j) of the logical matrix is data[i·ld + j], or data[j·ld + i] if transposed; problem
// b of a batch starts `stride` elements after the one before.
template <class T>
struct CudaMatrix {
  const T* data;
  int64_t ld;
  bool transposed = false;
  int64_t stride = 0;
};

struct CudaMatmulShape {
  int64_t m, n, k;
  int64_t batch = 1;
  // The kernel is chosen by (n, k) alone and sums k in one piece, so that a row of C has the same
  // bits whatever m is.
  bool rows_independent = false;
};

// D[m, n] = alpha·A[m, k] B[k, n] + beta·C; C and D row-major with leading dimension ldc, of type T
// or float; C may be D, and is not read where beta is 0. T float (in full float32 precision) or
// bf16; sums are float32. For one problem the same kernel is chosen every time on a GPU model.
template <class T, class C>
void cuda_matmul(CudaDevice& device, const CudaMatmulShape& shape, CudaMatrix<T> a, CudaMatrix<T> b,
                 const C* c, C* d, int64_t ldc, float alpha, float beta, int64_t stride_c = 0);
template <class T, class C>
void cuda_matmul(CudaDevice& device, const CudaMatmulShape& shape, CudaMatrix<T> a, CudaMatrix<T> b,
                 C* c, int64_t ldc, float alpha, float beta, int64_t stride_c = 0) {
  cuda_matmul<T, C>(device, shape, a, b, c, c, ldc, alpha, beta, stride_c);
}

// cuBLASLt's handle and the kernels chosen so far.
class CudaMatmul {
 public:
  CudaMatmul();
  ~CudaMatmul();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairway

// Matrix products on the CPU.
#pragma once

#include <complex>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/cpu_device.h"

namespace fairway {

// A row-major matrix in memory: element (i, j) of the *logical* matrix is data[i·ld + j], or
// data[j·ld + i] if `transposed`.
template <class T>
struct MatrixRef {
  const T* data;
  int64_t ld;
  bool transposed = false;
};
template <class T>
MatrixRef<T> mat(const T* data, int64_t ld) {
  return {data, ld, false};
}
template <class T>
MatrixRef<T> mat_t(const T* data, int64_t ld) {
  return {data, ld, true};
}

// How many rows tiles have whose rows' bits must not depend on the other rows, nor on their place
// among them: at most `most`, and a multiple of `multiple`.
struct RowTiles {
  int64_t most, multiple;
};
// For oneDNN's kernels on this machine. With AVX-512 an element of C is summed in the same order in
// any tile. With less, kernels take 6 rows at a time, those left over otherwise, and their blocks
// along k depend on the tile's shape: there all tiles have one size.
RowTiles row_tiles();

// One tile by the calling thread: C[m,n] (+)= A[m,k] B[k,n]; C is row-major with leading dimension
// ldc. `accumulate` adds to C. Each element of C is summed over k in an order that depends on (k,
// n), the layout and what row_tiles says of m only. Real types: float
// (oneDNN; always in float32 here), bf16 inputs (oneDNN), double and complex<double> (plain loops,
// the slow twin).
void matmul_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<float> a,
                 MatrixRef<float> b, float* c, int64_t ldc, bool accumulate);
void matmul_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<bf16> a,
                 MatrixRef<bf16> b, float* c, int64_t ldc, bool accumulate);
void matmul_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<double> a,
                 MatrixRef<double> b, double* c, int64_t ldc, bool accumulate);
void matmul_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k,
                 MatrixRef<std::complex<double>> a, MatrixRef<std::complex<double>> b,
                 std::complex<double>* c, int64_t ldc, bool accumulate);

// The whole product on all threads: C[m,n] (+)= A[m,k] B[k,n], cut into tiles by shape alone. For
// float with device.precision() == bfloat16, inputs are rounded to bf16 first unless `exact`. Not
// to be called from inside a parallel region.
template <class T>
void matmul(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<T> a, MatrixRef<T> b,
            T* c, int64_t ldc, bool accumulate, bool exact = false);

// `batch` products of one shape: problem i reads a.data + i·stride_a and so on.
template <class T>
void matmul_batched(CpuDevice& device, int64_t batch, int64_t m, int64_t n, int64_t k,
                    MatrixRef<T> a, int64_t stride_a, MatrixRef<T> b, int64_t stride_b, T* c,
                    int64_t ldc, int64_t stride_c, bool accumulate, bool exact = false);

}  // namespace fairway

// Which of the kernels that cuBLASLt offers for a product of bf16 matrices runs it on a Hopper GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fairway {

inline constexpr int kTile176x128 = 201;  // of cublasLtMatmulTile_t

// C[m, n] = A[m, k] B[k, n] + beta·C. m is left out on purpose: it must not decide where rows are
// independent, and there is no rule for other products that needs it.
struct MatmulClass {
  int64_t n, k;
  bool rows_independent;  // C is bf16; otherwise it is float32
  bool adds;              // beta is not 0
};

// The index of one of the kernels whose `tiles` are given, cuBLASLt's first choice first.
size_t choose_kernel(const MatmulClass& product, std::span<const int> tiles);

}  // namespace fairway

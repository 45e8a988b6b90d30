// The way back through a linear map and the RMS norm before it, in one bf16 product on Hopper GPUs.
// With y = n Wᵀ, n = scale · x · rstd and dn = dy W:
//   dx += rstd·(scale·dn − n·(n·dn)/(scale·in)),   n·dn = Σ_j y_j dy_j
// so a row's n·dn, which whoever made dy may know, is all that the product's epilogue needs to know
// before it: dn is neither stored nor rounded. Conventions for operands and launches are those of
// linear_sm90.cuh; a row's bits do not depend on other documents.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/ops/adapter_operands_sm90.h"

namespace fairway::cuda {

// What a row's gradient gets: factor·dn + along·n.
struct alignas(8) NormBackRow {
  float factor, along;
};

// Where a row's n·dn comes from. With adapters dn also has dxa A, which adds dxa·xa for xa = n Aᵀ.
struct NormBackSums {
  const float* half_dots;  // [tiles, rows], whose sum over the tiles is half of y·dy
  int64_t tiles, rows, in;
  const bf16 *xa, *dxa;  // [rows, width], width a multiple of 8; null: no adapters
  int64_t width;
  const float* rstd;  // [rows]
  double scale;
};
// → row [rows].
void norm_back_rows(cudaStream_t stream, const NormBackSums& sums, NormBackRow* row);

struct LinearNormBack {
  const bf16* dy;            // [rows, out]
  const bf16* w_transposed;  // [in, out]
  const bf16* n;             // [rows, in]
  const NormBackRow* row;    // [rows]
  bf16* dx;                  // [rows, in]
  int64_t rows, in, out;
};
// dx += factor·(dy W + the adapters') + along·n. Null adapters: without.
void linear_norm_back(cudaStream_t stream, const LinearNormBack& op,
                      const AdapterOperands* adapters);

}  // namespace fairway::cuda

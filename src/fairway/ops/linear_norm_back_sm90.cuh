// The way back through a linear map and the RMS norm before it, in one product on Hopper GPUs, of
// operands in bf16 or in e4m3.
// With y = n Wᵀ, n = scale · x · rstd and dn = dy W:
//   dx += rstd·(scale·dn − n·(n·dn)/(scale·in)),   n·dn = Σ_j y_j dy_j
// so a row's n·dn, which whoever made dy may know, is all that the product's epilogue needs to know
// before it: dn is neither stored nor rounded. Conventions for operands and launches are those of
// linear_sm90.cuh; a row's bits do not depend on other documents.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/e4m3.h"

namespace fairway::cuda {

struct AdapterOperands;  // ops/adapter_operands_sm90.h

// What a row's gradient gets: factor·dn + along·n.
struct alignas(8) NormBackRow {
  float factor, along;
};

// Exponents of the scales of e4m3 operands, in device memory: row t of dy times
// 2^(dy_rows[t] + *dy), W times 2^*w.
struct NormBackScales {
  const int32_t *dy_rows, *dy, *w;
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
// → row [rows], whose factors undo `scales` too, where there are any.
void norm_back_rows(cudaStream_t stream, const NormBackSums& sums, const NormBackScales* scales,
                    NormBackRow* row);

template <class Element>
struct LinearNormBack {
  const Element* dy;            // [rows, out]
  const Element* w_transposed;  // [in, out]
  const bf16* n;                // [rows, in]
  const NormBackRow* row;       // [rows]
  bf16* dx;                     // [rows, in]
  int64_t rows, in, out;        // with e4m3, out is a multiple of 128
};
// dx += factor·(dy W) + along·n. Element: bf16 or e4m3.
template <class Element>
void linear_norm_back(cudaStream_t stream, const LinearNormBack<Element>& op);
// dx += factor·(dy W + the adapters') + along·n. Here the product itself undoes `scales` of e4m3
// operands, since adapters have none: norm_back_rows is not to.
template <class Element>
void linear_norm_back(cudaStream_t stream, const LinearNormBack<Element>& op,
                      const AdapterOperands& adapters, const NormBackScales& scales = {});

}  // namespace fairway::cuda

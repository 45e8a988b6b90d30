// The MLP's way back into its norm in the product that makes dn, on Hopper GPUs, of dz in bf16 or
// as e4m3 operands. Internal to ops/*_cuda.cpp.
#pragma once

#include <cstdint>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/linear_norm_back_sm90.cuh"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway::cuda {

// Device memory for it, of `rows` and leaky_sq_dot_tiles(F) tiles.
struct MlpNormBackWork {
  float* half_dots;  // [tiles, rows], filled by the product that made dz
  NormBackRow* row;  // [rows]
};

// Whether that product has tiles for the adapters; for none it has.
bool mlp_norm_back_fits(const LowRankAddedBack<bf16>& added, const MlpNormBack<bf16>& norm,
                        int64_t D);

// dz [T, F] times Wup, given as its transpose [D, F], and what an adapter adds, through the norm
// into norm.dx; n [T, D]. `scales`: of e4m3 operands.
template <class Element>
void mlp_norm_back(CudaDevice& device, Tensor<const Element> dz, const Element* wup_transposed,
                   Tensor<const bf16> n, const LowRankAddedBack<bf16>& added,
                   const MlpNormBack<bf16>& norm, const MlpNormBackWork& work,
                   const NormBackScales* scales = nullptr);

}  // namespace fairway::cuda

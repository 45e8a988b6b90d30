#include "fairway/ops/mlp_norm_back_cuda.h"

#include "fairway/base/check.h"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"

namespace fairway::cuda {

bool mlp_norm_back_fits(const LowRankAddedBack<bf16>& added, const MlpNormBack<bf16>& norm,
                        int64_t D) {
  if (!added) return true;
  check(norm.xa.data != nullptr, "the MLP's way back into its norm: adapters without xa");
  const auto fits = [&](const bf16* x) {
    return adapters_fit(added.down.rank, D, added.down.docs, x);
  };
  return fits(added.dxa.data) && fits(norm.xa.data);
}

template <class Element>
void mlp_norm_back(CudaDevice& device, Tensor<const Element> dz, const Element* wup_transposed,
                   Tensor<const bf16> n, const LowRankAddedBack<bf16>& added,
                   const MlpNormBack<bf16>& norm, const MlpNormBackWork& work,
                   const NormBackScales* scales) {
  const int64_t rows = n.extent(0), D = n.extent(1), F = dz.extent(1);
  if (rows == 0) return;
  // With adapters, which have no scales, the product undoes them itself.
  norm_back_rows(device.stream(),
                 {.half_dots = work.half_dots,
                  .tiles = leaky_sq_dot_tiles(F),
                  .rows = rows,
                  .in = D,
                  .xa = added ? norm.xa.data : nullptr,
                  .dxa = added.dxa.data,
                  .width = added.down.width(),
                  .rstd = norm.rstd.data,
                  .scale = norm.scale},
                 added ? nullptr : scales, work.row);
  const LinearNormBack<Element> op{.dy = dz.data,
                                   .w_transposed = wup_transposed,
                                   .n = n.data,
                                   .row = work.row,
                                   .dx = norm.dx.data,
                                   .rows = rows,
                                   .in = D,
                                   .out = F};
  if (added)
    linear_norm_back(device.stream(), op,
                     adapters_down_backward(device, rows, added.dxa, added.down),
                     scales != nullptr ? *scales : NormBackScales{});
  else
    linear_norm_back(device.stream(), op);
}
template void mlp_norm_back(CudaDevice&, Tensor<const bf16>, const bf16*, Tensor<const bf16>,
                            const LowRankAddedBack<bf16>&, const MlpNormBack<bf16>&,
                            const MlpNormBackWork&, const NormBackScales*);
template void mlp_norm_back(CudaDevice&, Tensor<const e4m3>, const e4m3*, Tensor<const bf16>,
                            const LowRankAddedBack<bf16>&, const MlpNormBack<bf16>&,
                            const MlpNormBackWork&, const NormBackScales*);

}  // namespace fairway::cuda

#include "fairway/ops/mlp_e4m3_epilogues_sm90.cuh"
#include "fairway/ops/mlp_e4m3_sm90.cuh"
#include "fairway/sm90/gemm_resident_launch.cuh"

namespace fairway::cuda {

void mlp_e4m3_up(cudaStream_t stream, const e4m3* n, const e4m3* wup, const int32_t* exponents,
                 int64_t T, int64_t D, int64_t F, e4m3* f, e4m3* z) {
  if (T == 0) return;
  require(mlp_e4m3_fits(D, F), "an e4m3 MLP's widths must be multiples of 128");
  const auto rows = static_cast<int>(T), columns = static_cast<int>(F);
  if (z != nullptr)
    sm90::resident_launch<LeakySqE4m3Epilogue<true>>(stream, n, wup, T, F, D,
                                                     {f, z, rows, columns, exponents});
  else
    sm90::resident_launch<LeakySqE4m3Epilogue<false>>(stream, n, wup, T, F, D,
                                                      {f, nullptr, rows, columns, exponents});
}

void mlp_e4m3_down(cudaStream_t stream, const e4m3* f, const e4m3* wdown, const int32_t* exponents,
                   const bf16* residual, int64_t T, int64_t D, int64_t F, bf16* y) {
  if (T == 0) return;
  require(mlp_e4m3_fits(D, F), "an e4m3 MLP's widths must be multiples of 128");
  const auto rows = static_cast<int>(T), columns = static_cast<int>(D);
  if (residual != nullptr)
    sm90::wide_launch<ScaledE4m3Epilogue<true, false>>(
        stream, f, wdown, T, D, F,
        {residual, y, rows, columns, exponents, kE4m3F, kE4m3Down, nullptr});
  else
    sm90::wide_launch<ScaledE4m3Epilogue<false, false>>(
        stream, f, wdown, T, D, F,
        {nullptr, y, rows, columns, exponents, kE4m3F, kE4m3Down, nullptr});
}

void mlp_e4m3_down_backward(cudaStream_t stream, const e4m3* dm, const int32_t* dm_exponents,
                            const e4m3* wdown_transposed, const int32_t* exponents, const e4m3* z,
                            int64_t T, int64_t D, int64_t F, e4m3* dz, float* half_dots) {
  if (T == 0) return;
  require(mlp_e4m3_fits(D, F), "an e4m3 MLP's widths must be multiples of 128");
  sm90::wide_launch<LeakySqE4m3BackwardEpilogue>(
      stream, dm, wdown_transposed, T, F, D,
      {z, dz, static_cast<int>(T), static_cast<int>(F), exponents, dm_exponents, half_dots});
}

void mlp_e4m3_up_backward(cudaStream_t stream, const e4m3* dz, const int32_t* dm_exponents,
                          const e4m3* wup_transposed, const int32_t* exponents, int64_t T,
                          int64_t D, int64_t F, bf16* dn) {
  if (T == 0) return;
  require(mlp_e4m3_fits(D, F), "an e4m3 MLP's widths must be multiples of 128");
  sm90::wide_launch<ScaledE4m3Epilogue<false, true>>(
      stream, dz, wup_transposed, T, D, F,
      {nullptr, dn, static_cast<int>(T), static_cast<int>(D), exponents, kE4m3Dz, kE4m3Up,
       dm_exponents});
}

}  // namespace fairway::cuda

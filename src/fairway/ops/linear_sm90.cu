#include "fairway/ops/linear_operands_sm90.cuh"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

// C as it is.
class StoreEpilogue {
 public:
  struct Params {
    bf16* c;
    int rows, columns;
  };
  __device__ __forceinline__ StoreEpilogue(const Params& params, const sm90::GemmTileAt& at)
      : c_(params.c), at_(at, params.rows, params.columns) {}
  __device__ __forceinline__ void early(int) {}
  __device__ __forceinline__ void chunk(int c, const float (&v)[4][8], uint32_t) {
#pragma unroll
    for (int p = 0; p < 4; ++p) sm90::store_global_16(c_ + at_.offset(c, p), v[p], at_.has_row(p));
  }
  __device__ __forceinline__ void finish() {}

 private:
  bf16* c_;
  sm90::TileElements at_;
};

}  // namespace

void linear_three_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                 const bf16* w_transposed, int64_t rows, int64_t in,
                                 const int64_t out[3], bf16* dx) {
  using Config = sm90::WideConfig<3, 1>;
  if (rows == 0) return;
  const LinearThreeOperands<Config> operands(dy, w_transposed, rows, in, out);
  sm90::wide_launch<Config, StoreEpilogue>(stream, operands.matrices, rows, in, operands.schedule,
                                           {dx, static_cast<int>(rows), static_cast<int>(in)});
}

}  // namespace fairway::cuda

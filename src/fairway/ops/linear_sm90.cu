#include "fairway/ops/linear_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

// C as it is.
class StoreEpilogue {
 public:
  struct Params {};
  static constexpr bool kInput = false;
  __device__ __forceinline__ StoreEpilogue(const Params&, const sm90::GemmTileAt&) {}
  __device__ __forceinline__ void chunk(int, float (&)[32], const uint32_t (&)[16]) {}
  __device__ __forceinline__ void finish() {}
};

}  // namespace

void linear_three_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                 const bf16* const w[3], int64_t rows, int64_t in,
                                 const int64_t out[3], bf16* dx) {
  using Config = sm90::WideConfig<sm90::Major::kMN, 3>;
  if (rows == 0) return;
  auto matrices = sm90::wide_result<3>(dx, rows, in);
  sm90::WideSchedule schedule{};
  int blocks = 0;
  for (int i = 0; i < 3; ++i) {
    require(in > 0 && out[i] > 0 && in % 64 == 0 && out[i] % 64 == 0,
            "a matrix product's widths must be multiples of 64");
    sm90::wide_operands<Config>(matrices, i, dy[i], w[i], out[i]);
    schedule.segment_begin[i] = blocks;
    blocks += static_cast<int>(out[i] / sm90::kBlockK);
  }
  sm90::wide_launch<Config, StoreEpilogue>(stream, matrices, schedule, blocks, {});
}

}  // namespace fairway::cuda

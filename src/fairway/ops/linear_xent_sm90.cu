#include "fairway/ops/linear_xent_sm90.cuh"
#include "fairway/ops/softcap_cuda.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

constexpr int kTileColumns = sm90::WideConfig<>::kTileColumns;

// Two consumers alternate between the tensor cores and their epilogues, so the epilogue should take
// no longer than the stages let one lag behind the other. It takes as long as the special function
// unit needs for two exponentials and a quarter of a reciprocal per element.
template <bool kGradient>
class XentEpilogue {
 public:
  struct Params {
    Softcap cap;
    bf16* g;
    float* sums;
    int rows, columns;
  };

  __device__ __forceinline__ XentEpilogue(const Params& params, const sm90::GemmTileAt& at)
      : params_(params), row_(at.row), column_(at.column), at_(at, params.rows, params.columns) {}

  __device__ __forceinline__ void early(int) {}

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        float q[4];
        softcap_q(params_.cap, v[p] + i, q);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float e = exp_softcap(params_.cap, q[j]);
          sums_[p % 2] += e;
          if constexpr (kGradient) v[p][i + j] = e * quarter_slope(q[j]);
        }
      }
      if constexpr (kGradient)
        sm90::store_global_16(params_.g + at_.offset(c, p), v[p], p % 2 * 8 < at_.rows_left);
    }
  }

  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sm90::quad_sum(sums_[half]);
      const int row = row_ + 8 * half;
      if (threadIdx.x % 4 == 0 && row < params_.rows)
        params_.sums[static_cast<int64_t>(row) * (params_.columns / kTileColumns) +
                     column_ / kTileColumns] = sum;
    }
  }

 private:
  const Params& params_;
  int row_, column_;
  sm90::TileElements at_;
  float sums_[2] = {0.0f, 0.0f};  // of the thread's two rows
};

}  // namespace

bool xent_logits_fits(int64_t width, int64_t vocab, double cap) {
  return width > 0 && width % sm90::WideConfig<>::kBlockK == 0 && vocab > 0 &&
         vocab % kTileColumns == 0 && cap <= kMostCap;
}

int64_t xent_tiles(int64_t vocab) {
  return vocab / kTileColumns;
}

void xent_logits(cudaStream_t stream, const XentLogits& op) {
  if (op.rows == 0) return;
  require(xent_logits_fits(op.width, op.vocab, op.cap), "xent_logits: a shape without a kernel");
  const auto launch = [&](auto gradient) {
    sm90::wide_launch<XentEpilogue<decltype(gradient)::value>>(
        stream, op.x, op.w, op.rows, op.vocab, op.width,
        {softcap_of(op.cap), op.g, op.sums, static_cast<int>(op.rows), static_cast<int>(op.vocab)});
  };
  if (op.g != nullptr)
    launch(std::true_type{});
  else
    launch(std::false_type{});
}

}  // namespace fairway::cuda

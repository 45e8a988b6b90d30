#include <algorithm>
#include <type_traits>

#include "fairway/ops/adapters_sm90.cuh"
#include "fairway/ops/linear_adapted_sm90.cuh"
#include "fairway/ops/linear_operands_sm90.cuh"

namespace fairway::cuda {
namespace {

// C, or residual + C. Widths are multiples of a chunk's, or without kWholeChunks of 8.
template <bool kResidual, bool kWholeChunks = true>
class AdaptedEpilogue {
 public:
  struct Params {
    const bf16* residual;
    bf16* c;  // may be the residual
    int columns;
  };
  __device__ __forceinline__ AdaptedEpilogue(const Params& params, const sm90::GemmTileAt& at)
      : params_(params), at_(at, at.row_end, params.columns) {}

  __device__ __forceinline__ void early(int c) {
    if constexpr (kResidual) in_.early(params_.residual, at_, c);
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      if constexpr (kResidual) {
        const uint4 residual = in_.take(params_.residual, at_, c, p);
        const uint32_t pairs[4] = {residual.x, residual.y, residual.z, residual.w};
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          const auto [low, high] = sm90::unpack_bf16_late(pairs[i / 2], zero);
          v[p][i] += low;
          v[p][i + 1] += high;
        }
      }
      const bool valid = kWholeChunks ? at_.has_row(p) : at_.has(c, p);
      sm90::store_global_16(params_.c + at_.offset(c, p), v[p], valid);
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  const Params& params_;
  sm90::TileElements at_;
  sm90::TileRows<3> in_;  // with a residual only
};

template <class Element>
void adapted(cudaStream_t stream, const Element* x, const Element* w,
             const sm90::WideScales& scales, const bf16* residual, const AdapterOperands& adapters,
             int64_t rows, int64_t in, int64_t out, bf16* y) {
  using Config = sm90::WideConfig<1, 1, true, Element>;
  if (rows == 0) return;
  require_widths(in, out);
  const sm90::WideMatrices<Config> matrices{{sm90::tensor_map(x, rows, in, in)},
                                            {sm90::tensor_map_fragments(w, out, in, in)}};
  sm90::WideSchedule schedule{};
  schedule.k_blocks = static_cast<int>(in / Config::kBlockK);
  const auto added = wide_adapters<Config>(adapters, rows, scales);
  const int64_t tile_rows = adapters.row_tiles * sm90::kTileRows;
  const auto columns = static_cast<int>(out);
  if (residual != nullptr)
    sm90::wide_launch<Config, AdaptedEpilogue<true>>(stream, matrices, tile_rows, out, schedule,
                                                     {residual, y, columns}, added);
  else
    sm90::wide_launch<Config, AdaptedEpilogue<false>>(stream, matrices, tile_rows, out, schedule,
                                                      {nullptr, y, columns}, added);
}

}  // namespace

void linear_adapted(cudaStream_t stream, const bf16* x, const bf16* w, const bf16* residual,
                    const AdapterOperands& adapters, int64_t rows, int64_t in, int64_t out,
                    bf16* y) {
  adapted(stream, x, w, {}, residual, adapters, rows, in, out, y);
}

void linear_adapted(cudaStream_t stream, const e4m3* x, const int32_t* x_exponent, const e4m3* w,
                    const int32_t* w_exponent, const bf16* residual,
                    const AdapterOperands& adapters, int64_t rows, int64_t in, int64_t out,
                    bf16* y) {
  require(in % sm90::kBoxWidth<e4m3> == 0,
          "linear_adapted: the width of e4m3 operands must be a multiple of 128");
  adapted(stream, x, w, {x_exponent, w_exponent, nullptr}, residual, adapters, rows, in, out, y);
}

void adapters_alone(cudaStream_t stream, const AdapterOperands& adapters, int64_t rows, int64_t out,
                    bf16* y) {
  if (rows == 0) return;
  const auto launch = [&](auto tile_columns) {
    using Config = sm90::WideConfig<0, 1, true, bf16, decltype(tile_columns)::value>;
    // No blocks along K but the adapters': there are no other matrices.
    sm90::wide_launch<Config, AdaptedEpilogue<false, false>>(
        stream, {}, adapters.row_tiles * sm90::kTileRows, out, sm90::WideSchedule{},
        {nullptr, y, static_cast<int>(out)}, wide_adapters<Config>(adapters, rows));
  };
  // Tiles as wide as can be that leave the fewest columns over.
  const auto left_over = [&](int64_t columns) { return (columns - out % columns) % columns; };
  if (left_over(256) <= std::min(left_over(192), left_over(128)))
    launch(std::integral_constant<int, 256>{});
  else if (left_over(192) <= left_over(128))
    launch(std::integral_constant<int, 192>{});
  else
    launch(std::integral_constant<int, 128>{});
}

void linear_three_adapted_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                         const bf16* w_transposed, const AdapterOperands& adapters,
                                         int64_t rows, int64_t in, const int64_t out[3], bf16* dx) {
  using Config = sm90::WideConfig<3, 1, true>;
  if (rows == 0) return;
  const LinearThreeOperands<Config> operands(dy, w_transposed, rows, in, out);
  sm90::wide_launch<Config, AdaptedEpilogue<false>>(
      stream, operands.matrices, adapters.row_tiles * sm90::kTileRows, in, operands.schedule,
      {nullptr, dx, static_cast<int>(in)}, wide_adapters<Config>(adapters, rows));
}

}  // namespace fairway::cuda

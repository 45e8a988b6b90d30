#include <algorithm>
#include <type_traits>

#include "fairway/ops/adapters_sm90.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/linear_norm_back_sm90.cuh"
#include "fairway/ops/linear_operands_sm90.cuh"

namespace fairway::cuda {
namespace {

// kLanes neighbouring threads a row: one is enough for a few tiles, adapters bring more to read.
template <int kLanes>
__global__ void __launch_bounds__(kRowThreads)
    norm_back_rows_kernel(const __grid_constant__ NormBackSums sums, float scale,
                          const __grid_constant__ NormBackScales scales, NormBackRow* to) {
  wait_for_earlier_kernels();
  const int64_t thread = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  const int64_t row = thread / kLanes;
  const int lane = static_cast<int>(thread % kLanes);
  float dot = 0;
  if (row < sums.rows) {
    for (int64_t tile = lane; tile < sums.tiles; tile += kLanes)
      dot += sums.half_dots[tile * sums.rows + row];
    dot *= 2.0f;
    if (sums.xa != nullptr)
      for (int64_t j = lane * kPack; j < sums.width; j += kLanes * kPack) {
        float a[kPack], b[kPack];
        load<kPack>(sums.xa + row * sums.width + j, a);
        load<kPack>(sums.dxa + row * sums.width + j, b);
#pragma unroll
        for (int i = 0; i < kPack; ++i) dot = fmaf(a[i], b[i], dot);
      }
  }
  dot = group_sum<kLanes>(dot);
  if (row >= sums.rows || lane != 0) return;
  const float rstd = sums.rstd[row];
  float factor = rstd * scale;
  if (scales.dy_rows != nullptr)
    factor *= power_of_two(-(scales.dy_rows[row] + *scales.dy)) * power_of_two(-*scales.w);
  to[row] = {factor, -rstd * (dot / static_cast<float>(sums.in)) / scale};
}

// dx += factor·C + along·n, a thread's two rows having their own factors. The registers hold half
// of what is to be read: two of the four chunks at a time, the others on their way to the L2 cache.
class NormBackEpilogue {
 public:
  struct Params {
    const bf16* n;
    const NormBackRow* row;
    bf16* dx;
    int rows, columns;
  };

  __device__ __forceinline__ NormBackEpilogue(const Params& params, const sm90::GemmTileAt& at)
      : params_(params),
        at_(at, min(at.row_end, params.rows), params.columns),
        row_(params.row + at.row) {}

  __device__ __forceinline__ void early(int c) {
    if (c == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        factors_[half] = 8 * half < at_.rows_left
                             ? *reinterpret_cast<const float2*>(row_ + 8 * half)
                             : make_float2(0, 0);
    }
    dx_.early(params_.dx, at_, c);
    n_.early(params_.n, at_, c);
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const auto [factor, along] = factors_[p % 2];
      const uint4 dx = dx_.take(params_.dx, at_, c, p), n = n_.take(params_.n, at_, c, p);
      const uint32_t dx_pairs[4] = {dx.x, dx.y, dx.z, dx.w};
      const uint32_t n_pairs[4] = {n.x, n.y, n.z, n.w};
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float2 n_pair = sm90::unpack_bf16_late(n_pairs[i / 2], zero);
        const float2 dx_pair = sm90::unpack_bf16_late(dx_pairs[i / 2], zero);
        v[p][i] = fmaf(factor, v[p][i], fmaf(along, n_pair.x, dx_pair.x));
        v[p][i + 1] = fmaf(factor, v[p][i + 1], fmaf(along, n_pair.y, dx_pair.y));
      }
      sm90::store_global_16(params_.dx + at_.offset(c, p), v[p], at_.has_row(p));
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  const Params& params_;
  sm90::TileElements at_;
  const NormBackRow* row_;
  float2 factors_[2];
  sm90::TileRows<2> dx_, n_;
};

template <class Element>
NormBackEpilogue::Params epilogue_params(const LinearNormBack<Element>& op) {
  return {op.n, op.row, op.dx, static_cast<int>(op.rows), static_cast<int>(op.in)};
}

template <class Config, class Element>
void check_widths(const LinearNormBack<Element>& op) {
  require_widths(op.in, op.out);
  require(op.out % Config::kBlockK == 0,
          "linear_norm_back: the width of e4m3 operands must be a multiple of 128");
}

}  // namespace

void norm_back_rows(cudaStream_t stream, const NormBackSums& sums, const NormBackScales* scales,
                    NormBackRow* row) {
  if (sums.rows == 0) return;
  const auto scale = static_cast<float>(sums.scale);
  const auto launch = [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    launch_dependent(stream, norm_back_rows_kernel<kLanes>,
                     grid(ceil_div(sums.rows * kLanes, kRowThreads)), kRowThreads, 0, sums, scale,
                     scales != nullptr ? *scales : NormBackScales{}, row);
  };
  if (sums.xa != nullptr)
    launch(std::integral_constant<int, 8>{});
  else
    launch(std::integral_constant<int, 1>{});
  cuda_check_launch("norm_back_rows");
}

template <class Element>
void linear_norm_back(cudaStream_t stream, const LinearNormBack<Element>& op) {
  if (op.rows == 0) return;
  check_widths<sm90::WideConfig<1, 1, false, Element>>(op);
  sm90::wide_launch<NormBackEpilogue>(stream, op.dy, op.w_transposed, op.rows, op.in, op.out,
                                      epilogue_params(op));
}
template void linear_norm_back(cudaStream_t, const LinearNormBack<bf16>&);
template void linear_norm_back(cudaStream_t, const LinearNormBack<e4m3>&);

template <class Element>
void linear_norm_back(cudaStream_t stream, const LinearNormBack<Element>& op,
                      const AdapterOperands& adapters, const NormBackScales& scales) {
  if (op.rows == 0) return;
  using Config = sm90::WideConfig<1, 1, true, Element>;
  check_widths<Config>(op);
  const sm90::WideMatrices<Config> matrices{
      {sm90::tensor_map(op.dy, op.rows, op.out, op.out)},
      {sm90::tensor_map_fragments(op.w_transposed, op.in, op.out, op.out)}};
  sm90::WideSchedule schedule{};
  schedule.k_blocks = static_cast<int>(op.out / Config::kBlockK);
  sm90::wide_launch<Config, NormBackEpilogue>(
      stream, matrices, adapters.row_tiles * sm90::kTileRows, op.in, schedule, epilogue_params(op),
      wide_adapters<Config>(adapters, op.rows, {scales.dy, scales.w, scales.dy_rows}));
}
template void linear_norm_back(cudaStream_t, const LinearNormBack<bf16>&, const AdapterOperands&,
                               const NormBackScales&);
template void linear_norm_back(cudaStream_t, const LinearNormBack<e4m3>&, const AdapterOperands&,
                               const NormBackScales&);

}  // namespace fairway::cuda

// bf16 on Hopper: the softcap happens in the epilogue of the logits' product, before a row's Σ e^l
// is known. That leaves one factor a row, d_nll/Σ, and the target's element; the factor passes
// through both products of the way back and joins x in one and the caller's factor in the other.
// The logits are written once and read twice. Elsewhere, step by step.
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/linear_xent.h"
#include "fairway/ops/linear_xent_sm90.cuh"
#include "fairway/ops/softcap_cuda.cuh"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;  // rows of a block

struct XentRows {
  const bf16 *x, *w;  // [rows, D], [V, D]
  const int32_t* targets;
  const float* sums;  // [rows, tiles]
  int64_t rows, D, V, tiles;
  Softcap cap;
  float* nll;
  // With gradients: g [rows, V] as xent_logits left it, x times the rows' factors, the caller's
  // factors.
  const float* d_nll;
  bf16 *g, *x_scaled;
  float* factor;
};

// A warp per row. The target's logit is computed once more rather than fished out of the product's
// epilogue; its bits may differ from the epilogue's, in the last places of a float sum, so what
// cannot be negative is kept from it. (NaN stays NaN.)
template <bool kGradient>
__global__ __launch_bounds__(kRowThreads) void xent_rows_kernel(const XentRows op) {
  wait_for_earlier_kernels();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + thread / kWarp;
  if (row >= op.rows) return;
  const int64_t target = op.targets[row];
  const bf16 *x = op.x + row * op.D, *w = op.w + target * op.D;
  float sum = 0, z = 0;
  for (int64_t i = lane; i < op.tiles; i += kWarp) sum += op.sums[row * op.tiles + i];
  for_packs<kPack, 0>(op.D, lane, [&](int, int64_t j) {
    float a[kPack], b[kPack];
    load<kPack>(x + j, a);
    load<kPack>(w + j, b);
#pragma unroll
    for (int i = 0; i < kPack; ++i) z = fmaf(a[i], b[i], z);
  });
  sum = warp_sum(sum);
  z = warp_sum(z);
  const float q = 1.0f / one_plus_e(op.cap, z);
  if (lane == 0) {
    const float nll = logf(sum) - op.cap.c * (1.0f - 2.0f * q);
    op.nll[row] = nll < 0.0f ? 0.0f : nll;
  }
  if constexpr (kGradient) {
    const float factor = 4.0f * op.d_nll[row] / sum;
    if (lane == 0) {
      const float others = sum - exp_softcap(op.cap, q);
      store_one(op.g + row * op.V + target, (others < 0.0f ? 0.0f : -others) * quarter_slope(q));
      op.factor[row] *= factor;
    }
    for_packs<kPack, 0>(op.D, lane, [&](int, int64_t j) {
      float v[kPack];
      load<kPack>(x + j, v);
#pragma unroll
      for (int i = 0; i < kPack; ++i) v[i] *= factor;
      store<kPack>(op.x_scaled + row * op.D + j, v);
    });
  }
}

bool fits_sm90(const CudaDevice& device, const LinearXent<bf16>& in, Tensor<bf16> z) {
  return device.capability() == 90 && in.x.extent(0) > 0 &&
         cuda::xent_logits_fits(in.x.extent(1), in.w.extent(0), in.cap) &&
         aligned16(in.x.data, in.w.data, z.data);
}

void linear_xent_sm90(CudaDevice& device, const LinearXent<bf16>& in, Tensor<bf16> z,
                      const LinearXentOut<bf16>& out) {
  const int64_t rows = in.x.extent(0), D = in.x.extent(1), V = in.w.extent(0),
                tiles = cuda::xent_tiles(V);
  const bool gradient = in.d_nll != nullptr;
  // Multiples of 128 bytes first.
  const auto x_bytes = gradient ? static_cast<size_t>(rows * D) * sizeof(bf16) : 0;
  std::byte* work = device.workspace(Workspace::hidden,
                                     x_bytes + static_cast<size_t>(rows * tiles) * sizeof(float));
  const Tensor<bf16> x_scaled{reinterpret_cast<bf16*>(work), {rows, D}};
  auto* sums = reinterpret_cast<float*>(work + x_bytes);

  cuda::xent_logits(device.stream(), {.x = in.x.data,
                                      .w = in.w.data,
                                      .rows = rows,
                                      .width = D,
                                      .vocab = V,
                                      .cap = in.cap,
                                      .g = gradient ? z.data : nullptr,
                                      .sums = sums});
  const XentRows op{.x = in.x.data,
                    .w = in.w.data,
                    .targets = in.targets.data,
                    .sums = sums,
                    .rows = rows,
                    .D = D,
                    .V = V,
                    .tiles = tiles,
                    .cap = softcap_of(in.cap),
                    .nll = out.nll.data,
                    .d_nll = in.d_nll,
                    .g = z.data,
                    .x_scaled = x_scaled.data,
                    .factor = out.factor.data};
  const unsigned blocks = grid(ceil_div(rows, kWarps));
  launch_dependent(device.stream(), gradient ? xent_rows_kernel<true> : xent_rows_kernel<false>,
                   blocks, kRowThreads, 0, op);
  cuda_check_launch("linear_xent");
  if (!gradient) return;
  linear_backward_input<bf16>(device, z, in.w, out.dx, false);
  if (out.dw) linear_backward_weight<bf16>(device, z, x_scaled, out.dw);
}

}  // namespace

template <class T>
void linear_xent(CudaDevice& device, const LinearXent<T>& in, Tensor<T> z,
                 const LinearXentOut<T>& out) {
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90(device, in, z)) return linear_xent_sm90(device, in, z, out);
  linear_xent_steps<T>(device, in, z, out);
}

#define FAIRWAY_INSTANTIATE(T) \
  template void linear_xent(CudaDevice&, const LinearXent<T>&, Tensor<T>, const LinearXentOut<T>&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

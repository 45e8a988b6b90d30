// bf16 on Hopper: products whose epilogues apply f and its slope, and the norm's way back.
// Elsewhere, plain products and elementwise passes over the hidden rows.
#include "fairway/base/check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cuda.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "fairway/ops/mlp_norm_back_cuda.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/transpose_cuda.h"

namespace fairway {

namespace {

// [rows, width] in the device's workspace: one at a time.
template <class T>
Tensor<T> hidden_workspace(CudaDevice& device, int64_t rows, int64_t width) {
  const auto bytes = static_cast<size_t>(rows * width) * sizeof(T);
  return {reinterpret_cast<T*>(device.workspace(Workspace::hidden, bytes)), {rows, width}};
}

// Hopper, and widths that its kernels have tiles for.
template <class T>
bool fits_sm90(const CudaDevice& device, int64_t D, int64_t F) {
  return std::is_same_v<T, bf16> && device.capability() == 90 && cuda::widths_fit(D, F);
}

// f(z), and for bf16 the signs of z: the first half of the MLP, into `f`.
template <class T>
void up(CudaDevice& device, Tensor<const T> n, Tensor<const T> wup, const MlpHidden<T>& hidden,
        Tensor<T> f) {
  const int64_t F = wup.extent(0), D = wup.extent(1), rows = n.extent(0);
  if constexpr (std::is_same_v<T, bf16>) {
    uint32_t* signs = hidden.z ? hidden.signs.data : nullptr;
    if (fits_sm90<T>(device, D, F)) {
      check(cuda::leaky_sq_sign_bytes(rows, F) <=
                static_cast<size_t>(mlp_sign_words<bf16>(rows, F)) * sizeof(uint32_t),
            "mlp_leaky_sq: signs");
      cuda::leaky_sq_up(device.stream(), n.data, wup.data, rows, D, F, f.data, signs);
    } else {
      linear<T>(device, n, wup, f, false);
      leaky_sq_with_signs(device, f.size(), f.data, signs);
    }
  } else {
    const Tensor<T> z = hidden.z ? hidden.z : f;
    linear<T>(device, n, wup, z, false);
    leaky_sq_values<T>(device, z.size(), z.data, f.data);
  }
}

// In the device's workspace; null where there is no norm.
cuda::MlpNormBackWork norm_back_work(CudaDevice& device, int64_t rows, int64_t F, bool with_norm) {
  if (!with_norm) return {};
  const auto row_bytes = static_cast<size_t>(rows) * sizeof(cuda::NormBackRow);
  const auto dots_bytes = static_cast<size_t>(cuda::leaky_sq_dot_tiles(F) * rows) * sizeof(float);
  std::byte* const memory = device.workspace(Workspace::hidden, row_bytes + dots_bytes);
  // Multiples of 8 bytes first.
  return {reinterpret_cast<float*>(memory + row_bytes),
          reinterpret_cast<cuda::NormBackRow*>(memory)};
}

}  // namespace

template <class T>
void mlp_leaky_sq(CudaDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                  const LowRankAdded<T>& added) {
  const bool keeps_f = std::is_same_v<T, bf16> && hidden.z;
  const Tensor<T> f = keeps_f ? hidden.z : hidden_workspace<T>(device, n.extent(0), wup.extent(0));
  up<T>(device, n, wup, hidden, f);
  linear_adapted<T>(device, f, wdown, residual, added, y);
}

template <class T>
void mlp_leaky_sq_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           const MlpHidden<T>& hidden, Tensor<const T> wup, Tensor<const T> wdown,
                           Tensor<T> dn, Tensor<Accum<T>> dwup, Tensor<Accum<T>> dwdown,
                           const LowRankAddedBack<T>& added, const MlpNormBack<T>& norm,
                           const MlpTransposed<T>& transposed) {
  const int64_t F = wup.extent(0), D = wup.extent(1), rows = n.extent(0);
  Tensor<T> dz = hidden.z;
  if constexpr (std::is_same_v<T, bf16>) {
    if (dwdown) linear_backward_weight<T>(device, dm, hidden.z, dwdown);
    if (fits_sm90<T>(device, D, F)) {
      const bool joins_norm = norm && cuda::mlp_norm_back_fits(added, norm, D);
      const cuda::MlpNormBackWork work = norm_back_work(device, rows, F, joins_norm);
      const bf16* const wdown_transposed = cuda::transposed<1>(device, {wdown}, transposed.wdown);
      cuda::leaky_sq_down_backward(device.stream(), dm.data, wdown_transposed, hidden.z.data,
                                   hidden.signs.data, rows, D, F, dz.data, work.half_dots);
      if (joins_norm) {
        if (dwup) linear_backward_weight<T>(device, dz, n, dwup);
        cuda::mlp_norm_back<bf16>(device, dz, cuda::transposed<1>(device, {wup}, transposed.wup), n,
                                  added, norm, work);
        return;
      }
    } else {
      const Tensor<T> df = hidden_workspace<T>(device, rows, F);
      linear_backward_input<T>(device, dm, wdown, df, false);
      leaky_sq_backward_from_output(device, dz.size(), hidden.z.data, hidden.signs.data, df.data);
      dz = df;
    }
  } else {
    const Tensor<T> f = hidden_workspace<T>(device, rows, F);
    if (dwdown) {
      leaky_sq<T>(device, hidden, f);
      linear_backward_weight<T>(device, dm, f, dwdown);
    }
    linear_backward_input<T>(device, dm, wdown, f, false);
    leaky_sq_backward<T>(device, f.size(), hidden.z.data, f.data);
    dz = f;
  }
  if (dwup) linear_backward_weight<T>(device, dz, n, dwup);
  linear_adapted_backward_input<T>(device, dz, wup, added, dn, transposed.wup);
  if (norm) rms_norm_backward<T>(device, dn, n, norm.rstd, norm.scale, norm.dx);
}

template <class T>
void leaky_sq(CudaDevice& device, const MlpHidden<T>& hidden, Tensor<T> f) {
  if constexpr (std::is_same_v<T, bf16>)
    device.copy(f.data, hidden.z.data, static_cast<size_t>(f.size()) * sizeof(T));
  else
    leaky_sq_values<T>(device, f.size(), hidden.z.data, f.data);
}

#define FAIRWAY_INSTANTIATE(T)                                                                    \
  template void mlp_leaky_sq(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,      \
                             Tensor<const T>, const MlpHidden<T>&, Tensor<T>,                     \
                             const LowRankAdded<T>&);                                             \
  template void mlp_leaky_sq_backward(                                                            \
      CudaDevice&, Tensor<const T>, Tensor<const T>, const MlpHidden<T>&, Tensor<const T>,        \
      Tensor<const T>, Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>, const LowRankAddedBack<T>&, \
      const MlpNormBack<T>&, const MlpTransposed<T>&);                                            \
  template void leaky_sq(CudaDevice&, const MlpHidden<T>&, Tensor<T>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

// The MLP with its fused activation: m = f(n Wupᵀ) Wdownᵀ, f(z) = (z if z>0 else z/2)².
// f'(z) = 2z if z>0 else z/2. Legend: T rows, D model width, F hidden width.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fairway/base/accum.h"
#include "fairway/base/e4m3.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// What the forward pass keeps of the hidden rows for the backward pass.
template <class T>
struct MlpHidden {
  // [T, F] z; for bf16 f(z), whose slope is rebuilt from it and z's sign (z with e4m3 operands).
  Tensor<T> z;
  Tensor<uint32_t> signs;               // bf16: a bit an element, in an order private to the op
  Tensor<e4m3> f = {}, z_rounded = {};  // [T, F] instead of both, as ops/mlp_e4m3.h says
};
// Elements of `signs`: 0 unless T is bf16.
template <class T>
int64_t mlp_sign_words(int64_t rows, int64_t F) {
  if constexpr (!std::is_same_v<T, bf16>) return 0;
  // Kernels keep whole tiles of at most 256 x 256.
  const auto whole = [](int64_t n) { return (n + 255) / 256 * 256; };
  return whole(rows) * whole(F) / 32;
}

// n [T, D], wup [F, D], wdown [D, F] → hidden (null z: not kept), y [T, D] = residual + m + what an
// adapter adds; a null residual: y = m. y may be the residual.
template <class T>
void mlp_leaky_sq(CpuDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                  const LowRankAdded<T>& added = {});
template <class T>
void mlp_leaky_sq(CudaDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                  const LowRankAdded<T>& added = {});

// The way back through the RMS norm that made the MLP's input, n = scale · x · rstd
// (ops/rms_norm.h).
template <class T>
struct MlpNormBack {
  Tensor<const Accum<T>> rstd;  // [T]
  double scale = 1;
  Tensor<T> dx;        // [T, D] gets added what goes back; may be dm. Null: there is no way back
  Tensor<const T> xa;  // with adapters: n Aᵀ, like dxa

  explicit operator bool() const { return static_cast<bool>(dx); }
};

// Transposed copies of the two matrices (ops/transposed_weights.h). Null: the op makes those that
// it needs.
template <class T>
struct MlpTransposed {
  Tensor<const T> wup;    // [D, F]
  Tensor<const T> wdown;  // [F, D]
};

// From dm [T, D] and what was kept, which is lost:  dn = dz Wup + what an adapter adds.  dwup,
// dwdown accumulate; both null for test-time training. With `norm`, which wants n as the forward
// pass had it, dx becomes rms_norm_backward's, and dn [T, D] is scratch.
template <class T>
void mlp_leaky_sq_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           const MlpHidden<T>& hidden, Tensor<const T> wup, Tensor<const T> wdown,
                           Tensor<T> dn, Tensor<T> dwup, Tensor<T> dwdown,
                           const LowRankAddedBack<T>& added = {}, const MlpNormBack<T>& norm = {},
                           const MlpTransposed<T>& transposed = {});
template <class T>
void mlp_leaky_sq_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           const MlpHidden<T>& hidden, Tensor<const T> wup, Tensor<const T> wdown,
                           Tensor<T> dn, Tensor<Accum<T>> dwup, Tensor<Accum<T>> dwdown,
                           const LowRankAddedBack<T>& added = {}, const MlpNormBack<T>& norm = {},
                           const MlpTransposed<T>& transposed = {});

// The input of Wdown from what mlp_leaky_sq kept: f(z), elementwise.
template <class T>
void leaky_sq(CpuDevice& device, const MlpHidden<T>& hidden, Tensor<T> f);
template <class T>
void leaky_sq(CudaDevice& device, const MlpHidden<T>& hidden, Tensor<T> f);

}  // namespace fairway

// The MLP of ops/mlp_leaky_sq.h with e4m3 operands (base/e4m3.h) in four of its six products, for
// training:
//   z = n Wupᵀ,  f = f(z),  m = f Wdownᵀ,  df = dm Wdown,  dz = df⊙f'(z),  dn = dz Wup.
// Each operand x of these, as it is in the element type T, is read as Q(x·2^e)·2^-e, Q rounding to
// e4m3. Gradients are those formulas, not derivatives of Q. The products of the weight gradients,
// dWup = dzᵀ n and dWdown = dmᵀ f, read n, f, dm and dz as they are. Legend: T rows, D model width,
// F hidden width, L layers.
//
// The exponents e follow from weights and shapes alone, but for dm's, so that no state is carried
// from step to step:
//   n     the rows' norm is √D·ln, so no element is larger: the largest e with √D·ln·2^e ≤ 448
//   Wup, Wdown   from each matrix's largest magnitude
//   f     z_j is about N(0, s²), s² = ln²‖Wup‖²/F, where f is about s²: s²·2^e in (1/2, 1], which
//         leaves room for |z| up to 21 s
//   dm    from each row's largest magnitude
//   dz    dm's of the row, plus one of the matrix that brings dz, where dm's row has a quarter of
//         its largest magnitude as its root mean square, into (1/2, 1]
// A power of two as a scale costs no rounding, so the same products with operands of type T that
// hold the rounded values are the same thing: that is what is computed where there are no e4m3
// products, and what those are tested against.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <span>

#include "fairway/base/accum.h"
#include "fairway/base/e4m3.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"
#include "fairway/ops/e4m3_rows.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

// The exponents of one MLP, in the order in which they lie in device memory.
enum E4m3Exponent { kE4m3N, kE4m3Up, kE4m3F, kE4m3Down, kE4m3Dz, kE4m3Exponents };

// Those exponents from what is known of the two matrices: their largest magnitudes and their sums
// of squares. kE4m3Dz is to be added to that of dm's row; |the sum| ≤ 2·kE4m3MaxExponent.
FAIRWAY_HOST_DEVICE inline void e4m3_exponents(int64_t D, int64_t F, double ln, float up_largest,
                                               double up_squares, float down_largest,
                                               double down_squares, int32_t* out) {
  const double s_up = ln * ln * up_squares / static_cast<double>(F);
  const double s_down = down_squares / static_cast<double>(F);
  out[kE4m3N] = e4m3_exponent(static_cast<float>(std::sqrt(static_cast<double>(D)) * ln));
  out[kE4m3Up] = e4m3_exponent(up_largest);
  out[kE4m3Down] = e4m3_exponent(down_largest);
  out[kE4m3F] = s_up > 0x1p-1000 ? clamp_e4m3_exponent(exponent_below_one(s_up)) : 0;
  // The squares of a scaled row of dm: at most (448/4)² in the mean; those of f'(z): (4 + 1/4)/2
  // s².
  const double dz = (112.0 * 112.0) * (17.0 / 8.0) * s_up * s_down;
  // ⌊−log2(dz)/2⌋: the shift rounds down for negative numbers too.
  out[kE4m3Dz] = dz > 0x1p-1000 ? clamp_e4m3_exponent(exponent_below_one(dz) >> 1) : 0;
}

// Two matrices, of one layer or of all, as operands. Device memory, not owned.
template <class T>
struct MlpE4m3 {
  // The rounded values Q(w·2^e)·2^-e as T; where the device multiplies e4m3 itself, in the same
  // memory, e4m3 bytes Q(w·2^e): the matrix, and behind it its transpose (so [F, D] and [D, F], and
  // of wdown [D, F] and [F, D]).
  Tensor<T> wup;              // [F, D] or [L, F, D]
  Tensor<T> wdown;            // [D, F] or [L, D, F]
  Tensor<int32_t> exponents;  // [kE4m3Exponents] or [L, kE4m3Exponents]

  explicit operator bool() const { return static_cast<bool>(wup); }
  // Of layer i of L.
  MlpE4m3 slice(int64_t i) const { return {wup.slice(i), wdown.slice(i), exponents.slice(i)}; }
};

// Weights [L, F, D] and [L, D, F] → `to`, all of it; ln[i]: the factor behind the norm of layer i's
// input n. Nothing waits for the host.
template <class T>
void mlp_e4m3_weights(CpuDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                      std::span<const double> ln, const MlpE4m3<T>& to);
template <class T>
void mlp_e4m3_weights(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                      std::span<const double> ln, const MlpE4m3<T>& to);

// n [T, D] = rms(…)·ln, w one layer's → hidden, which is kept as by mlp_leaky_sq (not null),
// y [T, D] = residual + m; a null residual: y = m. y may be the residual.
template <class T>
void mlp_leaky_sq_e4m3(CpuDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y);
template <class T>
void mlp_leaky_sq_e4m3(CudaDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y);

// The same and the norm in front of it: x [T, D] → rstd [T], n [T, D] = rms(x)·ln as rms_norm has
// them, then as above. x may be the residual.
template <class T>
void norm_mlp_leaky_sq_e4m3(CpuDevice& device, Tensor<const T> x, double eps, double ln,
                            Tensor<T> rstd, Tensor<T> n, const MlpE4m3<T>& w,
                            Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y);
template <class T>
void norm_mlp_leaky_sq_e4m3(CudaDevice& device, Tensor<const T> x, double eps, double ln,
                            Tensor<Accum<T>> rstd, Tensor<T> n, const MlpE4m3<T>& w,
                            Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y);

// Step by step, with the same bits.
template <class T, class Device>
void norm_mlp_leaky_sq_e4m3_steps(Device& device, Tensor<const T> x, double eps, double ln,
                                  Tensor<Accum<T>> rstd, Tensor<T> n, const MlpE4m3<T>& w,
                                  Tensor<const T> residual, const MlpHidden<T>& hidden,
                                  Tensor<T> y) {
  rms_norm<T>(device, x, eps, ln, rstd, n);
  mlp_leaky_sq_e4m3<T>(device, n, w, residual, hidden, y);
}

// Where dm's operand goes if the op that makes dm makes it too (the same bits) and not
// mlp_leaky_sq_e4m3_backward: memory of the device's, to be used by that op before any other of
// this header. Null where the device multiplies no e4m3, and for what is not bf16.
template <class T>
E4m3Rows mlp_e4m3_dm_rows(CpuDevice& device, int64_t rows, int64_t D, int64_t F);
template <class T>
E4m3Rows mlp_e4m3_dm_rows(CudaDevice& device, int64_t rows, int64_t D, int64_t F);

// From dm [T, D] and what was kept, which is lost: dn [T, D] = dz Wup is written; dwup [F, D] and
// dwdown [D, F] accumulate. With `norm`, which wants n as the forward pass had it, dx becomes
// rms_norm_backward's, and dn is scratch. On Hopper n·dn is then Σ_j z_j dz_j of dz before it is
// rounded to e4m3, some 0.05/√D of ‖n‖‖dn‖ away from that of the rounded dn. dm_rows: dm's operand,
// mlp_e4m3_dm_rows's; null: not made yet.
template <class T>
void mlp_leaky_sq_e4m3_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<T> dwup, Tensor<T> dwdown, const MlpNormBack<T>& norm = {},
                                const E4m3Rows& dm_rows = {});
template <class T>
void mlp_leaky_sq_e4m3_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<Accum<T>> dwup, Tensor<Accum<T>> dwdown,
                                const MlpNormBack<T>& norm = {}, const E4m3Rows& dm_rows = {});

}  // namespace fairway

// The MLP of ops/mlp_leaky_sq.h with e4m3 operands (base/e4m3.h) in all six of its products:
//   z = n Wupᵀ,  f = f(z),  m = f Wdownᵀ,  df = dm Wdown,  dz = df⊙f'(z),  dn = dz Wup,
//   dWdown = dmᵀ f,  dWup = dzᵀ n.
// Each operand x of these is read as Q(x·2^e)·2^-e, Q rounding to e4m3, and f'(z) follows from a z
// rounded likewise. Gradients are those formulas, not derivatives of Q. What adapters add to m and
// to dn (ops/low_rank.h) has operands of type T, as without e4m3. Legend: T rows, D model width,
// F hidden width, L layers.
//
// The exponents e follow from weights, shapes and dm alone, so that no state is carried from step
// to step:
//   n     the rows' norm is √D·ln, so no element is larger: the largest e with √D·ln·2^e ≤ 448
//   Wup, Wdown   from each matrix's largest magnitude
//   f     z_j is about N(0, s²), s² = ln²‖Wup‖²/F, where f is about s²: s²·2^e in (1/2, 1], which
//         leaves room for |z| up to 21 s
//   z     s·2^e in (4, 8]: small z, of which there may be many, keep their slope
//   dm    from each row's largest magnitude: e_t
//   dz    e_t plus one of the matrix that brings dz, where dm's row has a quarter of its largest
//         magnitude as its root mean square, into (1/2, 1]
// The weights' gradients are sums over rows, whose scales must not differ: with E = min e_t over
// the T rows, dWdown reads Q(dm·2^E)·2^-E, and dWup reads dz as dn does and in return n with the
// exponent e + E − e_t, at least −kE4m3MaxExponent: rows that bring little are read less precisely.
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
enum E4m3Exponent { kE4m3N, kE4m3Up, kE4m3Z, kE4m3F, kE4m3Down, kE4m3Dz, kE4m3Exponents };

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
  const int f = s_up > 0x1p-1000 ? exponent_below_one(s_up) : 0;
  out[kE4m3F] = clamp_e4m3_exponent(f);
  // ⌊f/2⌋: the shift rounds down for negative numbers too.
  out[kE4m3Z] = clamp_e4m3_exponent((f >> 1) + 3);
  // The squares of a scaled row of dm: at most (448/4)² in the mean; those of f'(z): (4 + 1/4)/2
  // s².
  const double dz = (112.0 * 112.0) * (17.0 / 8.0) * s_up * s_down;
  // ⌊−log2(dz)/2⌋.
  out[kE4m3Dz] = dz > 0x1p-1000 ? clamp_e4m3_exponent(exponent_below_one(dz) >> 1) : 0;
}

// The exponent of n's row t in dWup, beside which dz has that of dm's row, `e_row`, whose least of
// all rows is `least`.
FAIRWAY_HOST_DEVICE inline int e4m3_exponent_beside_dz(int e_n, int e_row, int least) {
  const int e = e_n + least - e_row;
  return e > -kE4m3MaxExponent ? e : -kE4m3MaxExponent;
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

// Whether Hopper's kernels have tiles for these widths: it multiplies e4m3 itself then.
inline bool mlp_e4m3_fits(int64_t D, int64_t F) {
  return D > 0 && F > 0 && D % 128 == 0 && F % 128 == 0;
}

// Whether f and z are kept of the hidden rows as e4m3 bytes, as where the device multiplies e4m3
// itself, or z as it is, and no signs in either case.
template <class T>
bool mlp_e4m3_keeps_bytes(const CpuDevice& device, int64_t D, int64_t F);
template <class T>
bool mlp_e4m3_keeps_bytes(const CudaDevice& device, int64_t D, int64_t F);

// Where n's operand goes if the norm that makes n makes it too (the same bits) and not
// mlp_leaky_sq_e4m3: memory of the device's, to be used by that op before any other of this header
// but mlp_e4m3_norm. Null where the device multiplies no e4m3, and for what is not bf16.
template <class T>
Tensor<e4m3> mlp_e4m3_n_rows(CpuDevice& device, int64_t rows, int64_t D, int64_t F);
template <class T>
Tensor<e4m3> mlp_e4m3_n_rows(CudaDevice& device, int64_t rows, int64_t D, int64_t F);

// The norm in front: x [T, D] → rstd [T], n [T, D] = rms(x)·ln as rms_norm has them, and n's
// operand for the MLP w, one layer's, in mlp_e4m3_n_rows's place, if that is not null.
template <class T>
void mlp_e4m3_norm(CpuDevice& device, Tensor<const T> x, double eps, double ln, const MlpE4m3<T>& w,
                   Tensor<T> rstd, Tensor<T> n, Tensor<e4m3> n_operand);
template <class T>
void mlp_e4m3_norm(CudaDevice& device, Tensor<const T> x, double eps, double ln,
                   const MlpE4m3<T>& w, Tensor<Accum<T>> rstd, Tensor<T> n, Tensor<e4m3> n_operand);

// n [T, D] = rms(…)·ln, w one layer's → hidden (of nulls: not kept), y [T, D] = residual + m + what
// an adapter adds; a null residual: y = m. y may be the residual. n_operand: mlp_e4m3_norm's; null:
// not made yet.
template <class T>
void mlp_leaky_sq_e4m3(CpuDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                       const LowRankAdded<T>& added = {}, Tensor<const e4m3> n_operand = {});
template <class T>
void mlp_leaky_sq_e4m3(CudaDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                       const LowRankAdded<T>& added = {}, Tensor<const e4m3> n_operand = {});

// Where dm's operand goes if the op that makes dm makes it too (the same bits) and not
// mlp_leaky_sq_e4m3_backward: memory of the device's, to be used by that op before any other of
// this header. Null where the device multiplies no e4m3, and for what is not bf16.
template <class T>
E4m3Rows mlp_e4m3_dm_rows(CpuDevice& device, int64_t rows, int64_t D, int64_t F);
template <class T>
E4m3Rows mlp_e4m3_dm_rows(CudaDevice& device, int64_t rows, int64_t D, int64_t F);

// From dm [T, D] and what was kept, which is lost: dn [T, D] = dz Wup + what an adapter adds is
// written; dwup [F, D] and dwdown [D, F] accumulate, both null for test-time training. With `norm`,
// which wants n as the forward pass had it, dx becomes rms_norm_backward's, and dn is scratch. On
// Hopper n·dn is then Σ_j z_j dz_j of the rounded z and of dz before it is rounded to e4m3, some
// 0.07/√D of ‖n‖‖dn‖ away from that of the rounded dn. dm_rows: dm's operand, mlp_e4m3_dm_rows's;
// null: not made yet.
template <class T>
void mlp_leaky_sq_e4m3_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<T> dwup, Tensor<T> dwdown,
                                const LowRankAddedBack<T>& added = {},
                                const MlpNormBack<T>& norm = {}, const E4m3Rows& dm_rows = {});
template <class T>
void mlp_leaky_sq_e4m3_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<Accum<T>> dwup, Tensor<Accum<T>> dwdown,
                                const LowRankAddedBack<T>& added = {},
                                const MlpNormBack<T>& norm = {}, const E4m3Rows& dm_rows = {});

}  // namespace fairway

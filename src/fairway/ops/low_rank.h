// Low-rank adapters beside linear maps: y += out_scale⊙((x Aᵀ) Bᵀ), one pair (A [R, in], B [out,
// R]) a document, in two halves. Adapters with the same input share the first: xa [T, G·R] holds
// the products of all G of them, R columns each.
//
// Documents own consecutive rows; a document's result does not depend on its neighbours. Gradients
// have the type of the rows: what they are sums of was rounded to it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <type_traits>

#include "fairway/base/accum.h"
#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

inline constexpr int kMaxLowRankGroup = 4;

// Copies in bf16 of the adapters that an op applies, and the row tiles of their documents: what
// some kernels read (ops/adapter_copies.h makes both). Device memory, not owned. Without copies
// these kernels make their own, of the same bits.
struct LowRankCopies {
  // The first document's. Of a LowRankDown: its A below each other, [G·R, in]; of a LowRankUp:
  // out_scale⊙B, [out, R], behind those of the adapters applied by the same op.
  const bf16* matrix = nullptr;
  const bf16* transposed = nullptr;  // of a LowRankDown: [in, G·R], rows `pitch` apart
  int64_t pitch = 0;
  int64_t stride = 0;  // elements from a document to the next one: 64 rows of any of these, or more
  const int32_t* row_tiles = nullptr;  // [num_adapter_row_tiles(T, docs), 4]
};

// The A of G adapters with the same input.
template <class T>
struct LowRankDown {
  std::array<T*, kMaxLowRankGroup> a{};  // of the first document
  int count = 0;                         // G; 0: there are no adapters
  int64_t stride = 0;                    // elements from a document's A to the next one's
  int64_t docs = 0;
  Tensor<const int32_t> doc_rows;  // [docs + 1], device memory; rows count from doc_rows[0]
  int64_t rank = 0, in = 0;
  LowRankCopies copies{};
  int64_t most_rows = INT64_MAX;  // no document has more

  explicit operator bool() const { return count > 0; }
  int64_t width() const { return count * rank; }
};

// The B of one adapter.
template <class T>
struct LowRankUp {
  T* b = nullptr;  // of the first document; null: there is no adapter
  int64_t stride = 0;
  int64_t docs = 0;
  Tensor<const int32_t> doc_rows;
  int64_t rank = 0, out = 0;
  int place = 0;  // its columns of xa are [place·R, (place + 1)·R)
  // [out], device memory, the same for all documents: a scale that the linear map has folded into
  // its matrix. Null: 1.
  const std::remove_const_t<T>* out_scale = nullptr;
  LowRankCopies copies{};
  int64_t most_rows = INT64_MAX;  // no document has more

  explicit operator bool() const { return b != nullptr; }
};

// What an adapter adds to a linear map's output, out_scale⊙(xa_i Bᵀ): for ops that add it on the
// way (ops/linear_adapted.h).
template <class T>
struct LowRankAdded {
  LowRankUp<const Accum<T>> up;
  Tensor<const T> xa;  // [T, G·R]

  explicit operator bool() const { return static_cast<bool>(up); }
};
// What adapters add to the gradient of their input, Σ_i dxa_i A_i.
template <class T>
struct LowRankAddedBack {
  LowRankDown<const Accum<T>> down;
  Tensor<const T> dxa;  // [T, G·R]

  explicit operator bool() const { return static_cast<bool>(down); }
};

// xa_i = x A_iᵀ for each adapter i of the group. x [T, in], xa [T, G·R].
template <class T>
void low_rank_down(CpuDevice& device, Tensor<const T> x, const LowRankDown<const T>& down,
                   Tensor<T> xa);
template <class T>
void low_rank_down(CudaDevice& device, Tensor<const T> x, const LowRankDown<const Accum<T>>& down,
                   Tensor<T> xa);

// y += out_scale⊙(xa_i Bᵀ). y [T, out].
template <class T>
void low_rank_up(CpuDevice& device, Tensor<const T> xa, const LowRankUp<const T>& up, Tensor<T> y);
template <class T>
void low_rank_up(CudaDevice& device, Tensor<const T> xa, const LowRankUp<const Accum<T>>& up,
                 Tensor<T> y);

// With g = out_scale⊙dy:  dxa_i = g B, for each document db = gᵀ xa_i. Both are written. `db` is
// the place of B's gradient, at the same stride as B; null: it is not wanted.
template <class T>
void low_rank_up_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> xa,
                          const LowRankUp<const T>& up, Tensor<T> dxa, T* db);
template <class T>
void low_rank_up_backward(CudaDevice& device, Tensor<const T> dy, Tensor<const T> xa,
                          const LowRankUp<const Accum<T>>& up, Tensor<T> dxa, T* db);

// The same for adapters of the same documents, of one rank and one xa: at most kMaxLowRankGroup.
template <class T>
struct LowRankUpBackward {
  LowRankUp<const Accum<T>> up;
  Tensor<const T> dy;  // [T, out]
  T* db = nullptr;
};
template <class T>
void low_rank_ups_backward(CpuDevice& device, std::span<const LowRankUpBackward<T>> ups,
                           Tensor<const T> xa, Tensor<T> dxa);
template <class T>
void low_rank_ups_backward(CudaDevice& device, std::span<const LowRankUpBackward<T>> ups,
                           Tensor<const T> xa, Tensor<T> dxa);

// dx += Σ_i dxa_i A_i; for each document da_i = dxa_iᵀ x, written. dx may be null (the input needs
// no gradient), `da` empty (the adapters need none).
template <class T>
void low_rank_down_backward(CpuDevice& device, Tensor<const T> dxa, Tensor<const T> x,
                            const LowRankDown<const T>& down, Tensor<T> dx,
                            const LowRankDown<T>& da);
template <class T>
void low_rank_down_backward(CudaDevice& device, Tensor<const T> dxa, Tensor<const T> x,
                            const LowRankDown<const Accum<T>>& down, Tensor<T> dx,
                            const LowRankDown<T>& da);

}  // namespace fairway

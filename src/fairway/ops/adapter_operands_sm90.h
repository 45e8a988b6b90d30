// Low-rank adapters as operands of a matrix product on Hopper GPUs, and what makes them so.
// Internal to ops/.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "fairway/base/bf16.h"
#include "fairway/device/device.h"
#include "fairway/ops/low_rank.h"
#include "fairway/sm90/row_tile.h"

namespace fairway::cuda {

inline constexpr int kMostAdapted = 3;  // linear maps of one product that have adapters

// A product C [rows, width] gets X_i M_dᵀ added, i by the column of C and d the row's document.
// Nothing is owned; all of it is device memory. m and tiles of those that the functions below make
// are the adapters' copies, or lie in the device's workspace: valid until the next call of any of
// them.
struct AdapterOperands {
  std::array<const bf16*, kMostAdapted> x{};  // [rows, k], rows x_pitch apart; null: no adapter
  int64_t x_pitch = 0, k = 0;
  const bf16* m = nullptr;  // [docs, doc_pitch, k], of which `width` rows count; rows m_pitch apart
  int64_t m_pitch = 0, docs = 0, width = 0, doc_pitch = 0;
  const sm90::RowTile* tiles = nullptr;  // [row_tiles], of 128 rows, in groups of two
  int64_t row_tiles = 0;
};

// Whether adapters can be operands that sum over k and add to a C that is `width` wide: rows are
// read 16 bytes and 64 columns of C at a time.
bool adapters_fit(int64_t k, int64_t width, int64_t docs, const bf16* x);

// The second halves of up to three adapters of the same xa [T, G·R], whose outputs lie beside each
// other, width[i] columns each; missing ones have no b; one at least has. M is their B in bf16,
// out_scale folded in.
AdapterOperands adapters_up(CudaDevice& device, int64_t rows, Tensor<const bf16> xa,
                            const std::array<LowRankUp<const float>, kMostAdapted>& ups,
                            const std::array<int64_t, kMostAdapted>& width);
// All of xa = x Aᵀ: M is A.
AdapterOperands adapters_down(CudaDevice& device, Tensor<const bf16> x,
                              const LowRankDown<const float>& down);
// Σ_i dxa_i A_i; M is A transposed.
AdapterOperands adapters_down_backward(CudaDevice& device, int64_t rows, Tensor<const bf16> dxa,
                                       const LowRankDown<const float>& down);

// out_scale⊙B in bf16 of adapters of the same documents and rank, each [docs, out, R] with
// documents `step` elements apart: the copies, or else in the device's workspace.
struct AdapterMatrices {
  std::array<const bf16*, kMaxLowRankGroup> first{};  // the first document's
  std::array<int64_t, kMaxLowRankGroup> step{};
};
AdapterMatrices adapters_ups_backward(CudaDevice& device,
                                      std::span<const LowRankUpBackward<bf16>> ups);

}  // namespace fairway::cuda

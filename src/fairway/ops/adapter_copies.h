// Copies of adapters in bf16, as the products that apply them read their operands (LowRankCopies,
// ops/low_rank.h): made once, when the adapters change, instead of by every op.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fairway/base/bf16.h"
#include "fairway/device/device.h"
#include "fairway/ops/adamw.h"

namespace fairway {

// Whether ops with activations of type T read copies on that device.
template <class T>
bool reads_adapter_copies(const CpuDevice&) {
  return false;
}
template <class T>
bool reads_adapter_copies(const CudaDevice& device);

// A matrix [rows, columns] of each document's adapters and where its copies go, in elements from
// the beginning of the document's buffers. A copy is scale⊙matrix, rounded. Columns and places are
// multiples of 8; what is copied transposed has rows in eights, too.
struct AdapterMatrix {
  int64_t from = 0, rows = 0, columns = 0;
  const float* scale = nullptr;  // [rows], device memory; null: 1
  int64_t to = -1;               // [rows, columns]; −1: no such copy
  int64_t transposed = -1;       // [columns, rows], rows `pitch` apart; −1: no such copy
  int64_t pitch = 0;
};

// The buffers of `docs` documents, device memory, each document's at a multiple of the stride: in
// elements, a multiple of 8. Not owned.
struct AdapterBuffers {
  int64_t docs = 0;
  float* adapters = nullptr;
  int64_t stride = 0;
  bf16* copies = nullptr;
  int64_t copies_stride = 0;
  // Of `adapters`' layout, for a step alone: gradients and second moments.
  const bf16* gradients = nullptr;
  float* second = nullptr;
};

// Makes the copies.
void copy_adapters(CpuDevice& device, std::span<const AdapterMatrix> matrices,
                   const AdapterBuffers& buffers);
void copy_adapters(CudaDevice& device, std::span<const AdapterMatrix> matrices,
                   const AdapterBuffers& buffers);

// adamw (ops/adamw.h) without a first moment, over all the matrices, and their copies.
void adamw_with_copies(CpuDevice& device, std::span<const AdapterMatrix> matrices,
                       const AdapterBuffers& buffers, const AdamW& step);
void adamw_with_copies(CudaDevice& device, std::span<const AdapterMatrix> matrices,
                       const AdapterBuffers& buffers, const AdamW& step);

// The row tiles of documents that LowRankCopies has, four numbers each, which depend in number on
// rows and documents alone. On the host.
std::vector<int32_t> adapter_row_tiles(std::span<const int32_t> doc_rows);
int64_t num_adapter_row_tiles(int64_t rows, int64_t docs);

}  // namespace fairway

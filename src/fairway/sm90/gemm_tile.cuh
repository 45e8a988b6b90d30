// Shapes and shared memory of the matrix product's tiles.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fairway/sm90/gemm_schedule.cuh"
#include "fairway/sm90/tensor_map.h"

namespace fairway::sm90 {

// The axis along which an operand's elements are contiguous in memory.
enum class Major { kK, kMN };

constexpr int kGemmThreads = 384;  // a producer and two consumer warpgroups
constexpr int kTileRows = 128;
constexpr int kBlockK = 64;
constexpr int kMaxResidentBlocks = 8;  // K <= 512

// Resident: for K <= 512. The block keeps its 128 rows of A in shared memory and streams B past
// them; the consumers compute alternate 128 x 128 tiles, so that one's epilogue runs beside the
// other's products. Segments split the columns: several B and C share A.
//
// Streamed: for long K. Both consumers share a 128 x 256 tile, 64 rows each; blocks of A and B
// stream together. Segments split K: C is the sum of several products.
//
// In both the two blocks of a cluster have the same columns: each loads half of a block of B and
// sends it to both.
template <bool resident, Major major_a, Major major_b, int segments = 1, bool store = true>
struct GemmConfig {
  static constexpr bool kResident = resident;
  static constexpr Major kMajorA = major_a;
  static constexpr Major kMajorB = major_b;
  static constexpr int kSegments = segments;
  static constexpr int kTileColumns = resident ? 128 : 256;
  static constexpr bool kStore = store;  // false: the epilogue needs no chunk buffers
  static constexpr int kStages = resident || !store ? 4 : 3;
  // A consumer's accumulators: kFragments of 64 rows x kFragmentColumns.
  static constexpr int kFragments = resident ? 2 : 1;
  static constexpr int kFragmentColumns = kTileColumns;
  static constexpr int kConsumersPerTile = resident ? 1 : 2;
  // The epilogue's pieces, 64 x 64 each: four per consumer and tile.
  static constexpr int kChunks = 4;
  static constexpr int kChunksAcross = kTileColumns / kBox;
  static constexpr int kChunkBuffers = !store ? 1 : resident ? kChunks : 2 * kChunks;

  static constexpr int kBytesA = kTileRows * kBlockK * 2;
  static constexpr int kBytesB = kTileColumns * kBlockK * 2;
  static constexpr int kBlocksA = resident ? kMaxResidentBlocks : kStages;
};

template <class Config>
struct alignas(1024) GemmShared {
  uint8_t a[Config::kBlocksA][Config::kBytesA];
  uint8_t b[Config::kStages][Config::kBytesB];
  uint8_t chunk[Config::kChunkBuffers][kBoxBytes];
  // Streamed: of A and B together.
  uint64_t full[Config::kStages], empty[Config::kStages];
  uint64_t a_full[Config::kBlocksA], a_empty[Config::kBlocksA];  // resident only
  // Of each consumer: its next tile's chunk buffers are free to write, or hold the epilogue's input.
  uint64_t chunk_ready[2 * Config::kChunks];
};

// Everything read and written through tensor maps, all with boxes of 64 x 64.
template <int kSegments>
struct GemmMaps {
  CUtensorMap a[kSegments];
  CUtensorMap b[kSegments];
  CUtensorMap c[kSegments];
  CUtensorMap input;  // what the epilogue reads, shaped as C
};

// What an epilogue may know of a consumer's tile.
struct GemmTileAt {
  int row, column;  // the tile's first row, and column within its segment, of this consumer
  int segment;
  int warp, lane;  // of the consumer warpgroup
  int unit;        // the work unit's place among all, with the block and consumer below it
  int64_t slot;    // (row tile, column tile, consumer, thread) in row-major order

  // The row of this thread's accumulators 0 and 1 (of half h: + 8 h), within the tile.
  __device__ __forceinline__ int fragment_row() const { return warp * 16 + lane / 4; }
  __device__ __forceinline__ int fragment_column() const { return lane % 4 * 2; }
};

}  // namespace fairway::sm90

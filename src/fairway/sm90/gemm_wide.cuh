// The matrix product C = A Bᵀ on Hopper with 128 x 256 tiles (narrower ones where C is): persistent
// clusters of blocks, a producer warp that feeds shared memory through the bulk tensor copy engine,
// two consumer warpgroups of 64 rows each, and an epilogue between the accumulators and memory.
//
// A is [M, K], B is [N, K], both bf16 or both e4m3 and contiguous along K; sums are float, along K
// in order; an element's bits depend on its row of A, its row of B and the configuration alone. A
// may lie in several matrices beside each other along K, B in several below each other along N.
//
// The consumers share every stage but nothing else: while one is in its epilogue the other has the
// tensor cores to itself, as far as the stages let it lag. An epilogue's length is what counts, so
// it waits for nobody and needs no shared memory: B's rows reach shared memory in an order
// (tensor_map_fragments) that leaves a thread with 8 neighbouring columns of C, 16 bytes in bf16,
// where accumulators are spread over pairs.
//
// With adapters, K goes on for a few blocks whose operands are a document's own: C = A Bᵀ + X
// W_docᵀ, with an X for each of B's matrices. Row tiles then start anew at each document (a list in
// device memory says where), and a row's bits do not depend on the other documents either. Adapters
// are bf16; where A and B are e4m3, their scales are undone on the sums before the adapters'
// blocks.
//
// An epilogue is a class:
//   struct Params              passed to the kernel
//   Epilogue(params, at)       before the tile's products
//   early(c)                   for c = 0, 1, 2, 3 between the products, a while before the
//                              last: the place for loads, a chunk's at a time, so that they queue
//                              up behind products and not in front of them
//   chunk(c, v, zero)          of columns 64 c … 64 c + 63, where C has them: v[2 part + half][i]
//                              is C at row at.row + 8 half, column at.column + 64 c + 32 part + i.
//                              `zero` is 0, which the compiler learns after the products: what is
//                              computed with it, and waits for loads, is not moved before them
//   finish()                   after the last chunk
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/base/e4m3.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/sm90/cluster.cuh"
#include "fairway/sm90/gemm_tile.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/prefetch.cuh"
#include "fairway/sm90/row_tile.h"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"
#include "fairway/sm90/wgmma.cuh"

namespace fairway::sm90 {

// Blocks of a cluster have the same columns: each loads its part of a block of B and sends it to
// all.
constexpr int kCluster = 2;

// In how many matrices A and B lie, whether there are adapters, the type of the operands' elements,
// and the columns of a tile. parts_a = 0: there are adapters alone.
template <int parts_a = 1, int parts_b = 1, bool adapted = false, class element = bf16,
          int tile_columns = 256>
struct WideConfig {
  static_assert(tile_columns == 128 || tile_columns == 192 || tile_columns == 256);
  using Element = element;
  static constexpr int kBlockK = kBoxWidth<Element>;  // elements of a stage along K
  static constexpr int kPartsA = parts_a, kPartsB = parts_b;
  static constexpr bool kAdapted = adapted;
  static constexpr bool kScaled = adapted && !std::is_same_v<Element, bf16>;
  static constexpr int kTileColumns = tile_columns;
  static constexpr int kSums = kTileColumns / 2;  // of a consumer's thread
  static constexpr int kStages = 4;
  static constexpr int kChunks = kTileColumns / kBox;
  static constexpr int kBytesA = kTileRows * kBoxRowBytes;
  static constexpr int kBytesB = kTileColumns * kBoxRowBytes;
  // Registers of a producer and of a consumer thread, of 3 x 168 in all.
  static constexpr bool kOneProduct = parts_a * parts_b == 1 && !adapted;
  static constexpr int kProducerRegisters = kOneProduct ? 24 : 40;
  static constexpr int kConsumerRegisters = kOneProduct ? 240 : 232;
};

template <class Config>
struct alignas(1024) WideShared {
  uint8_t a[Config::kStages][Config::kBytesA];
  uint8_t b[Config::kStages][Config::kBytesB];
  uint64_t full[Config::kStages], empty[Config::kStages];
  uint32_t zero;
};

// The stages' barriers: one thread's work, behind which the cluster's blocks meet.
template <class Config>
__device__ __forceinline__ void wide_init(WideShared<Config>& shared) {
  for (int i = 0; i < Config::kStages; ++i) {
    mbarrier_init(&shared.full[i], 1);
    mbarrier_init(&shared.empty[i], kCluster * 8);  // consumer warps of all blocks
  }
  mbarrier_init_fence();
}

template <class Config>
struct WideMatrices {
  CUtensorMap a[Config::kPartsA > 0 ? Config::kPartsA : 1];  // tensor_map
  CUtensorMap b[Config::kPartsB];                            // tensor_map_fragments
};

// An adapter's elements of a stage along K.
constexpr int kAdapterBlockK = kBoxWidth<bf16>;

// Exponents of the scales that e4m3 operands have, in device memory: row t of A was multiplied by
// 2^(*a + rows[t]), or 2^*a where `rows` is null, B by 2^*b.
struct WideScales {
  const int32_t *a, *b, *rows;
};

template <class Config, bool kAdapted = Config::kAdapted>
struct WideAdapters {};
template <class Config>
struct WideAdapters<Config, true> {
  CUtensorMap x[Config::kPartsB];  // tensor_map: rows like A's
  CUtensorMap m;                   // tensor_map_fragments of [documents · doc_pitch, K]
  int blocks[Config::kPartsB];     // along K; none where there is no adapter
  bool ends_in_half;               // whether half of the last block, behind others, is zeros
  int doc_pitch;                   // rows of m from a document to the next one
  const RowTile* tiles;            // [row_groups · kCluster], on the device
  WideScales scales;               // of e4m3 A and B
};

// Where each matrix of several begins: along K in blocks, along N in boxes of 64.
struct WideParts {
  int begin[kMaxParts] = {0, INT32_MAX, INT32_MAX};
};

struct WideSchedule {
  int column_tiles;
  int chunks;      // of C's columns
  int row_groups;  // a row tile per block of the cluster
  int k_blocks;    // of Config::kBlockK
  // From a cluster's tile to its next one.
  int column_stride, row_stride;
  WideParts along_k, along_n;
};

struct WidePart {
  int index;
  int offset;  // in it
};
template <int kParts>
__device__ __forceinline__ WidePart wide_part(const WideParts& parts, int at) {
  if constexpr (kParts == 1) {
    return {0, at};
  } else {
    const int second = parts.begin[1], third = parts.begin[2];
    const int index = (at >= second) + (at >= third);
    return {index, at - (index == 0 ? 0 : index == 1 ? second : third)};
  }
}

// The tiles of this block, in order; all roles of the block walk the same list. Divides only at the
// start: the steps from tile to tile lie between a consumer's tiles.
class WideWalk {
 public:
  __device__ __forceinline__ WideWalk(const WideSchedule& schedule, int rank)
      : schedule_(schedule), rank_(rank) {
    const int unit = static_cast<int>(blockIdx.x) / kCluster;
    row_group_ = unit / schedule.column_tiles;
    column_tile_ = unit - row_group_ * schedule.column_tiles;
  }
  __device__ __forceinline__ bool done() const { return row_group_ >= schedule_.row_groups; }
  __device__ __forceinline__ void next() {
    column_tile_ += schedule_.column_stride;
    row_group_ += schedule_.row_stride;
    if (column_tile_ >= schedule_.column_tiles) {
      column_tile_ -= schedule_.column_tiles;
      ++row_group_;
    }
  }
  __device__ __forceinline__ int row_tile() const { return row_group_ * kCluster + rank_; }
  __device__ __forceinline__ int column_tile() const { return column_tile_; }

 private:
  const WideSchedule& schedule_;
  int rank_, row_group_, column_tile_;
};

// A place in the ring of stages: the number of the block that is loaded or multiplied next.
template <int kStages>
struct WideRing {
  static_assert((kStages & (kStages - 1)) == 0);
  uint32_t block = 0;

  __device__ __forceinline__ uint32_t stage() const { return block % kStages; }
  __device__ __forceinline__ uint32_t parity() const { return block / kStages % 2; }
  __device__ __forceinline__ uint32_t previous() const { return (block - 1) % kStages; }
  __device__ __forceinline__ void next() { ++block; }
};

// The rows of a block's tile.
template <class Config>
__device__ __forceinline__ RowTile wide_row_tile(const WideAdapters<Config>& adapters,
                                                 int row_tile) {
  if constexpr (Config::kAdapted) {
    const int4 tile = *reinterpret_cast<const int4*>(adapters.tiles + row_tile);
    return {tile.x, tile.y, tile.z, 0};
  } else {
    return {row_tile * kTileRows, INT32_MAX, 0, 0};
  }
}

// Which of B's matrices, and so of the adapters, column tile `column_tile` belongs to.
template <class Config>
__device__ __forceinline__ int wide_adapter(const WideSchedule& schedule, int column_tile) {
  return wide_part<Config::kPartsB>(schedule.along_n, column_tile * Config::kChunks).index;
}

// One stage: this block's rows of A, and its part of B for all blocks of the cluster; `row` and
// `column` of C, `block` of K.
template <class Config>
__device__ __forceinline__ void wide_load(WideShared<Config>& shared, int stage,
                                          const WideMatrices<Config>& matrices,
                                          const WideSchedule& schedule, int row, int column,
                                          int block, int rank) {
  constexpr int kBoxesB = Config::kTileColumns / kBox / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  uint64_t* full = &shared.full[stage];
  mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
  const WidePart a = wide_part<Config::kPartsA>(schedule.along_k, block);
#pragma unroll
  for (int i = 0; i < kTileRows / kBox; ++i)
    tma_load_2d(shared.a[stage] + i * kBoxBytes, &matrices.a[a.index], full,
                a.offset * Config::kBlockK, row + i * kBox);
#pragma unroll
  for (int i = 0; i < kBoxesB; ++i) {
    const int box = rank * kBoxesB + i;
    const WidePart b = wide_part<Config::kPartsB>(schedule.along_n, column / kBox + box);
    tma_load_5d_multicast(shared.b[stage] + box * kBoxBytes, &matrices.b[b.index], full,
                          block * Config::kBlockK, 0, 0, 0, b.offset * (kBox / kFragmentRows),
                          kAll);
  }
}

// One stage of an adapter's. The blocks of the cluster may have different documents: each loads all
// of its B.
template <class Config>
__device__ __forceinline__ void wide_load_adapter(WideShared<Config>& shared, int stage,
                                                  const WideAdapters<Config>& adapters, int adapter,
                                                  const RowTile& tile, int column, int block) {
  uint64_t* full = &shared.full[stage];
  mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
#pragma unroll
  for (int i = 0; i < kTileRows / kBox; ++i)
    tma_load_2d(shared.a[stage] + i * kBoxBytes, &adapters.x[adapter], full, block * kAdapterBlockK,
                tile.begin + i * kBox);
  const int row = tile.doc * adapters.doc_pitch + column;
#pragma unroll
  for (int i = 0; i < Config::kTileColumns / kBox; ++i)
    tma_load_5d(shared.b[stage] + i * kBoxBytes, &adapters.m, full, block * kAdapterBlockK, 0, 0, 0,
                (row + i * kBox) / kFragmentRows);
}

// The producer thread.
template <class Config>
__device__ __forceinline__ void wide_produce(WideShared<Config>& shared,
                                             const WideMatrices<Config>& matrices,
                                             const WideAdapters<Config>& adapters,
                                             const WideSchedule& schedule, int rank) {
  WideRing<Config::kStages> ring;
  for (WideWalk walk(schedule, rank); !walk.done(); walk.next()) {
    const RowTile tile = wide_row_tile(adapters, walk.row_tile());
    if (tile.doc < 0) break;
    const int column = walk.column_tile() * Config::kTileColumns;
    if constexpr (Config::kPartsA > 0) {
      for (int k = 0; k < schedule.k_blocks; ++k) {
        mbarrier_wait(&shared.empty[ring.stage()], ring.parity() ^ 1);
        wide_load<Config>(shared, ring.stage(), matrices, schedule, tile.begin, column, k, rank);
        ring.next();
      }
    }
    if constexpr (Config::kAdapted) {
      const int adapter = wide_adapter<Config>(schedule, walk.column_tile());
      for (int k = 0; k < adapters.blocks[adapter]; ++k) {
        mbarrier_wait(&shared.empty[ring.stage()], ring.parity() ^ 1);
        wide_load_adapter<Config>(shared, ring.stage(), adapters, adapter, tile, column, k);
        ring.next();
      }
    }
  }
}

// One instruction's products.
template <class Element, int kSums>
__device__ __forceinline__ void wide_multiply(float (&acc)[kSums], uint64_t a, uint64_t b,
                                              bool accumulate) {
  constexpr bool kBf16 = std::is_same_v<Element, bf16>;
  static_assert(kBf16 || kSums == 128);
  if constexpr (!kBf16)
    wgmma_m64n256k32_e4m3(acc, a, b, accumulate);
  else if constexpr (kSums == 128)
    wgmma_m64n256k16<0, 0>(acc, a, b, accumulate);
  else if constexpr (kSums == 96)
    wgmma_m64n192k16<0, 0>(acc, a, b, accumulate);
  else
    wgmma_m64n128k16<0, 0>(acc, a, b, accumulate);
}

// acc (+)= a block of A times a block of B, or the first half of both: issues and commits, without
// waiting.
template <class Element, bool kHalf = false, int kSums>
__device__ __forceinline__ void wide_issue_block(float (&acc)[kSums], const uint8_t* a,
                                                 const uint8_t* b, bool accumulate) {
  constexpr int kStep = 32;  // bytes of one instruction along K
  const uint64_t desc_a = wgmma_descriptor_k(shared_address(a));
  const uint64_t desc_b = wgmma_descriptor_k(shared_address(b));
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kBoxRowBytes / kStep / (kHalf ? 2 : 1); ++step)
    wide_multiply<Element>(acc, wgmma_advance(desc_a, step * kStep),
                           wgmma_advance(desc_b, step * kStep), accumulate || step > 0);
  wgmma_commit();
}

// Hands a stage back to the producers of all blocks: one arrival per warp and block.
template <class Config>
__device__ __forceinline__ void wide_release(WideShared<Config>& shared, int stage, int lane) {
  if (lane < kCluster) mbarrier_arrive_cluster(&shared.empty[stage], static_cast<uint32_t>(lane));
}

// acc += a stage's block, or its first half: waits for it and issues.
template <class Element, bool kHalf = false, class Config>
__device__ __forceinline__ void wide_issue(WideShared<Config>& shared, float (&acc)[Config::kSums],
                                           const WideRing<Config::kStages>& ring, int consumer,
                                           bool accumulate) {
  mbarrier_wait(&shared.full[ring.stage()], ring.parity());
  wide_issue_block<Element, kHalf>(acc, shared.a[ring.stage()] + consumer * kBoxBytes,
                                   shared.b[ring.stage()], accumulate);
}

// The products of one consumer's tile. early(c) runs for each chunk, a block apart, from when about
// kEarlyBlocks are still to be issued, after the first at the earliest: soon enough for loads to
// arrive, and not so soon that what is only brought to the L2 cache leaves it again. `half`:
// another block comes behind them, of which the first half counts.
constexpr int kEarlyBlocks = 8;
template <class Config, class Early>
__device__ __forceinline__ void wide_products(WideShared<Config>& shared,
                                              float (&acc)[Config::kSums],
                                              WideRing<Config::kStages>& ring, int blocks,
                                              bool half, int consumer, int lane,
                                              const Early& early) {
  const auto issue = [&](bool accumulate) {
    wide_issue<typename Config::Element>(shared, acc, ring, consumer, accumulate);
  };
  // Behind the issue of a block: the one before it ends, and its stage is free.
  const auto release_previous = [&] {
    wgmma_wait<1>();
    wide_release(shared, ring.previous(), lane);
    ring.next();
  };
  issue(false);
  ring.next();
  int left = blocks - 1;
  for (; left > kEarlyBlocks; --left) {
    issue(true);
    release_previous();
  }
#pragma unroll
  for (int c = 0; c < Config::kChunks; ++c) {
    const bool more = left > 0;
    if (more) issue(true);
    early(c);
    if (more) release_previous();
    --left;
  }
  for (; left > 0; --left) {
    issue(true);
    release_previous();
  }
  if constexpr (Config::kAdapted && !Config::kScaled) {
    if (half) {
      wide_issue<bf16, true>(shared, acc, ring, consumer, true);
      release_previous();
    }
  }
  wgmma_wait<0>();
  wgmma_pin(acc);
  wide_release(shared, ring.previous(), lane);
}

// What both of a thread's rows are multiplied by, half 0 and 1, where e4m3 operands' scales are
// undone; `at`: the thread's place, of which rows from at.row_end on do not exist.
struct WideRowScales {
  float of[2];

  __device__ __forceinline__ void load(const WideScales& scales, const GemmTileAt& at) {
    const int a = *scales.a;
    const float b = power_of_two(-*scales.b);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.row + 8 * half;
      const bool has_own = scales.rows != nullptr && row < at.row_end;
      of[half] = power_of_two(-(a + (has_own ? scales.rows[row] : 0))) * b;
    }
  }
};
// An adapter's products behind those of e4m3 operands; `half` as wide_products has it.
template <class Config>
__device__ __forceinline__ void wide_adapter_products(WideShared<Config>& shared,
                                                      float (&acc)[Config::kSums],
                                                      WideRing<Config::kStages>& ring, int blocks,
                                                      bool half, const WideRowScales& scales,
                                                      int consumer, int lane) {
#pragma unroll
  for (int i = 0; i < Config::kSums; ++i) acc[i] *= scales.of[i / 2 % 2];
  if (blocks == 0 && !half) return;
  const auto release_before = [&](int k) {
    if (k > 0) {
      wgmma_wait<1>();
      wide_release(shared, ring.previous(), lane);
    }
    ring.next();
  };
  for (int k = 0; k < blocks; ++k) {
    wide_issue<bf16>(shared, acc, ring, consumer, true);
    release_before(k);
  }
  if (half) {
    wide_issue<bf16, true>(shared, acc, ring, consumer, true);
    release_before(blocks);
  }
  wgmma_wait<0>();
  wgmma_pin(acc);
  wide_release(shared, ring.previous(), lane);
}

// The number of this thread among both consumers', read anew for each tile: what follows from it
// is computed again, where the compiler would keep it in memory over the products.
__device__ __forceinline__ int consumer_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread - kWarpgroupThreads;
}

// 16 bytes, 8 neighbouring elements of a matrix in bf16; zeros where `valid` is false.
__device__ __forceinline__ uint4 load_global_16(const void* from, bool valid) {
  uint4 v;
  // Read once: not kept in the first cache.
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n"
      "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
      "@p ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}
// 8 bytes, elements of e4m3.
__device__ __forceinline__ uint2 load_global_8(const void* from, bool valid) {
  uint2 v;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %3, 0;\nmov.u32 %0, 0;\nmov.u32 %1, 0;\n"
      "@p ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];\n}"
      : "=r"(v.x), "=r"(v.y)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}
// A thread's elements of a matrix of bf16 that an epilogue reads. Registers hold kHeld chunks: the
// others come to the L2 cache meanwhile, and from there as those before them are taken.
template <int kHeld>
class TileRows {
 public:
  // `from` stays in the kernel's parameters: registers are short.
  __device__ __forceinline__ void early(const bf16* const& from, const TileElements& at, int c) {
    if (c < kHeld) {
#pragma unroll
      for (int p = 0; p < 4; ++p) load(from, at, c, p);
    } else {
      // The four lanes of a quad share a row's 128 bytes: one lane asks for each row.
      const int half = consumer_thread() % 4;
      if (half < 2 && at.valid(c, half)) prefetch_l2(from + at.offset(c, half));
    }
  }
  // Once for each element, in the order of chunks.
  __device__ __forceinline__ uint4 take(const bf16* const& from, const TileElements& at, int c,
                                        int p) {
    const uint4 taken = in_[c % kHeld][p];
    if (c + kHeld < WideConfig<>::kChunks) load(from, at, c + kHeld, p);
    return taken;
  }

 private:
  __device__ __forceinline__ void load(const bf16* const& from, const TileElements& at, int c,
                                       int p) {
    in_[c % kHeld][p] = load_global_16(from + at.offset(c, p), at.valid(c, p));
  }

  uint4 in_[kHeld][4];
};

// Nothing is stored where `valid` is false. A predicate, not a branch, which would keep the
// compiler from covering what the elements before it wait for with those behind it.
__device__ __forceinline__ void store_global_16(void* to, const uint4& v, bool valid) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n"
      "@p st.global.v4.u32 [%0], {%1, %2, %3, %4};\n}" ::"l"(__cvta_generic_to_global(to)),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(static_cast<int>(valid))
      : "memory");
}
__device__ __forceinline__ void store_global_8(void* to, const uint2& v, bool valid) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %3, 0;\n"
      "@p st.global.v2.u32 [%0], {%1, %2};\n}" ::"l"(__cvta_generic_to_global(to)),
      "r"(v.x), "r"(v.y), "r"(static_cast<int>(valid))
      : "memory");
}
__device__ __forceinline__ void store_global_16(bf16* to, const float (&v)[8], bool valid) {
  store_global_16(to, pack_bf16_8(v), valid);
}
// unpack_bf16, behind the products: `zero` is what Epilogue::chunk is given. Without it the
// compiler unpacks, and so waits for the loads, between the first products.
__device__ __forceinline__ float2 unpack_bf16_late(uint32_t pair, uint32_t zero) {
  return {__uint_as_float(pair * 0x10000u + zero), __uint_as_float((pair ^ zero) & 0xFFFF0000u)};
}

// Passes over a tile's blocks: a document's last rows may leave a consumer none, whose products
// would keep the tensor cores from the other's.
template <class Config>
__device__ __forceinline__ void wide_pass_over(WideShared<Config>& shared,
                                               WideRing<Config::kStages>& ring, int blocks,
                                               int lane) {
  for (int k = 0; k < blocks; ++k) {
    mbarrier_wait(&shared.full[ring.stage()], ring.parity());
    __syncwarp();  // every lane has seen this phase
    wide_release(shared, ring.stage(), lane);
    ring.next();
  }
}

// The epilogue of a tile that has `chunks` chunks, or more than all; `zero` lies in shared memory.
template <class Epilogue, int kSums>
__device__ __forceinline__ void run_epilogue(Epilogue& epilogue, const float (&acc)[kSums],
                                             int chunks, const uint32_t& zero) {
  const uint32_t late_zero = *static_cast<const volatile uint32_t*>(&zero);
#pragma unroll
  for (int c = 0; c < 2 * kSums / kBox; ++c) {
    // Also keeps the compiler from having more of the chunks under way than registers can hold.
    if (c >= chunks) break;
    float v[4][8];
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 8; ++i)
          v[2 * part + half][i] = acc[c * 32 + part * 16 + i / 2 * 4 + half * 2 + i % 2];
    epilogue.chunk(c, v, late_zero);
  }
  epilogue.finish();
}

// One of the two consumer warpgroups.
template <class Config, class Epilogue>
__device__ __forceinline__ void wide_consume(WideShared<Config>& shared,
                                             const WideAdapters<Config>& adapters,
                                             const WideSchedule& schedule,
                                             const typename Epilogue::Params& params, int rank,
                                             int consumer, int lane) {
  WideRing<Config::kStages> ring;
  for (WideWalk walk(schedule, rank); !walk.done(); walk.next()) {
    const RowTile tile = wide_row_tile(adapters, walk.row_tile());
    int blocks = schedule.k_blocks, of_adapter = 0;
    bool half = false;
    if constexpr (Config::kAdapted) {
      if (warp_uniform(tile.doc) < 0) break;
      of_adapter = adapters.blocks[wide_adapter<Config>(schedule, walk.column_tile())];
      if (warp_uniform(tile.end - tile.begin) <= consumer * kTileRows / 2) {
        wide_pass_over<Config>(shared, ring, blocks + of_adapter, lane);
        continue;
      }
      half = adapters.ends_in_half && of_adapter > 0;
      of_adapter -= half;
    }
    if constexpr (!Config::kScaled) blocks += of_adapter;
    const int thread = consumer_thread();
    GemmTileAt at;
    at.row = tile.begin + thread / 32 * 16 + thread % 32 / 4;
    at.row_end = tile.end;
    at.column = walk.column_tile() * Config::kTileColumns + thread % 4 * 8;
    at.slot = (static_cast<int64_t>(walk.row_tile()) * schedule.column_tiles + walk.column_tile()) *
                  (2 * kWarpgroupThreads) +
              thread;
    Epilogue epilogue(params, at);

    WideRowScales scales;
    float acc[Config::kSums];
    wide_products<Config>(shared, acc, ring, blocks, half, consumer, lane, [&](int c) {
      if constexpr (Config::kScaled)
        if (c == 0) scales.load(adapters.scales, at);
      epilogue.early(c);
    });
    if constexpr (Config::kScaled)
      wide_adapter_products<Config>(shared, acc, ring, of_adapter, half, scales, consumer, lane);
    run_epilogue(epilogue, acc, schedule.chunks - walk.column_tile() * Config::kChunks,
                 shared.zero);
  }
}

template <class Config, class Epilogue>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kGemmThreads, 1)
    wide_kernel(const __grid_constant__ WideMatrices<Config> matrices,
                const __grid_constant__ WideSchedule schedule,
                const __grid_constant__ typename Epilogue::Params params,
                const __grid_constant__ WideAdapters<Config> adapters) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WideShared<Config>*>(shared_bytes);
  const int rank = static_cast<int>(cluster_rank());
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    wide_init(shared);
    shared.zero = 0;
  }
  cluster_sync();
  wait_for_earlier_kernels();

  if (warp < 4) {
    registers_decrease<Config::kProducerRegisters>();
    if (warp == 0 && lane == 0) wide_produce<Config>(shared, matrices, adapters, schedule, rank);
    __syncwarp();
  } else {
    registers_increase<Config::kConsumerRegisters>();
    wide_consume<Config, Epilogue>(shared, adapters, schedule, params, rank, warp / 4 - 1, lane);
  }
  // Another block may still send here, or arrive at barriers here.
  cluster_sync();
}

}  // namespace fairway::sm90

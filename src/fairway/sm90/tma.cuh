// The bulk tensor copy engine. One thread issues a copy; coordinates count elements, innermost
// first; parts of a box outside the tensor read as zero and are never written. Loads complete on an
// mbarrier (the whole box's bytes, clipped or not); stores in bulk groups of the issuing thread.
// Boxes with 128-byte swizzle need 1,024-byte aligned shared memory, those with 64-byte swizzle
// 512.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fairway/sm90/mbarrier.cuh"

namespace fairway::sm90 {

__device__ __forceinline__ void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* bar, int x,
                                            int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y)
      : "memory");
}

__device__ __forceinline__ void tma_load_3d(void* to, const CUtensorMap* map, uint64_t* bar, int x0,
                                            int x1, int x2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x0), "r"(x1), "r"(x2)
      : "memory");
}

__device__ __forceinline__ void tma_load_5d(void* to, const CUtensorMap* map, uint64_t* bar, int x0,
                                            int x1, int x2, int x3, int x4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
      : "memory");
}

// To the same place in every block of the cluster whose bit is set, completing on the barrier in
// the same place of each.
__device__ __forceinline__ void tma_load_2d_multicast(void* to, const CUtensorMap* map,
                                                      uint64_t* bar, int x, int y,
                                                      uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "h"(blocks)
      : "memory");
}
__device__ __forceinline__ void tma_load_5d_multicast(void* to, const CUtensorMap* map,
                                                      uint64_t* bar, int x0, int x1, int x2, int x3,
                                                      int x4, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "h"(blocks)
      : "memory");
}

// Brings a box into the L2 cache.
__device__ __forceinline__ void tma_prefetch_2d(const CUtensorMap* map, int x, int y) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(x),
               "r"(y)
               : "memory");
}

__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, const void* from, int x,
                                             int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(x), "r"(y)
      : "memory");
}

// Closes the issuing thread's current group of stores.
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until at most kPending groups have yet to read their shared memory.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
}  // namespace fairway::sm90

// Copies of contiguous bytes by the copy engine. One thread issues a copy; addresses and size are
// multiples of 16 bytes; a load completes on an mbarrier.
#pragma once

#include <cstdint>

#include "fairway/sm90/mbarrier.cuh"

namespace fairway::sm90 {

__device__ __forceinline__ void bulk_load(void* to, const void* from, uint32_t bytes,
                                          uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(bar))
      : "memory");
}

}  // namespace fairway::sm90

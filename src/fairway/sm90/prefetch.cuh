// Hints to the caches.
#pragma once

namespace fairway::sm90 {

// Brings the line of this global address into the L2 cache.
__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
}

}  // namespace fairway::sm90

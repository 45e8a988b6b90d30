// Ordering between ordinary accesses and the asynchronous units (tensor cores, copy engine).
#pragma once

namespace fairway::sm90 {

// Ordinary stores of this thread to shared memory become visible to asynchronous units; needed in
// each writing thread before the barrier that precedes the asynchronous read.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace fairway::sm90

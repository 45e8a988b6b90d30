// Warpgroups: register budgets, named barriers, the elected thread of a warp.
#pragma once

#include <cstdint>

namespace fairway::sm90 {

constexpr int kWarpgroupThreads = 128;

// Gives registers back to the pool, or takes them; every warp of the warpgroup executes it, and the
// kernel needs __launch_bounds__(threads, 1). Multiples of 8 in [24, 256].
template <int kRegisters>
__device__ __forceinline__ void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Barrier `id` (1..15; 0 is __syncthreads) over `threads` threads, waiting or only arriving.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// True in one thread of a converged warp.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xFFFFFFFF;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(elected));
  return elected != 0;
}

// The same value in every lane, known to the compiler as warp-uniform.
__device__ __forceinline__ int warp_uniform(int x) {
  return __shfl_sync(0xFFFFFFFFu, x, 0);
}

// The largest over the warp, thus a value that all lanes share unchanged, in a uniform register: so
// is what is computed from it, at no cost in the lanes' registers.
__device__ __forceinline__ int uniform_register(int x) {
  return __reduce_max_sync(0xFFFFFFFFu, x);
}

}  // namespace fairway::sm90

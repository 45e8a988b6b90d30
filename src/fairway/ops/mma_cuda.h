// Tensor core products and asynchronous copies of compute capability 8.0 and later, one
// instruction a function. Internal to ops/; for nvcc.
#pragma once

#include <cstdint>

namespace fairway {

// 16 bytes from global to shared memory, both aligned to 16.
__device__ inline void copy_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
// The same, or 16 zero bytes where `valid` is false; `global` is a valid address in any case.
__device__ inline void copy_async_16_or_zero(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
// 4 bytes or as many zeros, aligned to 4.
__device__ inline void copy_async_4_or_zero(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 4 : 0)
               : "memory");
}
// The copies issued by this thread since the last commit are one group.
__device__ inline void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kPending of this thread's latest groups are under way.
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements: lanes 8i … 8i+7 give the addresses of the rows of matrix i;
// lane l receives elements (l/4, 2(l%4)) and (l/4, 2(l%4)+1) of each.
__device__ inline void load_matrices(uint32_t (&to)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}
// Four transposed 8x8 matrices of 16-bit elements: lanes 8i … 8i+7 give the addresses of the rows
// of matrix i; lane l receives elements (2(l%4), l/4) and (2(l%4)+1, l/4) of each.
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8] over bf16 pairs. With g = lane / 4, t = lane % 4:
//   a0 (g, 2t…), a1 (g+8, 2t…), a2 (g, 2t+8…), a3 (g+8, 2t+8…);  b0 (2t…, g), b1 (2t+8…, g);
//   c0, c1 (g, 2t…), c2, c3 (g+8, 2t…).
__device__ inline void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace fairway

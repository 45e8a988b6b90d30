// 8x8 matrices of 16-bit elements between registers and shared memory. Lane l holds row l/4,
// columns 2(l%4) and 2(l%4)+1 of each matrix: half of a wgmma accumulator's 16x8 block of rows.
// Lanes 8i..8i+7 pass the addresses of the eight 16-byte rows of matrix i.
#pragma once

#include <cstdint>

namespace fairway::sm90 {

__device__ __forceinline__ void store_matrix_x4(uint32_t row_address, uint32_t r0, uint32_t r1,
                                                uint32_t r2, uint32_t r3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
      "r"(r0), "r"(r1), "r"(r2), "r"(r3)
      : "memory");
}
__device__ __forceinline__ void load_matrix_x4(uint32_t row_address, uint32_t& r0, uint32_t& r1,
                                               uint32_t& r2, uint32_t& r3) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
               : "r"(row_address)
               : "memory");
}
// Each matrix transposed: lane l holds column l/4, rows 2(l%4) and 2(l%4)+1.
__device__ __forceinline__ void load_matrix_transposed_x4(uint32_t row_address, uint32_t& r0,
                                                          uint32_t& r1, uint32_t& r2,
                                                          uint32_t& r3) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
               : "r"(row_address)
               : "memory");
}
}  // namespace fairway::sm90

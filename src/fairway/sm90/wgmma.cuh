// wgmma: D[64, N] (+)= A[64, 16] B[16, N] in bf16, or A[64, 32] B[32, N] in e4m3, with float
// accumulators, issued by the four warps of a warpgroup. Thread t's accumulator d[4 j + 2 h + e] is
//   row 16 (t / 32) + 8 h + t % 32 / 4, column 8 j + 2 (t % 4) + e.
// A fragment of A in registers is laid out alike: a[2 j + h] packs e = 0 (low) and 1 of row half h.
//
// Use: wgmma_fence(), any number of wgmma calls, wgmma_commit(); the accumulators may be read after
// wgmma_wait<0>(). `accumulate` false overwrites D. kTransA/kTransB: 0 for an operand that is
// contiguous along K, 1 for one contiguous along M or N; e4m3 operands are contiguous along K.
//
// With e4m3 operands the accumulators keep fewer bits than a float has between two instructions:
// what is added is cut off some 13 bits below the largest of the terms and the sum so far.
#pragma once

#include <cstdint>

#include "fairway/sm90/mbarrier.cuh"

namespace fairway::sm90 {

// Operands in shared memory, as TMA writes boxes of 128 bytes (64 elements of bf16) x r rows with
// 128-byte swizzle: row i of a box lies at 128 i, its 16-byte pieces exchanged by i % 8. A box
// starts at a multiple of 1,024 bytes.
//
// Contiguous along K: rows are M or N; 16 further along K (e4m3: 32) is 32 bytes further. A tile's
// rows lie in one box or in boxes that follow each other.
__device__ __forceinline__ uint64_t wgmma_descriptor_k(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  // From one group of 8 rows to the next.
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnused | ((address & 0x3FFFF) >> 4);
}
// Contiguous along M or N: rows are K; 16 further along K is 2,048 bytes further. 64 further along
// M or N is the next box, `box_bytes` further (128 * r).
__device__ __forceinline__ uint64_t wgmma_descriptor_mn(uint32_t address, uint32_t box_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | uint64_t{box_bytes >> 4} << 16 | ((address & 0x3FFFF) >> 4);
}
// The same for boxes of 32 elements (64 bytes) x r rows with 64-byte swizzle: 16 further along K is
// 1,024 bytes further, 32 further along M or N is the next box.
__device__ __forceinline__ uint64_t wgmma_descriptor_mn_32(uint32_t address, uint32_t box_bytes) {
  constexpr uint64_t kSwizzle64 = uint64_t{2} << 62;
  constexpr uint64_t kEightRows = uint64_t{512 >> 4} << 32;
  return kSwizzle64 | kEightRows | uint64_t{box_bytes >> 4} << 16 | ((address & 0x3FFFF) >> 4);
}
// The descriptor of an address `bytes` further.
__device__ __forceinline__ uint64_t wgmma_advance(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

// Orders register and shared-memory accesses before the wgmmas that follow.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of accumulators across a fence or wait.
template <int kCount>
__device__ __forceinline__ void wgmma_pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off
#define FAIRWAY_D16 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FAIRWAY_D32 FAIRWAY_D16 \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FAIRWAY_D48 FAIRWAY_D32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FAIRWAY_D64 FAIRWAY_D48 \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FAIRWAY_D96 FAIRWAY_D64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FAIRWAY_D128 FAIRWAY_D96 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FAIRWAY_F8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FAIRWAY_F16(d, i) FAIRWAY_F8(d, i), FAIRWAY_F8(d, i + 8)
#define FAIRWAY_F32(d, i) FAIRWAY_F16(d, i), FAIRWAY_F16(d, i + 16)
#define FAIRWAY_F48(d, i) FAIRWAY_F32(d, i), FAIRWAY_F16(d, i + 32)
#define FAIRWAY_F64(d, i) FAIRWAY_F32(d, i), FAIRWAY_F32(d, i + 32)
#define FAIRWAY_F96(d, i) FAIRWAY_F64(d, i), FAIRWAY_F32(d, i + 64)
#define FAIRWAY_F128(d, i) FAIRWAY_F64(d, i), FAIRWAY_F64(d, i + 64)

// A and B from shared memory.
#define FAIRWAY_WGMMA_SS(N, D, F, A, B, P, TA, TB)                                              \
  template <int kTransA, int kTransB>                                                           \
  __device__ __forceinline__ void wgmma_m64n##N##k16(float (&d)[N / 2], uint64_t a, uint64_t b, \
                                                     bool accumulate) {                         \
    asm volatile(                                                                               \
        "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                          \
        "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" D "}, "                    \
        A ", " B ", p, 1, 1, " TA ", " TB ";\n}"                                                \
        : F(d, 0)                                                                               \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransA), "n"(kTransB));       \
  }
// A from registers.
#define FAIRWAY_WGMMA_RS(N, D, F, A0, A1, A2, A3, B, P, TB)                                     \
  template <int kTransB>                                                                        \
  __device__ __forceinline__ void wgmma_m64n##N##k16(float (&d)[N / 2], const uint32_t (&a)[4], \
                                                     uint64_t b, bool accumulate) {             \
    asm volatile(                                                                               \
        "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                          \
        "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" D "}, {"                   \
        A0 ", " A1 ", " A2 ", " A3 "}, " B ", p, 1, 1, " TB ";\n}"                              \
        : F(d, 0)                                                                               \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                                   \
          "r"(static_cast<int>(accumulate)), "n"(kTransB));                                     \
  }
// A and B from shared memory, in e4m3.
#define FAIRWAY_WGMMA_SS_E4M3(N, D, F, A, B, P)                                                \
  __device__ __forceinline__ void wgmma_m64n##N##k32_e4m3(float (&d)[N / 2], uint64_t a,        \
                                                          uint64_t b, bool accumulate) {        \
    asm volatile(                                                                               \
        "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                          \
        "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" D "}, "                    \
        A ", " B ", p, 1, 1;\n}"                                                                \
        : F(d, 0)                                                                               \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                   \
  }
// A from registers, in e4m3.
#define FAIRWAY_WGMMA_RS_E4M3(N, D, F, A0, A1, A2, A3, B, P)                                     \
  __device__ __forceinline__ void wgmma_m64n##N##k32_e4m3(                                       \
      float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {                  \
    asm volatile(                                                                                \
        "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                           \
        "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" D "}, {"                    \
        A0 ", " A1 ", " A2 ", " A3 "}, " B ", p, 1, 1;\n}"                                       \
        : F(d, 0)                                                                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                                    \
          "r"(static_cast<int>(accumulate)));                                                    \
  }

FAIRWAY_WGMMA_SS(32, FAIRWAY_D16, FAIRWAY_F16, "%16", "%17", "%18", "%19", "%20")
FAIRWAY_WGMMA_SS(64, FAIRWAY_D32, FAIRWAY_F32, "%32", "%33", "%34", "%35", "%36")
FAIRWAY_WGMMA_SS(96, FAIRWAY_D48, FAIRWAY_F48, "%48", "%49", "%50", "%51", "%52")
FAIRWAY_WGMMA_SS(128, FAIRWAY_D64, FAIRWAY_F64, "%64", "%65", "%66", "%67", "%68")
FAIRWAY_WGMMA_SS(192, FAIRWAY_D96, FAIRWAY_F96, "%96", "%97", "%98", "%99", "%100")
FAIRWAY_WGMMA_SS(256, FAIRWAY_D128, FAIRWAY_F128, "%128", "%129", "%130", "%131", "%132")
FAIRWAY_WGMMA_RS(64, FAIRWAY_D32, FAIRWAY_F32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
FAIRWAY_WGMMA_SS_E4M3(256, FAIRWAY_D128, FAIRWAY_F128, "%128", "%129", "%130")
FAIRWAY_WGMMA_RS_E4M3(256, FAIRWAY_D128, FAIRWAY_F128, "%128", "%129", "%130", "%131", "%132", "%133")

#undef FAIRWAY_WGMMA_RS_E4M3
#undef FAIRWAY_WGMMA_SS_E4M3
#undef FAIRWAY_WGMMA_RS
#undef FAIRWAY_WGMMA_SS
#undef FAIRWAY_F128
#undef FAIRWAY_F64
#undef FAIRWAY_F48
#undef FAIRWAY_F32
#undef FAIRWAY_F16
#undef FAIRWAY_F8
#undef FAIRWAY_D128
#undef FAIRWAY_D64
#undef FAIRWAY_D48
#undef FAIRWAY_D32
#undef FAIRWAY_D16
// clang-format on

}  // namespace fairway::sm90

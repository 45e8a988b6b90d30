// dW is made of tiles of 128 hidden columns x 256 of D: A is f or dz, which ldmatrix transposes in
// pairs of bytes on the way to registers, and a byte permutation parts the pairs. B are the columns
// of dm or n.
//
// The tensor cores cut off what is added some 13 bits below the sum so far, so that of many rows
// that all bring the same a part would be lost, which the optimizer's orthogonal updates do not
// forgive. After every few thousand rows the sums go to memory, where they are added up as floats:
// by the L2 cache, and by one thread each, so in the same order every time.
#include "fairway/device/cuda_check.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/mlp_e4m3_sm90.cuh"
#include "fairway/ops/mlp_e4m3_weights_sm90.cuh"
#include "fairway/ops/weight_slices_sm90.cuh"
#include "fairway/sm90/matrix_move.cuh"

namespace fairway::cuda {
namespace {

using namespace sm90;
using Config = WideConfig<1, 1, false, e4m3>;
constexpr int kStep = 32;  // rows of one instruction
constexpr int kSteps = Config::kBlockK / kStep;
constexpr int kSpan = kMlpE4m3SpanRows / Config::kBlockK;  // blocks of K

struct Gradient {
  CUtensorMap hidden;   // [T, F]
  CUtensorMap columns;  // [D, width(T)]
  WeightTiles tiles;    // m = F, n = D
};

// The producer thread. What lies outside of the matrices reads as zeros.
__device__ __forceinline__ void produce(WideShared<Config>& shared, const Gradient& g,
                                        const WeightUnit& unit, int rank) {
  constexpr int kBoxesB = Config::kTileColumns / kBox / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  WideRing<Config::kStages> ring;
  for (int k = unit.begin; k < unit.end; ++k) {
    mbarrier_wait(&shared.empty[ring.stage()], ring.parity() ^ 1);
    uint64_t* full = &shared.full[ring.stage()];
    mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
#pragma unroll
    for (int i = 0; i < Config::kBlockK / kBox; ++i)
      tma_load_2d(shared.a[ring.stage()] + i * kBoxBytes, &g.hidden, full,
                  unit.row_tile * kTileRows, k * Config::kBlockK + i * kBox);
#pragma unroll
    for (int i = 0; i < kBoxesB; ++i) {
      const int box = rank * kBoxesB + i;
      tma_load_2d_multicast(shared.b[ring.stage()] + box * kBoxBytes, &g.columns, full,
                            k * Config::kBlockK, unit.column + box * kBox, kAll);
    }
    ring.next();
  }
}

// A's fragments of a block of K, of the warp's 16 hidden columns: rows i and i + 8 of the fragment
// are columns 2 i and 2 i + 1. `row`: the lane's of a step.
using Fragments = uint32_t[kSteps][4];
__device__ __forceinline__ void load_fragments(uint32_t row, Fragments& a) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t pairs[4];
    load_matrix_transposed_x4(row + step * kStep * kBoxRowBytes, pairs[0], pairs[1], pairs[2],
                              pairs[3]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      a[step][2 * half] = __byte_perm(pairs[2 * half], pairs[2 * half + 1], 0x6420);
      a[step][2 * half + 1] = __byte_perm(pairs[2 * half], pairs[2 * half + 1], 0x7531);
    }
  }
}

__device__ __forceinline__ void issue(float (&acc)[128], const Fragments& a, const uint8_t* b,
                                      bool accumulate) {
  const uint64_t desc = wgmma_descriptor_k(shared_address(b));
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    wgmma_m64n256k32_e4m3(acc, a[step], wgmma_advance(desc, step * kStep), accumulate || step > 0);
  wgmma_commit();
}

// A thread's sums of a slice in memory: every fourth of them 16 bytes, those of a warp's lanes
// beside each other.
constexpr int kThreads = 2 * kWarpgroupThreads;  // of both consumers
__device__ __forceinline__ float4* partial_of(const WeightTiles& tiles, int slice, int row_tile,
                                              int column_tile, int thread) {
  const int64_t row_tiles = int64_t{tiles.row_groups} * kCluster;
  const int64_t tile = (slice * row_tiles + row_tile) * tiles.column_tiles + column_tile;
  return reinterpret_cast<float4*>(tiles.partial) + tile * 32 * kThreads + thread;
}
__device__ __forceinline__ void add_to(float4* to, const float4& v, bool first) {
  if (first)
    asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x),
                 "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
  else
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x),
                 "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}

__device__ __forceinline__ void consume(WideShared<Config>& shared, const Gradient& g,
                                        const WeightUnit& unit, int consumer, int warp, int lane) {
  WideRing<Config::kStages> ring;
  // The warp's columns are one piece of 16 bytes in each row of the box.
  const int piece = consumer * 4 + warp;
  const int row = lane * kBoxRowBytes + ((piece ^ (lane % 8)) << 4);
  float4* const to = partial_of(g.tiles, unit.slice, unit.row_tile,
                                unit.column / Config::kTileColumns, piece * 32 + lane);
  float acc[128];
  const auto load = [&](Fragments& a) {
    mbarrier_wait(&shared.full[ring.stage()], ring.parity());
    load_fragments(shared_address(shared.a[ring.stage()]) + row, a);
  };
  // The products of block k of the slice, and the fragments of the next one meanwhile, into
  // registers that the block before has left.
  const int blocks = unit.end - unit.begin;
  const auto step = [&](int k, const Fragments& now, Fragments& next) {
    const bool more = k + 1 < blocks, ends = (k + 1) % kSpan == 0 || !more;
    issue(acc, now, shared.b[ring.stage()], k % kSpan != 0);
    if (k % kSpan != 0) {
      wgmma_wait<1>();
      wide_release(shared, ring.previous(), lane);
    }
    ring.next();
    if (more) load(next);
    if (!ends) return;
    wgmma_wait<0>();
    wgmma_pin(acc);
    wide_release(shared, ring.previous(), lane);
#pragma unroll
    for (int j = 0; j < 32; ++j)
      add_to(to + j * kThreads, {acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]},
             k < kSpan);
  };
  Fragments even, odd;
  if (blocks > 0) load(even);
  for (int k = 0; k < blocks; k += 2) {
    step(k, even, odd);
    if (k + 1 < blocks) step(k + 1, odd, even);
  }
}

__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kGemmThreads, 1)
    gradient_kernel(const __grid_constant__ Gradient g) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WideShared<Config>*>(shared_bytes);
  weight_roles(
      shared, g.tiles, [&](const WeightUnit& unit, int rank) { produce(shared, g, unit, rank); },
      [&](const WeightUnit& unit, int consumer, int warp, int lane) {
        consume(shared, g, unit, consumer, warp, lane);
      });
}

// dW += the slices' sums: a thread 16 bytes of each slice, which are 2 x 2 elements of dW. kDown:
// of Wdown, [D, F]; otherwise of Wup, [F, D].
template <bool kDown>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(const __grid_constant__ WeightTiles tiles, const int32_t* exponents,
               const int32_t* dm_exponent, float* dw) {
  wait_for_earlier_kernels();
  const int thread = static_cast<int>(threadIdx.x), j = static_cast<int>(blockIdx.x);
  const int column_tile = static_cast<int>(blockIdx.y), row_tile = static_cast<int>(blockIdx.z);
  const int64_t F = tiles.m, D = tiles.n;
  const int64_t hidden = row_tile * kTileRows + thread / 32 * 16 + thread % 32 / 4 * 2;
  const int64_t column = column_tile * Config::kTileColumns + j * 8 + thread % 4 * 2;
  if (hidden >= F || column >= D) return;
  const int e =
      kDown ? __ldg(exponents + kE4m3F) : __ldg(exponents + kE4m3Dz) + __ldg(exponents + kE4m3N);
  // One after the other: their product may not be a float.
  const float of_dm = power_of_two(-*dm_exponent), of_others = power_of_two(-e);
  float4 sum = {0, 0, 0, 0};
  for (int slice = 0; slice < tiles.slices; ++slice) {
    const float4 v = *(partial_of(tiles, slice, row_tile, column_tile, thread) + j * kThreads);
    sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
  }
  // Of the thread's two hidden columns and two of D.
  const float4 v = kDown ? float4{sum.x, sum.z, sum.y, sum.w} : sum;
  float2* const first =
      reinterpret_cast<float2*>(dw + (kDown ? column * F + hidden : hidden * D + column));
  float2* const second =
      reinterpret_cast<float2*>(reinterpret_cast<float*>(first) + (kDown ? F : D));
  const float2 a = *first, b = *second;
  *first = {fmaf(v.x * of_dm, of_others, a.x), fmaf(v.y * of_dm, of_others, a.y)};
  *second = {fmaf(v.z * of_dm, of_others, b.x), fmaf(v.w * of_dm, of_others, b.y)};
}

template <bool kDown>
void launch(cudaStream_t stream, const MlpE4m3Columns& columns, const e4m3* hidden,
            const int32_t* exponents, int64_t T, int64_t D, int64_t F, int slices, float* partial,
            float* dw) {
  if (T == 0) return;
  require(mlp_e4m3_fits(D, F), "an e4m3 MLP's widths must be multiples of 128");
  const int64_t width = MlpE4m3Columns::width(T);
  const Gradient g{tensor_map(hidden, T, F, F),
                   tensor_map(kDown ? columns.dm : columns.n, D, width, width),
                   make_weight_tiles(F, D, T, Config::kBlockK, slices, partial)};
  constexpr int kBytes = sizeof(WideShared<Config>);
  allow_shared(gradient_kernel, kBytes);
  launch_dependent(stream, gradient_kernel, weight_blocks(g.tiles), kGemmThreads, kBytes, g);
  cuda_check_launch("an e4m3 MLP's weight gradient");
  const dim3 blocks(32, static_cast<unsigned>(g.tiles.column_tiles),
                    static_cast<unsigned>(g.tiles.row_groups * kCluster));
  launch_dependent(stream, sum_kernel<kDown>, blocks, kThreads, 0, g.tiles, exponents,
                   columns.exponent, dw);
  cuda_check_launch("an e4m3 MLP's weight gradient: sum");
}

}  // namespace

size_t mlp_e4m3_weight_bytes(int64_t D, int64_t F, int slices) {
  return static_cast<size_t>(slices * weight_tiles(F, D)) * kCluster * kTileRows *
         Config::kTileColumns * sizeof(float);
}

int mlp_e4m3_weight_slices(int64_t T, int64_t D, int64_t F, int multiprocessors) {
  return weight_slices(F, D, T, Config::kBlockK, multiprocessors);
}

void mlp_e4m3_down_weight(cudaStream_t stream, const MlpE4m3Columns& columns, const e4m3* f,
                          const int32_t* exponents, int64_t T, int64_t D, int64_t F, int slices,
                          float* partial, float* dwdown) {
  launch<true>(stream, columns, f, exponents, T, D, F, slices, partial, dwdown);
}

void mlp_e4m3_up_weight(cudaStream_t stream, const MlpE4m3Columns& columns, const e4m3* dz,
                        const int32_t* exponents, int64_t T, int64_t D, int64_t F, int slices,
                        float* partial, float* dwup) {
  launch<false>(stream, columns, dz, exponents, T, D, F, slices, partial, dwup);
}

}  // namespace fairway::cuda

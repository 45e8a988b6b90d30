// Both operands lie in memory with their rows, the product's K, as the outer dimension, and wgmma
// takes them so.
#include "fairway/device/cuda_check.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/linear_operands_sm90.cuh"
#include "fairway/ops/linear_weights_sm90.cuh"
#include "fairway/ops/weight_slices_sm90.cuh"

namespace fairway::cuda {
namespace {

using namespace sm90;
using Config = WideConfig<>;

struct Gradients {
  CUtensorMap dy[3], x;
  WideParts along_m;  // where each dy's columns begin, in boxes
  WeightTiles tiles;
};

// The producer thread. Columns past the last, and rows, read as zeros.
__device__ __forceinline__ void produce(WideShared<Config>& shared, const Gradients& g,
                                        const WeightUnit& unit, int rank) {
  constexpr int kBoxesB = Config::kTileColumns / kBox / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  WideRing<Config::kStages> ring;
  for (int k = unit.begin; k < unit.end; ++k) {
    mbarrier_wait(&shared.empty[ring.stage()], ring.parity() ^ 1);
    uint64_t* full = &shared.full[ring.stage()];
    mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
#pragma unroll
    for (int i = 0; i < kTileRows / kBox; ++i) {
      const WidePart dy = wide_part<3>(g.along_m, unit.row_tile * (kTileRows / kBox) + i);
      tma_load_2d(shared.a[ring.stage()] + i * kBoxBytes, &g.dy[dy.index], full, dy.offset * kBox,
                  k * Config::kBlockK);
    }
#pragma unroll
    for (int i = 0; i < kBoxesB; ++i) {
      const int box = rank * kBoxesB + i;
      tma_load_2d_multicast(shared.b[ring.stage()] + box * kBoxBytes, &g.x, full,
                            unit.column + box * kBox, k * Config::kBlockK, kAll);
    }
    ring.next();
  }
}

__device__ __forceinline__ void consume(WideShared<Config>& shared, const Gradients& g,
                                        const WeightUnit& unit, int consumer, int warp, int lane) {
  constexpr uint32_t kStep = 2048;  // bytes of 16 rows of a box
  WideRing<Config::kStages> ring;
  float acc[128] = {};
  for (int k = unit.begin; k < unit.end; ++k) {
    mbarrier_wait(&shared.full[ring.stage()], ring.parity());
    const uint64_t a = wgmma_descriptor_mn(
        shared_address(shared.a[ring.stage()] + consumer * kBoxBytes), kBoxBytes);
    const uint64_t b = wgmma_descriptor_mn(shared_address(shared.b[ring.stage()]), kBoxBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Config::kBlockK / 16; ++step)
      wgmma_m64n256k16<1, 1>(acc, wgmma_advance(a, step * kStep), wgmma_advance(b, step * kStep),
                             true);
    wgmma_commit();
    if (k > unit.begin) {
      wgmma_wait<1>();
      wide_release(shared, ring.previous(), lane);
    }
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_pin(acc);
  if (unit.begin < unit.end) wide_release(shared, ring.previous(), lane);

  const int row = unit.row_tile * kTileRows + consumer * kBox + warp * 16 + lane / 4;
  const int column = unit.column + lane % 4 * 2;
  const int m = g.tiles.m, n = g.tiles.n;
  float* const to = g.tiles.partial + (int64_t{unit.slice} * m + row) * n + column;
#pragma unroll
  for (int j = 0; j < 32; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (row + 8 * half < m && column + 8 * j < n)
        *reinterpret_cast<float2*>(to + int64_t{8 * half} * n + 8 * j) = {
            acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]};
}

__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kGemmThreads, 1)
    weights_kernel(const __grid_constant__ Gradients g) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WideShared<Config>*>(shared_bytes);
  weight_roles(
      shared, g.tiles, [&](const WeightUnit& unit, int rank) { produce(shared, g, unit, rank); },
      [&](const WeightUnit& unit, int consumer, int warp, int lane) {
        consume(shared, g, unit, consumer, warp, lane);
      });
}

constexpr int kSumThreads = 256;
constexpr int kAtOnce = 8;  // slices on their way

struct Sum {
  const float4* partial;
  float4* dw[3];
  int begin[3], total;  // in float4s
  int slices;
};

__global__ void __launch_bounds__(kSumThreads) sum_kernel(const __grid_constant__ Sum s) {
  wait_for_earlier_kernels();
  const int i = static_cast<int>(blockIdx.x * kSumThreads + threadIdx.x);
  if (i >= s.total) return;
  const int part = (i >= s.begin[1]) + (i >= s.begin[2]);
  float4* const to = s.dw[part] + (i - s.begin[part]);
  const float4 dw = *to;
  float4 sum = {0, 0, 0, 0};
  for (int first = 0; first < s.slices; first += kAtOnce) {
    float4 v[kAtOnce] = {};
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (first + k < s.slices) v[k] = s.partial[int64_t{first + k} * s.total + i];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      sum = {sum.x + v[k].x, sum.y + v[k].y, sum.z + v[k].z, sum.w + v[k].w};
  }
  *to = {dw.x + sum.x, dw.y + sum.y, dw.z + sum.z, dw.w + sum.w};
}

int64_t out_width(const WeightGradients& g) {
  return g.out[0] + g.out[1] + g.out[2];
}

}  // namespace

int linear_three_backward_weight_slices(const WeightGradients& g, int multiprocessors) {
  return weight_slices(out_width(g), g.in, g.rows, Config::kBlockK, multiprocessors);
}

size_t weight_gradients_bytes(const WeightGradients& g, int slices) {
  return static_cast<size_t>(slices * out_width(g) * g.in) * sizeof(float);
}

void linear_three_backward_weight(cudaStream_t stream, const WeightGradients& from, int slices,
                                  float* partial) {
  if (from.rows == 0) return;
  Gradients g{};
  check(out_width(from) * from.in <= INT32_MAX, "weights' gradients: too many elements");
  Sum sum{};
  sum.partial = reinterpret_cast<const float4*>(partial);
  sum.total = static_cast<int>(out_width(from) * from.in / 4);
  sum.slices = slices;
  int m = 0;
  for (int i = 0; i < 3; ++i) {
    require_widths(from.in, from.out[i]);
    g.dy[i] = tensor_map(from.dy[i], from.rows, from.out[i], from.out[i]);
    g.along_m.begin[i] = m / kBox;
    sum.dw[i] = reinterpret_cast<float4*>(from.dw[i]);
    sum.begin[i] = static_cast<int>(m * from.in / 4);
    m += static_cast<int>(from.out[i]);
  }
  g.x = tensor_map(from.x, from.rows, from.in, from.in);
  g.tiles = make_weight_tiles(m, from.in, from.rows, Config::kBlockK, slices, partial);

  constexpr int kBytes = sizeof(WideShared<Config>);
  allow_shared(weights_kernel, kBytes);
  launch_dependent(stream, weights_kernel, weight_blocks(g.tiles), kGemmThreads, kBytes, g);
  cuda_check_launch("weights' gradients");
  launch_dependent(stream, sum_kernel, wide_ceil_div(sum.total, kSumThreads), kSumThreads, 0, sum);
  cuda_check_launch("weights' gradients: sum");
}

}  // namespace fairway::cuda

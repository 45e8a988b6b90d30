// dw += dyᵀ x. The sums over rows are split between clusters; each part's tiles go to a workspace
// in the accumulators' own order, and a second kernel adds the parts in order into dw. With one
// part the tiles are added to dw directly: one addition per element, so still in a fixed order.
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

// The parts' order below is that of clusters of two.
using Config = sm90::WideConfig<sm90::Major::kMN, sm90::Major::kMN, 1, sm90::Split::kColumns,
                                sm90::Store::kNone, 2>;
using sm90::GemmTileAt;
using sm90::wide_ceil_div;
using sm90::WideMatrices;
using sm90::WideSchedule;

constexpr int kQuads = Config::kTileColumns / 8;  // groups of 4 accumulators of a thread

// The parts are planned for this many clusters whatever the device has, so that the sums do not
// depend on it: 132 multiprocessors.
constexpr int kPlannedClusters = 66;

__device__ __forceinline__ void add_pair(float* to, float low, float high) {
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(low), "f"(high)
               : "memory");
}

// Accumulators j * 4 + 2h + e of a thread are (row + 8h, column + 8j + e).
class PartialEpilogue {
 public:
  struct Params {
    float4* partials;  // [unit, block, consumer][kQuads][128 threads]; null: add to dw
    float* dw;
    int rows, columns;
  };
  static constexpr bool kInput = false;

  __device__ __forceinline__ PartialEpilogue(const Params& params, const GemmTileAt& at)
      : params_(params),
        row_(at.row + at.fragment_row()),
        column_(at.column + at.fragment_column()),
        slot_(static_cast<int64_t>(at.unit) * kQuads * sm90::kWarpgroupThreads + at.warp * 32 +
              at.lane) {}

  __device__ __forceinline__ void accumulators(const float (&acc)[4 * kQuads]) {
    if (params_.partials != nullptr) {
      float4* to = params_.partials + slot_;
#pragma unroll
      for (int j = 0; j < kQuads; ++j)
        to[j * sm90::kWarpgroupThreads] = {acc[4 * j], acc[4 * j + 1], acc[4 * j + 2],
                                           acc[4 * j + 3]};
      return;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = row_ + 8 * h;
      if (row >= params_.rows) continue;
      float* to = params_.dw + static_cast<int64_t>(row) * params_.columns + column_;
#pragma unroll
      for (int j = 0; j < kQuads; ++j)
        if (column_ + 8 * j < params_.columns)
          add_pair(to + 8 * j, acc[4 * j + 2 * h], acc[4 * j + 2 * h + 1]);
    }
  }

 private:
  const Params& params_;
  int row_, column_;
  int64_t slot_;
};

// Block (unit of the first split * 4 + block * 2 + consumer, quad): adds that quad of all splits.
__global__ void __launch_bounds__(sm90::kWarpgroupThreads)
    add_partials(const float4* __restrict__ partials, int units_per_split, int splits,
                 int column_tiles, int rows, int columns, float* __restrict__ dw) {
  const int part = static_cast<int>(blockIdx.x) / kQuads;
  const int quad = static_cast<int>(blockIdx.x) % kQuads;
  const int thread = static_cast<int>(threadIdx.x);
  const int unit = part / 4, block = part / 2 % 2, consumer = part % 2;
  const int row = (unit / column_tiles * 2 + block) * sm90::kTileRows + consumer * sm90::kBox +
                  thread / 32 * 16 + thread % 32 / 4;
  const int column = unit % column_tiles * Config::kTileColumns + quad * 8 + thread % 4 * 2;
  if (row >= rows || column >= columns) return;

  const float4* from =
      partials + (static_cast<int64_t>(part) * kQuads + quad) * sm90::kWarpgroupThreads + thread;
  const int64_t stride =
      static_cast<int64_t>(units_per_split) * 4 * kQuads * sm90::kWarpgroupThreads;
  float4 sum = *from;
#pragma unroll 4
  for (int s = 1; s < splits; ++s) {
    const float4 next = from[s * stride];
    sum = {sum.x + next.x, sum.y + next.y, sum.z + next.z, sum.w + next.w};
  }
  auto* low = reinterpret_cast<float2*>(dw + static_cast<int64_t>(row) * columns + column);
  *low = {low->x + sum.x, low->y + sum.y};
  if (row + 8 >= rows) return;
  auto* high = reinterpret_cast<float2*>(dw + static_cast<int64_t>(row + 8) * columns + column);
  *high = {high->x + sum.z, high->y + sum.w};
}

struct Plan {
  int row_pairs, column_tiles;
  int units;  // of one split
  int k_blocks, k_blocks_per_split, splits;
};

Plan make_plan(int64_t rows, int64_t in, int64_t out) {
  Plan plan;
  plan.row_pairs = wide_ceil_div(out, 2 * sm90::kTileRows);
  plan.column_tiles = wide_ceil_div(in, Config::kTileColumns);
  plan.units = plan.row_pairs * plan.column_tiles;
  plan.k_blocks = wide_ceil_div(rows, sm90::kBlockK);
  plan.k_blocks_per_split = plan.k_blocks;
  // What writing and adding one part of all clusters costs, in blocks along K.
  constexpr double kPartCost = 18;
  double best = 0;
  for (int splits = 1; splits <= kPlannedClusters && splits <= plan.k_blocks; ++splits) {
    const int blocks = wide_ceil_div(plan.k_blocks, splits);
    const int64_t units = static_cast<int64_t>(plan.units) * wide_ceil_div(plan.k_blocks, blocks);
    const double cost =
        static_cast<double>(wide_ceil_div(units, kPlannedClusters)) * blocks +
        (splits > 1 ? kPartCost * static_cast<double>(units) / kPlannedClusters : 0);
    if (splits == 1 || cost < best) {
      best = cost;
      plan.k_blocks_per_split = blocks;
    }
  }
  plan.splits = wide_ceil_div(plan.k_blocks, plan.k_blocks_per_split);
  return plan;
}

}  // namespace

size_t linear_backward_weight_workspace(int64_t rows, int64_t in, int64_t out) {
  if (rows == 0) return 0;
  const Plan plan = make_plan(rows, in, out);
  if (plan.splits == 1) return 0;
  return static_cast<size_t>(plan.units) * static_cast<size_t>(plan.splits) * 2 * sm90::kTileRows *
         Config::kTileColumns * sizeof(float);
}

void linear_backward_weight(cudaStream_t stream, const bf16* dy, const bf16* x, int64_t rows,
                            int64_t in, int64_t out, float* workspace, float* dw) {
  if (rows == 0) return;
  require(in > 0 && out > 0 && in % 64 == 0 && out % 64 == 0,
          "a matrix product's widths must be multiples of 64");
  const Plan plan = make_plan(rows, in, out);
  WideMatrices<1> matrices{};
  matrices.a[0] = sm90::tensor_map(dy, rows, out, out);
  matrices.b[0] = sm90::tensor_map(x, rows, in, in);
  matrices.columns[0] = static_cast<int>(in);
  matrices.rows = static_cast<int>(out);
  WideSchedule schedule{};
  schedule.splits = plan.splits;
  schedule.column_tiles = plan.column_tiles;
  schedule.row_groups = plan.row_pairs;
  schedule.k_blocks = plan.k_blocks;
  schedule.k_blocks_per_split = plan.k_blocks_per_split;
  auto* partials = plan.splits == 1 ? nullptr : reinterpret_cast<float4*>(workspace);
  const int dw_rows = static_cast<int>(out), dw_columns = static_cast<int>(in);
  sm90::wide_launch<Config, PartialEpilogue>(stream, matrices, schedule,
                                             {partials, dw, dw_rows, dw_columns});
  if (plan.splits == 1) return;
  add_partials<<<plan.units * 4 * kQuads, sm90::kWarpgroupThreads, 0, stream>>>(
      partials, plan.units, plan.splits, plan.column_tiles, dw_rows, dw_columns, dw);
  cuda_check_launch("a weight gradient's sum");
}

}  // namespace fairway::cuda

// The gradients of low-rank adapters on Hopper: operands and launches of the kernels.
#include <algorithm>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/low_rank_gradient_sm90.cuh"
#include "fairway/ops/low_rank_kernel.cuh"
#include "fairway/ops/low_rank_sm90.h"
#include "fairway/ops/low_rank_ups_sm90.cuh"

namespace fairway {

using namespace cuda::low_rank_sm90;

namespace {

constexpr int64_t kMostWidth = kPartColumns * kMostParts;
constexpr int kMostRank = 96;  // that block 1 has registers for

// Whether eights of a gradient's elements are aligned in each document.
bool eights_aligned(const bf16* first, int64_t stride) {
  return reinterpret_cast<uintptr_t>(first) % 16 == 0 && stride % 8 == 0;
}

template <class Tile>
void launch_gradient(CudaDevice& device, int64_t rows, const CUtensorMap& narrow,
                     const CUtensorMap& wide, Gradient g) {
  constexpr int kBytes = sizeof(typename Tile::Shared);
  const int narrow_tiles = static_cast<int>(ceil_div(g.narrow_pitch, Tile::kNarrowColumns));
  g.tiles = narrow_tiles * static_cast<int>(ceil_div(g.width, Tile::kWideColumns));
  allow_shared(gradient_kernel<Tile>, kBytes);
  const unsigned blocks = most_doc_tiles<kChunkRows>(rows, g.docs) * static_cast<unsigned>(g.tiles);
  launch_dependent(device.stream(), gradient_kernel<Tile>, blocks, kBlockThreads, kBytes, narrow,
                   wide, g, narrow_tiles);
  cuda_check_launch("low_rank: gradient");
}

}  // namespace

bool low_rank_ups_backward_fits_sm90(const CudaDevice& device,
                                     std::span<const LowRankUpBackward<bf16>> ups,
                                     Tensor<const bf16> dxa) {
  return device.capability() == 90 && dxa.extent(0) > 0 &&
         std::all_of(ups.begin(), ups.end(), [](const LowRankUpBackward<bf16>& one) {
           return one.up.rank <= kMostRank && one.up.out <= kMostWidth &&
                  eights_aligned(one.db, one.up.stride);
         });
}

bool low_rank_down_gradient_fits_sm90(const CudaDevice& device, int64_t rows,
                                      const LowRankDown<bf16>& da) {
  return device.capability() == 90 && rows > 0 &&
         std::all_of(da.a.begin(), da.a.begin() + da.count,
                     [&](const bf16* a) { return eights_aligned(a, da.stride); });
}

void low_rank_ups_backward_sm90(CudaDevice& device, std::span<const LowRankUpBackward<bf16>> ups,
                                Tensor<const bf16> xa, Tensor<bf16> dxa) {
  const auto& any = ups.front().up;
  const int64_t rows = xa.extent(0), rank = any.rank, docs = any.docs;
  UpsBackward u{};
  u.doc_rows = any.doc_rows.data;
  u.docs = static_cast<int>(docs);
  u.count = static_cast<int>(ups.size());
  u.rank = static_cast<int>(rank);
  u.pitch = dxa.extent(1);
  u.dxa = dxa.data;
  u.xa = sm90::tensor_map_narrow(xa.data, rows, xa.extent(1), xa.extent(1));
  const cuda::AdapterMatrices b = cuda::adapters_ups_backward(device, ups);

  int64_t floats = 0;
  for (const auto& one : ups) floats += partial_floats(rows, one.db ? 1 : 0, one.up.out, rank);
  float* partial = partial_workspace(device, floats);
  UpsSums sums{.count = static_cast<int>(ups.size())};
  for (size_t i = 0; i < ups.size(); ++i) {
    const auto& [up, dy, db] = ups[i];
    u.adapter[i].dy = sm90::tensor_map(dy.data, rows, up.out, up.out);
    u.adapter[i].b =
        sm90::tensor_map_narrow_each(b.first[i], docs, b.step[i], up.out, rank, kPartColumns);
    u.adapter[i].parts = static_cast<int>(ceil_div(up.out, kPartColumns));
    u.adapter[i].column = static_cast<int>(up.place * rank);
    if (!db) continue;
    u.adapter[i].db = sums.gradient[i] = ups_gradient(ups[i], xa, partial);
    partial += partial_floats(rows, 1, up.out, rank);
  }

  cuda::low_rank::with_kernel_rank<kMostRank>(rank, [&](auto kernel_rank) {
    constexpr int kRank = decltype(kernel_rank)::value;
    constexpr int kBytes = sizeof(UpsShared<kRank>);
    allow_shared(ups_backward_kernel<kRank>, kBytes);
    const unsigned units = most_doc_tiles<kChunkRows>(rows, docs) * static_cast<unsigned>(u.count);
    const unsigned clusters = std::min(units, static_cast<unsigned>(device.multiprocessors()) / 2);
    launch_dependent(device.stream(), ups_backward_kernel<kRank>, 2 * clusters, kUpsThreads, kBytes,
                     u);
    cuda_check_launch("low_rank: ups, backward");
  });
  run_sum_ups(device, docs, sums);
}

void low_rank_down_gradient_sm90(CudaDevice& device, Tensor<const bf16> dxa, Tensor<const bf16> x,
                                 const LowRankDown<const float>& down,
                                 const LowRankDown<bf16>& da) {
  const int64_t rows = x.extent(0), in = down.in, width = down.width();
  const Gradient g = down_gradient(device, dxa, x, down, da);
  const CUtensorMap narrow = sm90::tensor_map(dxa.data, rows, width, width);
  const CUtensorMap wide = sm90::tensor_map(x.data, rows, in, in);
  // All four adapters of attention's input at once; the MLP's one has few columns.
  if (width > 128)
    launch_gradient<GradientTile<3, 128, 3>>(device, rows, narrow, wide, g);
  else
    launch_gradient<GradientTile<1, 128, 6>>(device, rows, narrow, wide, g);
  run_sum_chunks(device, g);
}

}  // namespace fairway

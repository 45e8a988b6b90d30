// Rows of bf16 → e4m3 columns for the weights' gradients.
#include "fairway/ops/e4m3_rows_cuda.cuh"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_e4m3_cuda.h"
#include "fairway/ops/mlp_e4m3_weights_sm90.cuh"

namespace fairway::cuda {
namespace {

static_assert(kPack == 8);

// A block a tile of 256 rows x 64 columns of dm (blockIdx.z 0) or n: as bytes to shared memory, and
// from there by threads of 16 rows and 4 columns.
constexpr int kTileT = 256, kTileD = 64, kGroup = 16;
constexpr int kGroups = kTileT / kGroup;
// Rows of one place in their groups follow each other, so that a warp's 16 groups lie in 16 banks.
constexpr int kPitch = kTileD + 4;
static_assert(kGroups * (kTileD / 4) == kRowThreads);

struct Columns {
  const bf16* x[2];          // dm, n
  const int32_t* exponents;  // [kE4m3Exponents]
  const int32_t* of_rows;    // [T]
  const int32_t* least;
  int64_t T, D, width;
  e4m3* to[2];
};

__global__ __launch_bounds__(kRowThreads) void columns_kernel(const __grid_constant__ Columns c) {
  __shared__ __align__(16) uint8_t tile[kTileT * kPitch];
  wait_for_earlier_kernels();
  const int which = static_cast<int>(blockIdx.z), thread = static_cast<int>(threadIdx.x);
  const int64_t row0 = int64_t{blockIdx.x} * kTileT, column0 = int64_t{blockIdx.y} * kTileD;
  const int least = *c.least, of_n = __ldg(c.exponents + kE4m3N);
  constexpr int kPacks = kTileD / kPack, kTimes = kTileT * kPacks / kRowThreads;
#pragma unroll
  for (int i = 0; i < kTimes; ++i) {
    const int t = (i * kRowThreads + thread) / kPacks, j = thread % kPacks * kPack;
    uint2 bytes = make_uint2(0, 0);
    if (row0 + t < c.T) {
      Pack<bf16, kPack> pack;
      load<kPack>(c.x[which] + (row0 + t) * c.D + column0 + j, pack);
      const int e = which == 0 ? least : e4m3_exponent_beside_dz(of_n, c.of_rows[row0 + t], least);
      bytes = e4m3_of_bf16(pack.quad[0], power_of_two(e));
    }
    auto* at = reinterpret_cast<uint32_t*>(tile + (t % kGroup * kGroups + t / kGroup) * kPitch + j);
    at[0] = bytes.x;
    at[1] = bytes.y;
  }
  __syncthreads();
  const int group = thread % kGroups, d = thread / kGroups * 4;
  if (row0 + group * kGroup >= c.width) return;
  uint32_t out[4][4];  // [column][quarter of the group]
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    // Four rows of four columns, and their transpose.
    const auto row = [&](int t) {
      return *reinterpret_cast<const uint32_t*>(tile + (t * kGroups + group) * kPitch + d);
    };
    const uint32_t r0 = row(2 * q), r1 = row(2 * q + 1), r2 = row(8 + 2 * q), r3 = row(9 + 2 * q);
    const uint32_t low01 = __byte_perm(r0, r1, 0x5140), high01 = __byte_perm(r0, r1, 0x7362),
                   low23 = __byte_perm(r2, r3, 0x5140), high23 = __byte_perm(r2, r3, 0x7362);
    out[0][q] = __byte_perm(low01, low23, 0x5410);
    out[1][q] = __byte_perm(low01, low23, 0x7632);
    out[2][q] = __byte_perm(high01, high23, 0x5410);
    out[3][q] = __byte_perm(high01, high23, 0x7632);
  }
  e4m3* const to = c.to[which] + (column0 + d) * c.width + row0 + group * kGroup;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<uint4*>(to + i * c.width) =
        make_uint4(out[i][0], out[i][1], out[i][2], out[i][3]);
}

}  // namespace

void mlp_e4m3_operand_columns(cudaStream_t stream, const bf16* dm, const bf16* n,
                              const int32_t* dm_exponents, const int32_t* exponents, int64_t T,
                              int64_t D, const MlpE4m3Columns& to) {
  if (T == 0) return;
  require(D % kTileD == 0, "e4m3 columns: the width of rows must be a multiple of 64");
  least_exponent(stream, dm_exponents, T, to.exponent);
  const int64_t width = MlpE4m3Columns::width(T);
  const dim3 tiles(grid(ceil_div(width, kTileT)), grid(D / kTileD), 2);
  launch_dependent(
      stream, columns_kernel, tiles, kRowThreads, 0,
      Columns{{dm, n}, exponents, dm_exponents, to.exponent, T, D, width, {to.dm, to.n}});
  cuda_check_launch("e4m3 columns");
}

}  // namespace fairway::cuda

// A document's pair is packed to bf16 first, in the order in which the lanes of a warp read it as
// the right operand of mma m16n8k16: a stage of the pair is then one contiguous piece, copied to
// shared memory as it is, and a warp reads consecutive bytes.
//
// Two kernels do the rest:
//   chain: mid = x Mᵀ stays in registers, y += mid Nᵀ.  Forward: M = A, N = B.
//          Backward: M = Bᵀ, N = Aᵀ on dy and dx; and mid = x Aᵀ once more for dB.
//   gradient: dB += dyᵀ (x Aᵀ) and dA += (dy B)ᵀ x over a document's rows, in order.
#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/low_rank_mma_cuda.h"
#include "fairway/ops/mma_cuda.h"

namespace fairway {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStages = 3;       // of a ring in shared memory
constexpr int kStageWidth = 64;  // columns of x or y to a stage of the chain
constexpr int kTileRows = 16 * kWarps;

// Of CudaDevice::workspace.
constexpr int kSlotPacked = 1, kSlotMid = 2, kSlotDmid = 3;

int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

// f(the smallest kernel rank that holds `rank`), as a compile-time constant.
template <class F>
void with_kernel_rank(int64_t rank, F&& f) {
  if (rank <= 32)
    f(std::integral_constant<int, 32>{});
  else if (rank <= 64)
    f(std::integral_constant<int, 64>{});
  else if (rank <= 96)
    f(std::integral_constant<int, 96>{});
  else if (rank <= 128)
    f(std::integral_constant<int, 128>{});
  else
    f(std::integral_constant<int, static_cast<int>(kMmaRank)>{});
}

int64_t kernel_rank(int64_t rank) {
  int64_t padded = 0;
  with_kernel_rank(rank, [&](auto r) { padded = r; });
  return padded;
}

// ---------------------------------------------------------------------------------------------
// Packing

// A matrix M [n, k] of each document: element (i, j) at from[doc·doc_step + i·n_step + j·k_step].
// As the first of a chain n is the rank, as the second k is.
struct PackedMatrix {
  const float* from = nullptr;
  int64_t doc_step = 0, n_step = 0, k_step = 0;
  int n = 0, k = 0;
  bool second = false;
  uint4* to = nullptr;                                 // a document's matrix after the other
  int64_t chunks = 0;                                  // of 8 elements, of one document
  const float *n_scale = nullptr, *k_scale = nullptr;  // factors of M's rows or columns; null: 1
};
struct Packing {
  PackedMatrix matrix[3];
};

// Which element position r of chunk `chunk` holds.
//   First of a chain, [k / 32][2][n][4 lanes][4 elements]: lane t of a group of four reads x and M
//   at k = 8t … 8t+7 of each 32, 4 of these for either of two instructions. The sums run over the
//   k of an instruction in another order, both operands alike.
//   Second, [n / 32][k / 32][32][4 lanes][8 elements]: k as mid comes out of the first product; n
//   permuted so that a lane's results are eight consecutive columns of y.
struct Position {
  int n, k;
};
__device__ Position packed_position(const PackedMatrix& m, int rank, int chunk, int r) {
  if (!m.second) {
    const int quad = 2 * chunk + r / 4, t = quad % 4, n = quad / 4 % rank, half = quad / 4 / rank;
    return {n, half / 2 * 32 + 8 * t + half % 2 * 4 + r % 4};
  }
  const int t = chunk % 4, q = chunk / 4 % 32, slab = chunk / 128 % (rank / 32),
            block = chunk / 4 / rank;
  return {block * 32 + q % 8 / 2 * 8 + q / 8 * 2 + q % 2,
          slab * 32 + r / 4 * 16 + r % 4 / 2 * 8 + 2 * t + r % 2};
}

// Grid (chunks, documents, matrices); `rank` is the kernels'. What lies outside M is zero.
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const __grid_constant__ Packing packing, int rank) {
  const PackedMatrix& m = packing.matrix[blockIdx.z];
  const int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (chunk >= m.chunks) return;
  const float* from = m.from + blockIdx.y * m.doc_step;
  float v[8];
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const Position p = packed_position(m, rank, static_cast<int>(chunk), r);
    v[r] = 0.0f;
    if (p.n >= m.n || p.k >= m.k) continue;
    v[r] = from[p.n * m.n_step + p.k * m.k_step];
    if (m.n_scale) v[r] *= m.n_scale[p.n];
    if (m.k_scale) v[r] *= m.k_scale[p.k];
  }
  m.to[blockIdx.y * m.chunks + chunk] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                         pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

PackedMatrix first_of_chain(const float* from, int64_t doc_step, int64_t n, int64_t k,
                            int64_t n_step, int64_t k_step) {
  return {.from = from,
          .doc_step = doc_step,
          .n_step = n_step,
          .k_step = k_step,
          .n = static_cast<int>(n),
          .k = static_cast<int>(k),
          .chunks = ceil_div(k, kStageWidth) * kStageWidth * kernel_rank(n) / 8};
}
PackedMatrix second_of_chain(const float* from, int64_t doc_step, int64_t n, int64_t k,
                             int64_t n_step, int64_t k_step) {
  PackedMatrix m = first_of_chain(from, doc_step, k, n, k_step, n_step);
  std::swap(m.n, m.k);
  std::swap(m.n_step, m.k_step);
  m.second = true;
  return m;
}

// Packs the matrices that are there (`from` not null) and sets their `to`.
template <size_t kCount>
void pack(CudaDevice& device, int64_t docs, int64_t rank,
          const std::array<PackedMatrix*, kCount>& matrices) {
  Packing packing;
  int count = 0;
  int64_t longest = 0, total = 0;
  for (const PackedMatrix* m : matrices)
    if (m->from) total += docs * m->chunks;
  auto* to = reinterpret_cast<uint4*>(
      device.workspace(kSlotPacked, static_cast<size_t>(total) * sizeof(uint4)));
  for (PackedMatrix* m : matrices) {
    if (!m->from) continue;
    m->to = to;
    to += docs * m->chunks;
    longest = std::max(longest, m->chunks);
    packing.matrix[count++] = *m;
  }
  const dim3 grid(static_cast<unsigned>(ceil_div(longest, kThreads)), static_cast<unsigned>(docs),
                  static_cast<unsigned>(count));
  pack_kernel<<<grid, kThreads, 0, device.stream()>>>(packing, static_cast<int>(kernel_rank(rank)));
  cuda_check_launch("low_rank: packing");
}

// ---------------------------------------------------------------------------------------------
// mid = x Mᵀ, y += mid Nᵀ

struct Chain {
  const int32_t* doc_rows;
  int docs;
  const bf16* x;
  int in;  // columns of x
  const uint4* first;
  int64_t first_step;  // from a document's to the next one's
  const uint4* second;
  int64_t second_step;
  bf16* y;    // null: mid alone is wanted
  int out;    // columns of y
  bf16* mid;  // [rows, kRank], or null
};

__device__ uint32_t add_pair(uint32_t y, float low, float high) {
  return pack_bf16(low_bf16(y) + low, high_bf16(y) + high);
}

// A block owns a tile of one document's rows, a warp 16 of them; blockIdx.y is the share of y's
// columns. Stages of M and then of N pass through a ring in shared memory; a row of x, and later of
// y, is one warp's alone and goes straight to its registers.
template <int kRank>
__global__ void __launch_bounds__(kThreads, kRank <= 128 ? 2 : 1)
    chain_kernel(const __grid_constant__ Chain c) {
  constexpr int kStage = kStageWidth * kRank / 8;  // 16-byte pieces
  static_assert(kStage % kThreads == 0);
  extern __shared__ uint4 ring[];  // [kStages, kStage]

  const DocTile tile = find_doc_tile<kTileRows>(c.doc_rows, c.docs, blockIdx.x);
  if (tile.rows == 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int row0 = 16 * warp + lane / 4, row1 = row0 + 8;
  const bool valid0 = row0 < tile.rows, valid1 = row1 < tile.rows;
  const bool idle = 16 * warp >= tile.rows;  // a warp that only copies
  const bf16* const x = c.x + (tile.begin + row0) * c.in;
  bf16* const y = c.y + (tile.begin + row0) * c.out;

  const int in_stages = (c.in + kStageWidth - 1) / kStageWidth;
  const int all_out_stages = c.y ? (c.out + kStageWidth - 1) / kStageWidth : 0;
  const int shares = gridDim.y, share = blockIdx.y;
  const int out_begin = all_out_stages * share / shares;
  const int out_end = all_out_stages * (share + 1) / shares;
  const int stages = in_stages + out_end - out_begin;
  const int y_end = min(c.out, kStageWidth * out_end);  // columns from here on are others'
  const uint4* const first = c.first + tile.doc * c.first_step;
  const uint4* const second = c.second + tile.doc * c.second_step + int64_t{out_begin} * kStage;

  const auto fetch = [&](int i) {
    if (i < stages) {
      const uint4* from =
          i < in_stages ? first + int64_t{i} * kStage : second + int64_t{i - in_stages} * kStage;
      uint4* to = ring + i % kStages * kStage;
#pragma unroll
      for (int j = 0; j < kStage; j += kThreads)
        copy_async_16(to + j + threadIdx.x, from + j + threadIdx.x);
    }
    copy_async_commit();
  };
  // Waits for stage i of the ring.
  const auto arrive = [&](int i) {
    copy_async_wait<kStages - 2>();
    __syncthreads();  // stage i is there for all, and nobody reads stage i − 1 any more
    fetch(i + kStages - 1);
    return ring + i % kStages * kStage;
  };
  // This lane's 16 bytes of either of its rows in a step of 32 columns, and two steps ahead.
  struct Rows {
    uint4 a, b;
  };
  Rows ahead[2] = {};
  const auto load = [&](const bf16* row, int width, int pitch, int step) {
    const int col = 32 * step + 8 * t;
    Rows r{};
    if (col < width && valid0) r.a = *reinterpret_cast<const uint4*>(row + col);
    if (col < width && valid1) r.b = *reinterpret_cast<const uint4*>(row + (col + 8 * pitch));
    return r;
  };
  const auto take = [&](const bf16* row, int width, int pitch, int step) {
    const Rows now = ahead[0];
    ahead[0] = ahead[1];
    ahead[1] = load(row, width, pitch, step + 2);
    return now;
  };
  for (int i = 0; i < kStages - 1; ++i) fetch(i);

  // Steps are not unrolled: the compiler would fill all registers with operands, and more.
  uint32_t mid[kRank / 16][4];  // as the left operand of the second product
  {
    for (int h = 0; h < 2; ++h) ahead[h] = load(x, c.in, c.in, h);
    float sum[kRank / 8][4] = {};
    const uint4* stage = nullptr;
#pragma unroll 1
    for (int step = 0; step < 2 * in_stages; ++step) {
      stage = step % 2 == 0 ? arrive(step / 2) : stage + kStage / 2;
      if (idle) continue;
      const Rows now = take(x, c.in, c.in, step);
      uint4 a{now.a.x, now.b.x, now.a.y, now.b.y};
      const auto* half = reinterpret_cast<const uint2*>(stage) + lane;
#pragma unroll 1
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < kRank / 8; ++n) {
          const uint2 m = half[32 * n];
          mma_bf16(sum[n], a.x, a.y, a.z, a.w, m.x, m.y);
        }
        a = {now.a.z, now.b.z, now.a.w, now.b.w};
        half += 4 * kRank;
      }
    }
    for (int h = 0; h < 2; ++h) ahead[h] = load(y, y_end, c.out, 2 * out_begin + h);
#pragma unroll
    for (int n = 0; n < kRank / 8; ++n) {
      mid[n / 2][n % 2 * 2] = pack_bf16(sum[n][0], sum[n][1]);
      mid[n / 2][n % 2 * 2 + 1] = pack_bf16(sum[n][2], sum[n][3]);
    }
  }
  if (c.mid && share == 0) {
    auto* m0 = reinterpret_cast<uint32_t*>(c.mid + (tile.begin + row0) * kRank) + t;
    auto* m1 = m0 + 8 * kRank / 2;
#pragma unroll
    for (int n = 0; n < kRank / 8; ++n) {
      if (valid0) m0[4 * n] = mid[n / 2][n % 2 * 2];
      if (valid1) m1[4 * n] = mid[n / 2][n % 2 * 2 + 1];
    }
  }

  const uint4* stage = nullptr;
#pragma unroll 1
  for (int step = 0; step < 2 * (stages - in_stages); ++step) {
    stage = step % 2 == 0 ? arrive(in_stages + step / 2) : stage + kStage / 2;
    if (idle) continue;
    const int place = 2 * out_begin + step, col = 32 * place + 8 * t;
    const Rows now = take(y, y_end, c.out, place);
    float sum[4][4] = {};
#pragma unroll
    for (int k = 0; k < kRank / 32; ++k) {
      const uint32_t(&a)[4] = mid[2 * k];
      const uint32_t(&b)[4] = mid[2 * k + 1];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint4 m = stage[32 * (4 * k + j) + lane];
        mma_bf16(sum[j], a[0], a[1], a[2], a[3], m.x, m.y);
        mma_bf16(sum[j], b[0], b[1], b[2], b[3], m.z, m.w);
      }
    }
    if (col < c.out && valid0)
      *reinterpret_cast<uint4*>(y + col) = {
          add_pair(now.a.x, sum[0][0], sum[0][1]), add_pair(now.a.y, sum[1][0], sum[1][1]),
          add_pair(now.a.z, sum[2][0], sum[2][1]), add_pair(now.a.w, sum[3][0], sum[3][1])};
    if (col < c.out && valid1)
      *reinterpret_cast<uint4*>(y + (col + 8 * c.out)) = {
          add_pair(now.b.x, sum[0][2], sum[0][3]), add_pair(now.b.y, sum[1][2], sum[1][3]),
          add_pair(now.b.z, sum[2][2], sum[2][3]), add_pair(now.b.w, sum[3][2], sum[3][3])};
  }
}

// Shared memory beyond 48 KiB has to be asked for.
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  if (bytes > 48 << 10)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "low_rank: asking for shared memory");
}

template <class Pairs>
void run_chain(CudaDevice& device, const Pairs& pairs, Tensor<const bf16> x,
               const PackedMatrix& first, const PackedMatrix& second, bf16* y, bf16* mid) {
  const Chain c{.doc_rows = pairs.doc_rows.data,
                .docs = static_cast<int>(pairs.docs),
                .x = x.data,
                .in = first.k,
                .first = first.to,
                .first_step = first.chunks,
                .second = second.to,
                .second_step = second.chunks,
                .y = y,
                .out = second.n,
                .mid = mid};
  // Few tiles share y's columns out among blocks; each computes mid again, so that no result
  // depends on the number of shares.
  constexpr int64_t kStagesWorthABlock = 4;
  const unsigned tiles = most_doc_tiles<kTileRows>(x.extent(0), pairs.docs);
  const int64_t wanted = 2 * device.multiprocessors() / static_cast<int64_t>(tiles);
  const int64_t most = y ? ceil_div(c.out, kStageWidth) / kStagesWorthABlock : 1;
  const dim3 grid(tiles, static_cast<unsigned>(std::max<int64_t>(1, std::min(wanted, most))));
  with_kernel_rank(pairs.rank, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    constexpr int kBytes = kStages * kStageWidth * kRank * 2;
    allow_shared(chain_kernel<kRank>, kBytes);
    chain_kernel<kRank><<<grid, kThreads, kBytes, device.stream()>>>(c);
  });
  cuda_check_launch("low_rank: chain");
}

// ---------------------------------------------------------------------------------------------
// d[wide, rank] += wideᵀ narrow over each document's rows

constexpr int kTileWide = 128;     // columns of `wide` to a block
constexpr int kGradientRows = 32;  // rows to a stage

struct Gradient {
  const bf16* wide;    // [rows, width]
  const bf16* narrow;  // [rows, kRank]
  int width, tiles;
  float* d;
  int64_t wide_step, rank_step;       // element (w, r) of d at w·wide_step + r·rank_step
  const float* wide_scale = nullptr;  // factors of `wide`'s columns; null: 1
};
struct Gradients {
  const int32_t* doc_rows;
  int rank;
  int64_t doc_step;  // of d
  Gradient gradient[2];
};

// A block owns kTileWide rows of one document's d, a warp 32 of them and half of the rank. A row's
// columns are 16 bytes apart from a power of two in shared memory: no bank conflicts.
template <int kRank>
__global__ void __launch_bounds__(kThreads, kRank <= 96 ? 2 : 1)
    gradient_kernel(const __grid_constant__ Gradients all) {
  constexpr int kWidePitch = 2 * kTileWide + 16, kNarrowPitch = 2 * kRank + 16;  // bytes
  constexpr int kNarrowAt = kGradientRows * kWidePitch;
  constexpr int kStage = kNarrowAt + kGradientRows * kNarrowPitch;
  constexpr int kWidePieces = kTileWide / 8, kNarrowPieces = kRank / 8;  // of a row
  extern __shared__ uint4 shared[];
  char* const ring = reinterpret_cast<char*>(shared);  // [kStages, kStage]

  const int tiles0 = all.gradient[0].tiles, tiles = tiles0 + all.gradient[1].tiles;
  const int doc = blockIdx.x / tiles, place = blockIdx.x % tiles;
  const bool is_second = place >= tiles0;
  const Gradient& g = all.gradient[is_second ? 1 : 0];
  const int wide_begin = kTileWide * (is_second ? place - tiles0 : place);
  const int64_t begin = int64_t{all.doc_rows[doc]} - all.doc_rows[0];
  const int rows = all.doc_rows[doc + 1] - all.doc_rows[doc];
  if (rows <= 0) return;
  const bf16* const wide = g.wide + begin * g.width + wide_begin;
  const bf16* const narrow = g.narrow + begin * kRank;
  const int width_left = g.width - wide_begin;
  const int stages = (rows + kGradientRows - 1) / kGradientRows;

  const auto fetch = [&](int i) {
    if (i < stages) {
      char* const to = ring + i % kStages * kStage;
      const int first = i * kGradientRows;
#pragma unroll
      for (int p = threadIdx.x; p < kGradientRows * kWidePieces; p += kThreads) {
        const int row = p / kWidePieces, col = p % kWidePieces * 8;
        const bool valid = first + row < rows && col < width_left;
        copy_async_16_or_zero(to + row * kWidePitch + 2 * col,
                              valid ? wide + int64_t{first + row} * g.width + col : wide, valid);
      }
#pragma unroll
      for (int p = threadIdx.x; p < kGradientRows * kNarrowPieces; p += kThreads) {
        const int row = p / kNarrowPieces, col = p % kNarrowPieces * 8;
        const bool valid = first + row < rows;
        copy_async_16_or_zero(to + kNarrowAt + row * kNarrowPitch + 2 * col,
                              valid ? narrow + int64_t{first + row} * kRank + col : narrow, valid);
      }
    }
    copy_async_commit();
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_wide = warp % 4 * 32, warp_rank = warp / 4 * (kRank / 2);
  // Lane 8i + j addresses row j of matrix i. Left operand: matrices 1 and 3 are 8 columns of
  // `wide` further on, 2 and 3 are 8 rows down. Right operand: the other way round.
  const int lane_row = lane % 8, odd = lane / 8 % 2 * 8, high = lane / 16 * 8;
  const int wide_at = (high + lane_row) * kWidePitch + 2 * (warp_wide + odd);
  const int narrow_at = kNarrowAt + (odd + lane_row) * kNarrowPitch + 2 * (warp_rank + high);

  float sum[2][kRank / 16][4] = {};
  for (int i = 0; i < kStages - 1; ++i) fetch(i);
#pragma unroll 1
  for (int i = 0; i < stages; ++i) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    fetch(i + kStages - 1);
    const char* const stage = ring + i % kStages * kStage;
#pragma unroll
    for (int k = 0; k < kGradientRows; k += 16) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m)
        load_matrices_transposed(a[m], stage + wide_at + k * kWidePitch + 32 * m);
#pragma unroll
      for (int n = 0; n < kRank / 32; ++n) {
        uint32_t b[4];
        load_matrices_transposed(b, stage + narrow_at + k * kNarrowPitch + 32 * n);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_bf16(sum[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
          mma_bf16(sum[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
        }
      }
    }
  }

  float* const d = g.d + doc * all.doc_step;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kRank / 16; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int w = wide_begin + warp_wide + 16 * m + lane / 4 + e / 2 * 8;
        const int r = warp_rank + 8 * n + 2 * (lane % 4) + e % 2;
        if (w < g.width && r < all.rank)
          d[w * g.wide_step + r * g.rank_step] +=
              g.wide_scale ? g.wide_scale[w] * sum[m][n][e] : sum[m][n][e];
      }
}

void run_gradients(CudaDevice& device, int64_t docs, const Gradients& all) {
  const int64_t blocks = docs * (all.gradient[0].tiles + all.gradient[1].tiles);
  with_kernel_rank(all.rank, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    constexpr int kBytes = kStages * kGradientRows * (2 * kTileWide + 16 + 2 * kRank + 16);
    allow_shared(gradient_kernel<kRank>, kBytes);
    gradient_kernel<kRank>
        <<<static_cast<unsigned>(blocks), kThreads, kBytes, device.stream()>>>(all);
  });
  cuda_check_launch("low_rank: gradient");
}

PackedMatrix a_first(const LowRankPairs<const float>& p) {
  return first_of_chain(p.a, p.stride, p.rank, p.in, p.in, 1);
}

}  // namespace

bool low_rank_fits_mma(const LowRankPairs<const float>& pairs, const bf16* in_rows,
                       const bf16* out_rows, const bf16* more_rows) {
  const auto aligned = [](const bf16* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return pairs.rank <= kMmaRank && pairs.in % 8 == 0 && pairs.out % 8 == 0 && aligned(in_rows) &&
         aligned(out_rows) && aligned(more_rows);
}

void low_rank_mma(CudaDevice& device, Tensor<const bf16> x, const LowRankPairs<const float>& p,
                  Tensor<bf16> y) {
  PackedMatrix a = a_first(p), b = second_of_chain(p.b, p.stride, p.out, p.rank, p.rank, 1);
  b.n_scale = p.out_scale;
  pack(device, p.docs, p.rank, std::array{&a, &b});
  run_chain(device, p, x, a, b, y.data, nullptr);
}

void low_rank_backward_mma(CudaDevice& device, Tensor<const bf16> dy, Tensor<const bf16> x,
                           const LowRankPairs<const float>& p, Tensor<bf16> dx,
                           const LowRankPairs<float>& dp) {
  PackedMatrix bt = first_of_chain(p.b, p.stride, p.rank, p.out, 1, p.rank), at{}, a{};
  bt.k_scale = p.out_scale;
  if (dx) at = second_of_chain(p.a, p.stride, p.in, p.rank, 1, p.in);
  if (dp) a = a_first(p);
  pack(device, p.docs, p.rank, std::array{&bt, &at, &a});
  const auto mid_bytes = static_cast<size_t>(x.extent(0) * kernel_rank(p.rank)) * sizeof(bf16);
  const auto mid = [&](int slot) {
    return dp ? reinterpret_cast<bf16*>(device.workspace(slot, mid_bytes)) : nullptr;
  };
  bf16* const dxa = mid(kSlotDmid);
  run_chain(device, p, dy, bt, at, dx.data, dxa);
  if (!dp) return;
  bf16* const xa = mid(kSlotMid);
  run_chain(device, p, x, a, {}, nullptr, xa);
  const auto tiles = [](int64_t width) { return static_cast<int>(ceil_div(width, kTileWide)); };
  run_gradients(device, p.docs,
                {.doc_rows = p.doc_rows.data,
                 .rank = static_cast<int>(p.rank),
                 .doc_step = dp.stride,
                 .gradient = {{.wide = dy.data,
                               .narrow = xa,
                               .width = static_cast<int>(p.out),
                               .tiles = tiles(p.out),
                               .d = dp.b,
                               .wide_step = p.rank,
                               .rank_step = 1,
                               .wide_scale = p.out_scale},
                              {.wide = x.data,
                               .narrow = dxa,
                               .width = static_cast<int>(p.in),
                               .tiles = tiles(p.in),
                               .d = dp.a,
                               .wide_step = 1,
                               .rank_step = p.in}}});
}

}  // namespace fairway

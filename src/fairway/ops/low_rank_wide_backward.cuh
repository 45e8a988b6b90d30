// dxa = g B and dB = gᵀ xa, g = out_scale⊙dy, for a wide dy (low_rank_wide.cuh).
#pragma once

#include "fairway/ops/low_rank_wide.cuh"

namespace fairway::cuda::low_rank_wide {

constexpr int kSlice = 512;  // columns of dy to a block
constexpr int kGroup = 32;   // columns of xa to a warp
constexpr int kShares = 2;   // warps of a group that take turns with 16 of the slice's columns
template <int kRank>
constexpr int kBackwardThreads = kShares* kRank / kGroup * 32;
constexpr int kAhead = 2;                  // turns of a warp for which B is under way
constexpr int kDyPitch = 2 * kSlice + 16;  // bytes

struct Backward {
  LowRankUp<const float> up;
  const bf16* dy;  // [rows, up.out]
  const bf16* xa;  // its columns of [rows, xa_pitch]
  int64_t xa_pitch, rows;
  float* partial;  // [slices, rows, rank]: what the columns of a slice add to dxa
  bf16* db;        // of the first document; null: not wanted
};

// A block owns a slice of one document's columns of dy: its part of dxa, and its rows of dB. It
// goes through the document's rows kRows at a time and reads B anew for each, and from the second
// on dB too, which is right for documents that have hardly more (and rounds it as often). Grid
// (slices, documents).
template <int kRank>
__global__ void __launch_bounds__(kBackwardThreads<kRank>, 2)
    backward_kernel(const __grid_constant__ Backward u) {
  wait_for_earlier_kernels();
  constexpr int kThreads = kBackwardThreads<kRank>, kGroups = kRank / kGroup;
  constexpr int kPitch = kXaPitch<kRank>;
  constexpr int kSumQuads = kRows / 16 * 4;  // of a thread
  union Shared {
    char dy[kRows * kDyPitch];
    float4 sums[kSumQuads][kThreads / kShares];
  };
  __shared__ __align__(16) Shared shared;
  __shared__ __align__(16) char xa[kRows * kPitch];

  const int doc = static_cast<int>(blockIdx.y), slice = static_cast<int>(blockIdx.x);
  const int32_t* const doc_rows = u.up.doc_rows.data;
  const int64_t begin = int64_t{doc_rows[doc]} - doc_rows[0];
  const int all_rows = doc_rows[doc + 1] - doc_rows[doc];
  const int first_column = slice * kSlice;
  const int width = min(kSlice, static_cast<int>(u.up.out) - first_column);
  const int steps = (width + 15) / 16;  // of 16 columns

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int share = warp / kGroups, group = warp % kGroups;
  const int g = lane / 4, t = lane % 4;

  // Lane g has columns 4g … 4g+3 of the group, one to each of four instructions, of the rows that
  // an instruction wants of lane t. Behind B's last row, where dy is zero, the last 8 are read
  // again.
  const float* const b =
      u.up.b + doc * u.up.stride + int64_t{first_column} * kRank + kGroup * group + 4 * g;
  const float* const scale = u.up.out_scale ? u.up.out_scale + first_column : nullptr;
  const auto b_row = [&](int step, int i) {
    return min(16 * step + i / 2 * 8, width - 8) + 2 * t + i % 2;
  };
  struct Quads {
    float4 row[4];
  };
  const auto load = [&](int step) {
    Quads v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.row[i] = load_b(b + b_row(step, i) * kRank);
    return v;
  };

  // Lane 8i + j addresses row j of matrix i. dy as left operand: matrices 1 and 3 are 8 rows down,
  // 2 and 3 are 8 columns further on; dy transposed: the other way round. xa as right operand: 1
  // and 3 are 8 rows down.
  const int odd = lane / 8 % 2 * 8, high = lane / 16 * 8;
  const char* const dy_at = shared.dy + (lane % 8 + odd) * kDyPitch + 2 * high;
  const char* const dyt_at = shared.dy + (lane % 8 + high) * kDyPitch + 2 * odd;
  const char* const xa_at = xa + (lane % 8 + odd) * kPitch + 2 * (kGroup * group + high);
  bf16* const db =
      u.db ? u.db + doc * u.up.stride + int64_t{first_column} * kRank + kGroup * group + 4 * t
           : nullptr;

  // Once for a document without rows, whose dB is zero.
#pragma unroll 1
  for (int first = 0; first == 0 || first < all_rows; first += kRows) {
    const int rows = min(kRows, all_rows - first);
    if (first > 0) __syncthreads();  // nobody reads shared memory any more
    const bf16* const dy = u.dy + (begin + first) * u.up.out + first_column;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kSlice / 8; i += kThreads) {
      const int row = i / (kSlice / 8), column = i % (kSlice / 8) * 8;
      const bool valid = row < rows && column < width;
      copy_async_16_or_zero(shared.dy + row * kDyPitch + 2 * column,
                            valid ? dy + row * u.up.out + column : u.dy, valid);
    }
    fetch_xa<kRank, kThreads>(xa, u.xa + (begin + first) * u.xa_pitch, u.xa_pitch, rows);
    copy_async_commit();
    Quads next[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) next[i] = load(share + kShares * i);
    copy_async_wait<0>();
    __syncthreads();

    float sum[kRows / 16][4][4] = {};
#pragma unroll 1
    for (int turn = 0; share + kShares * turn < steps; turn += kAhead) {
      // A place of `next` stays in its registers: to move what is under way is to wait for it.
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        const int step = share + kShares * (turn + ahead);
        if (step >= steps) break;
        Quads now = next[ahead];
        if (scale) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float by = scale[b_row(step, i)];
            float4& x = now.row[i];
            x = {by * x.x, by * x.y, by * x.z, by * x.w};
          }
        }
        const float4(&x)[4] = now.row;
        const uint32_t m[4][2] = {{pack_bf16(x[0].x, x[1].x), pack_bf16(x[2].x, x[3].x)},
                                  {pack_bf16(x[0].y, x[1].y), pack_bf16(x[2].y, x[3].y)},
                                  {pack_bf16(x[0].z, x[1].z), pack_bf16(x[2].z, x[3].z)},
                                  {pack_bf16(x[0].w, x[1].w), pack_bf16(x[2].w, x[3].w)}};
        next[ahead] = load(step + kShares * kAhead);

#pragma unroll
        for (int h = 0; h < kRows / 16; ++h) {
          uint32_t a[4];
          load_matrices(a, dy_at + 16 * h * kDyPitch + 32 * step);
#pragma unroll
          for (int j = 0; j < 4; ++j) mma_bf16(sum[h][j], a[0], a[1], a[2], a[3], m[j][0], m[j][1]);
        }
        if (!db) continue;

        float d[4][4] = {};
#pragma unroll
        for (int k = 0; k < kRows / 16; ++k) {
          uint32_t a[4];
          load_matrices_transposed(a, dyt_at + 16 * k * kDyPitch + 32 * step);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            uint32_t n[4];
            load_matrices_transposed(n, xa_at + 16 * k * kPitch + 32 * h);
            mma_bf16(d[2 * h], a[0], a[1], a[2], a[3], n[0], n[1]);
            mma_bf16(d[2 * h + 1], a[0], a[1], a[2], a[3], n[2], n[3]);
          }
        }
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const int row = 16 * step + g + 4 * e;
          if (row >= width) continue;
          const float by = scale ? scale[row] : 1.0f;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            auto* const to = reinterpret_cast<uint2*>(db + row * kRank + 16 * h);
            float4 v{by * d[2 * h][e], by * d[2 * h][e + 1], by * d[2 * h + 1][e],
                     by * d[2 * h + 1][e + 1]};
            if (first > 0) {
              const uint2 before = *to;
              const float2 low = unpack_bf16(before.x), high = unpack_bf16(before.y);
              v = {low.x + v.x, low.y + v.y, high.x + v.z, high.y + v.w};
            }
            __stcs(to, uint2{pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)});
          }
        }
      }
    }

    // dxa: the first share's sums and the second's. Of instruction j, lane t has columns 8t + j and
    // 8t + 4 + j.
    __syncthreads();  // nobody reads dy any more
    static_assert(kShares == 2);
    const int thread = 32 * group + lane;
    const auto quad = [&](int i) {  // i / 4: 16 rows, i / 2 % 2: 8 of them, i % 2: 4 columns
      const auto& s = sum[i / 4];
      return float4{s[0][i % 4], s[1][i % 4], s[2][i % 4], s[3][i % 4]};
    };
    if (share == 1) {
#pragma unroll
      for (int i = 0; i < kSumQuads; ++i) shared.sums[i][thread] = quad(i);
    }
    __syncthreads();
    if (share == 1) continue;
#pragma unroll
    for (int i = 0; i < kSumQuads; ++i) {
      const int row = i / 2 * 8 + g, column = kGroup * group + 8 * t + i % 2 * 4;
      if (row >= rows) continue;
      const float4 v = quad(i), other = shared.sums[i][thread];
      const int64_t at = slice * u.rows + begin + first + row;
      __stcg(reinterpret_cast<float4*>(u.partial + at * kRank + column),
             {v.x + other.x, v.y + other.y, v.z + other.z, v.w + other.w});
    }
  }
}

// dxa is the sum of the slices' parts, in order. A thread has 4 columns of a row.
constexpr int kSumThreads = 256;
template <int kRank>
__global__ void __launch_bounds__(kSumThreads)
    sum_slices_kernel(const __grid_constant__ Backward u, int slices, bf16* dxa, int64_t pitch) {
  wait_for_earlier_kernels();
  constexpr int kQuads = kRank / 4;
  const int64_t place = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  const int64_t row = place / kQuads;
  const int column = static_cast<int>(place % kQuads) * 4;
  if (row >= u.up.doc_rows.data[u.up.docs] - u.up.doc_rows.data[0]) return;
  const float* const from = u.partial + row * kRank + column;
  float4 sum{};
#pragma unroll 8
  for (int slice = 0; slice < slices; ++slice) {
    const float4 v = *reinterpret_cast<const float4*>(from + slice * u.rows * kRank);
    sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
  }
  *reinterpret_cast<uint2*>(dxa + row * pitch + column) = {pack_bf16(sum.x, sum.y),
                                                           pack_bf16(sum.z, sum.w)};
}

}  // namespace fairway::cuda::low_rank_wide

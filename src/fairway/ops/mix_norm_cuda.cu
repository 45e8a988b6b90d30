// A warp per row. In the backward pass a lane keeps its columns from row to row, and with them
// their sums over the block's rows.
#include "fairway/base/check.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/e4m3_rows_cuda.cuh"
#include "fairway/ops/mix_norm.h"
#include "fairway/sm90/prefetch.cuh"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;

// Pointers of a BlockInput and of what it is mixed with.
template <class T>
struct Mixed {
  const T *x_pre, *k, *x0;
  const float *skip, *mix;
};

// v = a⊙v + b⊙w, for vectors [a, b] over D, in a part of the pack in columns j ….
template <int kWidth>
__device__ __forceinline__ void combine(const float* vectors, int64_t D, int64_t j,
                                        float (&v)[kWidth], const float (&w)[kWidth]) {
  float a[kWidth], b[kWidth];
  load<kWidth>(vectors + j, a);
  load<kWidth>(vectors + D + j, b);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) v[i] = a[i] * v[i] + b[i] * w[i];
}
// Part `part` of x from the packs of x_pre and k in columns j ….
template <bool kSkip, class T, int kVec>
__device__ __forceinline__ void block_input(const Mixed<T>& p, int64_t D, int64_t j, int part,
                                            const Pack<T, kVec>& x_pre, const Pack<T, kVec>& k,
                                            float (&x)[kPart<kVec>]) {
  unpack_part(x_pre, part, x);
  if constexpr (kSkip) {
    float v[kPart<kVec>];
    unpack_part(k, part, v);
    combine(p.skip, D, j + part * kPart<kVec>, x, v);
  }
}
// The same of u, from x and the pack of x0.
template <class T, int kVec>
__device__ __forceinline__ void mix_rows(const Mixed<T>& p, int64_t D, int64_t j, int part,
                                         const float (&x)[kPart<kVec>], const Pack<T, kVec>& x0,
                                         float (&u)[kPart<kVec>]) {
  float v[kPart<kVec>];
  unpack_part(x0, part, v);
#pragma unroll
  for (int i = 0; i < kPart<kVec>; ++i) u[i] = x[i];
  combine(p.mix, D, j + part * kPart<kVec>, u, v);
}

template <class T, int kVec, int kChunks, bool kSkip>
__global__ __launch_bounds__(kRowThreads) void mix_norm_kernel(Mixed<T> p, int64_t rows, int64_t D,
                                                               float eps, float scale, T* x_out,
                                                               T* u, float* rstd_out, T* n) {
  wait_for_earlier_kernels();
  constexpr int kHeld = kChunks > 0 ? kChunks : 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int64_t at = row * D;
  Pack<T, kVec> x_pre[kHeld], k[kHeld], x0[kHeld];
  const auto fetch = [&](int c, int64_t j) {
    load<kVec>(p.x_pre + at + j, x_pre[c]);
    if constexpr (kSkip) load<kVec>(p.k + at + j, k[c]);
    load<kVec>(p.x0 + at + j, x0[c]);
  };
  float v[kHeld][kVec];  // u
  float sum = 0;
  const auto mixed = [&](int c, int64_t j) {
    constexpr int kWidth = kPart<kVec>;
    Pack<T, kVec> out;
#pragma unroll
    for (int part = 0; part < kVec / kWidth; ++part) {
      float x[kWidth], w[kWidth];
      block_input<kSkip>(p, D, j, part, x_pre[c], k[c], x);
      pack_part(x, part, out);
      mix_rows(p, D, j, part, x, x0[c], w);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) v[c][part * kWidth + i] = w[i];
    }
    if (x_out != nullptr) store<kVec>(x_out + at + j, out);
  };
  const auto add_squares = [&](int c, int64_t j) {
    mixed(c, j);
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum += v[c][i] * v[c][i];
  };
  if constexpr (kChunks > 0) {
    for_packs<kVec, kChunks>(D, lane, fetch);
    for_packs<kVec, kChunks>(D, lane, add_squares);
  } else {
    for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
      fetch(c, j);
      add_squares(c, j);
    });
  }
  const float rstd = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(D) + eps);
  if (lane == 0) rstd_out[row] = rstd;
  const float g = rstd * scale;
  for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
    if constexpr (kChunks == 0) {
      fetch(c, j);
      mixed(c, j);
    }
    if (u != nullptr) store<kVec>(u + at + j, v[c]);
    float y[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) y[i] = v[c][i] * g;
    store<kVec>(n + at + j, y);
  });
}

template <class T>
struct Backward {
  Mixed<T> mixed;
  const T *dn, *n, *du, *dx, *dx_pre, *x0_before;  // the last four may be null
  const float* rstd;
  float scale, mean_factor;    // the latter 1/(D·scale)
  T *to_x_pre, *to_k, *to_x0;  // may be null
  e4m3* operand;               // of to_x_pre; may be null
  int32_t* operand_exponents;  // [rows]
  int rows, D, rows_per_block;
  float* partials;  // [blocks, kSums, D]
};

// Sums over rows: mix's two, skip's two.
template <bool kSkip>
constexpr int kSums = kSkip ? 4 : 2;
// Bytes of shared memory that every GPU gives a block if asked. One warp's sums fill them at most.
constexpr int64_t kMostShared = 96 << 10;
constexpr int64_t kWidest = kMostShared / static_cast<int64_t>(kSums<true> * sizeof(float));

// Two sums stay in registers if a row does; four have no room there and are in shared memory.
template <int kChunks, bool kSkip>
constexpr bool kHoldsSums = kChunks > 0 && !kSkip;

// Where a warp has part `part` of pack j / kVec of its sums [D] in shared memory: like parts of all
// packs next to each other, so that the lanes' 16 bytes fall into all banks.
template <int kVec>
__device__ __forceinline__ int part_in_shared(int D, int j, int part) {
  return (part * (D / kVec) + j / kVec) * kPart<kVec>;
}
// The column of the sum at i.
template <int kVec>
__device__ __forceinline__ int column_in_shared(int D, int i) {
  const int packs = D / kVec, quad = i / kPart<kVec>;
  return quad % packs * kVec + quad / packs * kPart<kVec> + i % kPart<kVec>;
}

// x_pre, k, x0 and n are read only where they are needed. Two blocks of a bf16 kernel fit a
// multiprocessor's registers; for that, packs are taken in parts, and what the dot product does not
// need is not all held from the start: never dx and dx_pre, which few visits have, nor with skip
// and its sums du and x0's gradient.
// Shared memory: [warps of the block, D] with sums in registers, else [warps, kSums, D].
template <class T, int kVec, int kChunks, bool kSkip, bool kWithMix>
__global__ __launch_bounds__(kRowThreads,
                             sizeof(T) == 2 ? 2 : 1) void mix_norm_backward_kernel(Backward<T> p) {
  wait_for_earlier_kernels();
  constexpr int kHeld = kChunks > 0 ? kChunks : 1, kWidth = kPart<kVec>, kParts = kVec / kWidth;
  constexpr bool kHolds = kHoldsSums<kChunks, kSkip>, kLate = kSkip && kWithMix;
  extern __shared__ __align__(16) float shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int D = p.D, begin = static_cast<int>(blockIdx.x) * p.rows_per_block;
  const int end = min(begin + p.rows_per_block, p.rows);
  float sums[kHolds ? kSums<kSkip> : 1][kHeld][kVec] = {};
  float* own = shared + static_cast<int64_t>(warp) * kSums<kSkip> * D;
  if constexpr (kWithMix && !kHolds) {
    for (int j = lane; j < kSums<kSkip> * D; j += kWarp) own[j] = 0.0f;
    __syncwarp();
  }
  // Sum s += a⊙b in a part of the pack in columns j ….
  const auto add_products = [&](int s, int c, int j, int part, const float(&a)[kWidth],
                                const float(&b)[kWidth]) {
    if constexpr (kHolds) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sums[s][c][part * kWidth + i] += a[i] * b[i];
    } else {
      float* at = own + s * D + part_in_shared<kVec>(D, j, part);
      float sum[kWidth];
      load<kWidth>(at, sum);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += a[i] * b[i];
      store<kWidth>(at, sum);
    }
  };
  for (int row = begin + warp; row < end; row += warps) {
    const int64_t at = static_cast<int64_t>(row) * D;
    Pack<T, kVec> dn[kHeld], n[kHeld], x_pre[kHeld], k[kHeld], x0[kHeld], du[kHeld], to_x0[kHeld];
    // Zeros where there is nothing.
    const auto fetch_if = [&](const T* from, int64_t j, Pack<T, kVec>& pack) {
      pack = {};
      if (from != nullptr) load<kVec>(from + at + j, pack);
    };
    const auto fetch_normed = [&](int c, int64_t j) {
      load<kVec>(p.dn + at + j, dn[c]);
      if constexpr (kWithMix) {
        load<kVec>(p.mixed.x_pre + at + j, x_pre[c]);
        if constexpr (kSkip) load<kVec>(p.mixed.k + at + j, k[c]);
        load<kVec>(p.mixed.x0 + at + j, x0[c]);
      } else {
        load<kVec>(p.n + at + j, n[c]);
      }
    };
    const auto fetch_others = [&](int c, int64_t j) {
      fetch_if(p.du, j, du[c]);
      fetch_if(p.x0_before, j, to_x0[c]);
    };
    // What is not held: from memory to the L2 cache meanwhile.
    const auto prefetch_late = [&](int, int64_t j) {
      for (const T* from : {p.dx, p.dx_pre})
        if (from != nullptr) sm90::prefetch_l2(from + at + j);
      if constexpr (kLate)
        for (const T* from : {p.du, p.x0_before})
          if (from != nullptr) sm90::prefetch_l2(from + at + j);
    };
    // A part of x, and of u or, where its parts are not at hand, of n.
    const auto normed = [&](int c, int64_t j, int part, float(&x)[kWidth], float(&v)[kWidth]) {
      if constexpr (kWithMix) {
        block_input<kSkip>(p.mixed, D, j, part, x_pre[c], k[c], x);
        mix_rows(p.mixed, D, j, part, x, x0[c], v);
      } else {
        unpack_part(n[c], part, v);
      }
    };
    float dot = 0;
    const auto add_dot = [&](int c, int64_t j) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        float x[kWidth], v[kWidth], d[kWidth];
        normed(c, j, part, x, v);
        unpack_part(dn[c], part, d);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) dot += d[i] * v[i];
      }
    };
    const float rstd = p.rstd[row], factor = rstd * p.scale;
    if constexpr (kChunks > 0) {
      for_packs<kVec, kChunks>(D, lane, fetch_normed);
      if constexpr (!kLate) for_packs<kVec, kChunks>(D, lane, fetch_others);
      for_packs<kVec, kChunks>(D, lane, prefetch_late);
      for_packs<kVec, kChunks>(D, lane, add_dot);
    } else {
      for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
        fetch_normed(c, j);
        add_dot(c, j);
      });
    }
    // n = of_v·v, v from `normed`.
    const float of_v = kWithMix ? factor : 1.0f;
    const float along = rstd * of_v * of_v * warp_sum(dot) * p.mean_factor;
    Pack<T, kVec> out_x[kHeld];
    for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
      if constexpr (kChunks == 0) fetch_normed(c, j);
      if constexpr (kChunks == 0 || kLate) fetch_others(c, j);
      Pack<T, kVec> dx, dx_pre, out_k, out_x0;
      fetch_if(p.dx, j, dx);
      fetch_if(p.dx_pre, j, dx_pre);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        float g[kWidth], d[kWidth], x[kWidth], v[kWidth], w[kWidth];
        normed(c, j, part, x, v);
        unpack_part(dn[c], part, g);
        unpack_part(du[c], part, w);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) g[i] = factor * g[i] - along * v[i] + w[i];
        load<kWidth>(p.mixed.mix + j + part * kWidth, w);
        unpack_part(dx, part, d);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) d[i] += w[i] * g[i];
        if constexpr (kWithMix) {
          add_products(0, c, static_cast<int>(j), part, g, x);
          unpack_part(x0[c], part, v);
          add_products(1, c, static_cast<int>(j), part, g, v);
        }
        if constexpr (kSkip) {
          if constexpr (kWithMix) {
            unpack_part(x_pre[c], part, v);
            add_products(2, c, static_cast<int>(j), part, d, v);
            unpack_part(k[c], part, v);
            add_products(3, c, static_cast<int>(j), part, d, v);
          }
          load<kWidth>(p.mixed.skip + j + part * kWidth, v);
          load<kWidth>(p.mixed.skip + D + j + part * kWidth, w);
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            w[i] *= d[i];
            d[i] = v[i] * d[i] + (p.to_k != nullptr ? 0.0f : w[i]);
          }
          pack_part(w, part, out_k);
        }
        unpack_part(dx_pre, part, v);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) d[i] += v[i];
        pack_part(d, part, out_x[c]);
        unpack_part(to_x0[c], part, v);
        load<kWidth>(p.mixed.mix + D + j + part * kWidth, w);
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
          v[i] += w[i] * g[i] + (p.to_x_pre != nullptr ? 0.0f : d[i]);
        pack_part(v, part, out_x0);
      }
      if (p.to_x_pre != nullptr) store<kVec>(p.to_x_pre + at + j, out_x[c]);
      if constexpr (kSkip)
        if (p.to_k != nullptr) store<kVec>(p.to_k + at + j, out_k);
      if (p.to_x0 != nullptr) store<kVec>(p.to_x0 + at + j, out_x0);
    });
    if constexpr (std::is_same_v<T, bf16> && kVec == kPack)
      if (p.operand != nullptr) {
        // The row anew, so that no register keeps what the addresses above are made of.
        const int64_t same_row = __shfl_sync(kAllLanes, row, 0), again = same_row * D;
        store_e4m3_row<kChunks>(
            [&](int c, int64_t j) {
              if constexpr (kChunks == 0 || kLate) load<kVec>(p.to_x_pre + again + j, out_x[c]);
              return out_x[c];
            },
            D, lane, p.operand + again, p.operand_exponents + same_row);
      }
  }
  if constexpr (kWithMix) {
    // The block's sums: of warps, in their order.
    float* of_block = p.partials + static_cast<int64_t>(blockIdx.x) * kSums<kSkip> * D;
#pragma unroll
    for (int s = 0; s < kSums<kSkip>; ++s) {
      const float* of_warps = shared + (kHolds ? 0 : s * D);
      const int pitch = kHolds ? D : kSums<kSkip> * D;
      if constexpr (kHolds) {
        if (s > 0) __syncthreads();
        for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            float v[kWidth];
#pragma unroll
            for (int i = 0; i < kWidth; ++i) v[i] = sums[s][c][part * kWidth + i];
            store<kWidth>(shared + warp * D + part_in_shared<kVec>(D, static_cast<int>(j), part),
                          v);
          }
        });
      }
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < D; i += static_cast<int>(blockDim.x)) {
        float sum = 0;
        for (int w = 0; w < warps; ++w) sum += of_warps[w * pitch + i];
        of_block[s * D + column_in_shared<kVec>(D, i)] = sum;
      }
    }
  }
}

template <class T>
Mixed<T> mixed_of(const BlockInput<T>& in, Tensor<const T> x0, Tensor<const float> mix) {
  return {in.x_pre.data, in.k.data, x0.data, in.skip.data, mix.data};
}
template <class T>
bool aligned16(const Mixed<T>& p) {
  return fairway::aligned16(p.x_pre, p.k, p.x0) && fairway::aligned16(p.skip, p.mix);
}

// f(an integral constant).
template <class F>
void with_switch(bool on, F&& f) {
  on ? f(std::true_type{}) : f(std::false_type{});
}

}  // namespace

template <class T>
void mix_norm(CudaDevice& device, const BlockInput<T>& in, Tensor<const T> x0,
              Tensor<const Accum<T>> mix, double eps, double scale, Tensor<T> x, Tensor<T> u,
              Tensor<Accum<T>> rstd, Tensor<T> n) {
  const int64_t rows = x0.extent(0), D = x0.extent(1);
  if (rows == 0) return;
  const Mixed<T> p = mixed_of(in, x0, mix);
  const bool packs = D % kPack == 0 && aligned16(p) && aligned16(x.data, u.data, n.data);
  with_row_layout(packs, D, [&](auto vec, auto chunks) {
    with_switch(static_cast<bool>(in.k), [&](auto skip) {
      launch_dependent(
          device.stream(),
          mix_norm_kernel<T, decltype(vec)::value, decltype(chunks)::value, decltype(skip)::value>,
          grid(ceil_div(rows, kWarps)), kRowThreads, 0, p, rows, D, static_cast<float>(eps),
          static_cast<float>(scale), x.data, u.data, rstd.data, n.data);
    });
  });
  cuda_check_launch("mix_norm");
}

template <class T>
void mix_norm_backward(CudaDevice& device, const MixNormBackward<T>& from,
                       const MixNormGradients<T>& to) {
  const int64_t rows = from.dn.extent(0), D = from.dn.extent(1);
  if (rows == 0) return;
  Backward<T> p{mixed_of(from.in, from.x0, from.mix),
                from.dn.data,
                from.n.data,
                from.du.data,
                from.dx.data,
                from.dx_pre.data,
                to.first_of_x0 ? nullptr : to.x0.data,
                from.rstd.data,
                static_cast<float>(from.scale),
                static_cast<float>(1 / (from.scale * static_cast<double>(D))),
                to.x_pre.data,
                to.k.data,
                to.x0.data,
                to.x_pre_e4m3.x.data,
                to.x_pre_e4m3.exponents.data,
                static_cast<int>(rows),
                static_cast<int>(D),
                static_cast<int>(rows_per_partial(rows)),
                nullptr};
  const bool packs = D % kPack == 0 && aligned16(p.mixed) &&
                     aligned16(p.dn, p.n, p.du, p.dx, p.dx_pre) &&
                     aligned16(p.to_x_pre, p.to_k, p.to_x0) && aligned16(p.operand);
  check(!p.operand || (packs && p.to_x_pre && std::is_same_v<T, bf16>),
        "mix_norm_backward: operand");
  const bool with_skip = static_cast<bool>(from.in.k), with_mix = static_cast<bool>(to.mix);
  require(!with_mix || D <= kWidest,
          "model_dim = {}: training on a GPU takes widths up to {}; choose a smaller one, or train "
          "on the CPU",
          D, kWidest);
  const int64_t blocks = ceil_div(rows, p.rows_per_block);
  const int64_t sums = with_skip ? kSums<true> : kSums<false>;
  if (with_mix)
    p.partials = reinterpret_cast<float*>(
        device.workspace(Workspace::rows, static_cast<size_t>(blocks * sums * D) * sizeof(float)));
  with_row_layout(packs, D, [&](auto vec, auto chunks) {
    constexpr int kChunks = decltype(chunks)::value <= 2 ? decltype(chunks)::value : 0;
    with_switch(with_skip, [&](auto skip) {
      with_switch(with_mix, [&](auto mix) {
        constexpr bool kWithMix = decltype(mix)::value;
        constexpr bool kSkip = decltype(skip)::value;
        // As many warps as have room for their sums.
        constexpr int64_t kPlanes = kHoldsSums<kChunks, kSkip> ? 1 : kSums<kSkip>;
        const int64_t of_warp = kWithMix ? kPlanes * D * static_cast<int64_t>(sizeof(float)) : 0;
        const int64_t warps =
            kWithMix ? std::clamp<int64_t>(kMostShared / of_warp, 1, kWarps) : kWarps;
        auto* kernel = mix_norm_backward_kernel<T, decltype(vec)::value, kChunks, kSkip, kWithMix>;
        const auto shared = static_cast<size_t>(warps * of_warp);
        allow_shared(kernel, shared);
        launch_dependent(device.stream(), kernel, grid(blocks),
                         static_cast<unsigned>(warps * kWarp), shared, p);
      });
    });
  });
  cuda_check_launch("mix_norm_backward");
  if (with_mix)
    add_partials(device, p.partials, blocks, 2 * D, to.mix.data, (sums - 2) * D, to.skip.data);
}

#define FAIRWAY_INSTANTIATE(T)                                                            \
  template void mix_norm<T>(CudaDevice&, const BlockInput<T>&, Tensor<const T>,           \
                            Tensor<const Accum<T>>, double, double, Tensor<T>, Tensor<T>, \
                            Tensor<Accum<T>>, Tensor<T>);                                 \
  template void mix_norm_backward<T>(CudaDevice&, const MixNormBackward<T>&,              \
                                     const MixNormGradients<T>&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

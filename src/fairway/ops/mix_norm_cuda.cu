// A warp per row. In the backward pass a lane keeps its columns from row to row, and with them
// their sums over the block's rows.
#include "fairway/base/check.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/mix_norm.h"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;
// One warp's sums over rows, [2, D], fill the shared memory that every GPU gives a block.
constexpr int64_t kWidest = (48 << 10) / static_cast<int64_t>(2 * sizeof(float));

template <class T, int kVec, int kChunks>
__global__ __launch_bounds__(kRowThreads) void mix_norm_kernel(const T* x, const T* x0,
                                                               const float* mix, int64_t rows,
                                                               int64_t D, float eps, float scale,
                                                               T* u, float* rstd_out, T* n) {
  wait_for_earlier_kernels();
  constexpr int kHeld = kChunks > 0 ? kChunks : 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const auto mixed = [&](int64_t j, float(&v)[kVec]) {
    float a[kVec], b[kVec], m0[kVec], m1[kVec];
    load<kVec>(x + row * D + j, a);
    load<kVec>(x0 + row * D + j, b);
    load<kVec>(mix + j, m0);
    load<kVec>(mix + D + j, m1);
#pragma unroll
    for (int i = 0; i < kVec; ++i) v[i] = m0[i] * a[i] + m1[i] * b[i];
  };
  float v[kHeld][kVec];
  float sum = 0;
  for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
    mixed(j, v[c]);
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum += v[c][i] * v[c][i];
  });
  const float rstd = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(D) + eps);
  if (lane == 0) rstd_out[row] = rstd;
  const float g = rstd * scale;
  for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
    if constexpr (kChunks == 0) mixed(j, v[c]);
    if (u != nullptr) store<kVec>(u + row * D + j, v[c]);
    float y[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) y[i] = v[c][i] * g;
    store<kVec>(n + row * D + j, y);
  });
}

template <class T>
struct Gradient {
  const T *dn, *du, *n, *x, *x0, *plus;
  const float *rstd, *mix;
  float scale;
  T *dx, *dx0;  // may be null
  int64_t rows, D, rows_per_block;
  float* partials;  // [blocks, 2, D]
};

// du, x, x0, n and plus are read only where they are needed. kChunks > 0: sums in registers; 0: in
// shared memory [warps of the block, 2, D]. Two blocks of a bf16 kernel fit a multiprocessor's
// registers; plus is not held from the start for that.
template <class T, int kVec, int kChunks, bool kDu, bool kPlus, bool kWithMix>
__global__ __launch_bounds__(kRowThreads,
                             sizeof(T) == 2 ? 2 : 1) void mix_norm_backward_kernel(Gradient<T> p) {
  wait_for_earlier_kernels();
  constexpr int kHeld = kChunks > 0 ? kChunks : 1;
  extern __shared__ float shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t D = p.D, begin = blockIdx.x * p.rows_per_block;
  const int64_t end = begin + p.rows_per_block < p.rows ? begin + p.rows_per_block : p.rows;
  float* own = shared + static_cast<int64_t>(warp) * 2 * D;
  float sums[2][kHeld][kVec] = {};
  if constexpr (kWithMix && kChunks == 0)
    for_packs<kVec, kChunks>(D, lane, [&](int, int64_t j) {
      for (int i = 0; i < kVec; ++i) own[j + i] = own[D + j + i] = 0.0f;
    });
  for (int64_t row = begin + warp; row < end; row += warps) {
    const int64_t at = row * D;
    Pack<T, kVec> dn[kHeld], n[kHeld], du[kHeld], x[kHeld], x0[kHeld], dx0[kHeld];
    const auto fetch_normed = [&](int c, int64_t j) {
      load<kVec>(p.dn + at + j, dn[c]);
      if constexpr (kWithMix) {
        load<kVec>(p.x + at + j, x[c]);
        load<kVec>(p.x0 + at + j, x0[c]);
      } else {
        load<kVec>(p.n + at + j, n[c]);
      }
    };
    const auto fetch = [&](int c, int64_t j) {
      fetch_normed(c, j);
      if (p.dx0) load<kVec>(p.dx0 + at + j, dx0[c]);
      if constexpr (kDu) load<kVec>(p.du + at + j, du[c]);
    };
    const float rstd = p.rstd[row], factor = rstd * p.scale;
    // n, from u where x and x0 are there anyway.
    const auto normed = [&](int c, int64_t j, float(&v)[kVec]) {
      if constexpr (kWithMix) {
        float a[kVec], b[kVec], m0[kVec], m1[kVec];
        unpack(x[c], a);
        unpack(x0[c], b);
        load<kVec>(p.mix + j, m0);
        load<kVec>(p.mix + D + j, m1);
#pragma unroll
        for (int i = 0; i < kVec; ++i) v[i] = factor * (m0[i] * a[i] + m1[i] * b[i]);
      } else {
        unpack(n[c], v);
      }
    };
    float dot = 0;
    const auto add_dot = [&](int c, int64_t j) {
      float a[kVec], b[kVec];
      unpack(dn[c], a);
      normed(c, j, b);
#pragma unroll
      for (int i = 0; i < kVec; ++i) dot += a[i] * b[i];
    };
    if constexpr (kChunks > 0) {
      for_packs<kVec, kChunks>(D, lane, fetch);
      for_packs<kVec, kChunks>(D, lane, add_dot);
    } else {
      for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
        fetch_normed(c, j);
        add_dot(c, j);
      });
    }
    const float along = rstd * warp_sum(dot) / (static_cast<float>(D) * p.scale);
    for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
      if constexpr (kChunks == 0) fetch(c, j);
      float g[kVec], v[kVec], m0[kVec], m1[kVec], out[kVec];
      unpack(dn[c], g);
      normed(c, j, v);
#pragma unroll
      for (int i = 0; i < kVec; ++i) g[i] = factor * g[i] - along * v[i];
      if constexpr (kDu) {
        unpack(du[c], v);
#pragma unroll
        for (int i = 0; i < kVec; ++i) g[i] += v[i];
      }
      if constexpr (kWithMix) {
        float a[kVec], b[kVec];
        unpack(x[c], a);
        unpack(x0[c], b);
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          if constexpr (kChunks > 0) {
            sums[0][c][i] += g[i] * a[i];
            sums[1][c][i] += g[i] * b[i];
          } else {
            own[j + i] += g[i] * a[i];
            own[D + j + i] += g[i] * b[i];
          }
        }
      }
      load<kVec>(p.mix + j, m0);
#pragma unroll
      for (int i = 0; i < kVec; ++i) out[i] = m0[i] * g[i];
      if constexpr (kPlus) {
        load<kVec>(p.plus + at + j, v);
#pragma unroll
        for (int i = 0; i < kVec; ++i) out[i] += v[i];
      }
      if (p.dx) store<kVec>(p.dx + at + j, out);
      if (p.dx0) {
        load<kVec>(p.mix + D + j, m1);
        unpack(dx0[c], v);
#pragma unroll
        for (int i = 0; i < kVec; ++i) v[i] += m1[i] * g[i];
        if (!p.dx) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) v[i] += out[i];
        }
        store<kVec>(p.dx0 + at + j, v);
      }
    });
  }
  if constexpr (kWithMix) {
    if constexpr (kChunks > 0)
      for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          own[j + i] = sums[0][c][i];
          own[D + j + i] = sums[1][c][i];
        }
      });
    __syncthreads();
    for (int64_t j = threadIdx.x; j < 2 * D; j += blockDim.x) {
      float sum = 0;
      for (int w = 0; w < warps; ++w) sum += shared[static_cast<int64_t>(w) * 2 * D + j];
      p.partials[static_cast<int64_t>(blockIdx.x) * 2 * D + j] = sum;
    }
  }
}

// Calls f with three integral constants for three run-time switches.
template <class F>
void with_switches(bool a, bool b, bool c, F&& f) {
  using std::false_type, std::true_type;
  const auto second = [&](auto first) {
    const auto third = [&](auto middle) {
      c ? f(first, middle, true_type{}) : f(first, middle, false_type{});
    };
    b ? third(true_type{}) : third(false_type{});
  };
  a ? second(true_type{}) : second(false_type{});
}

}  // namespace

template <class T>
void mix_norm(CudaDevice& device, Tensor<const T> x, Tensor<const T> x0, Tensor<const Accum<T>> mix,
              double eps, double scale, Tensor<T> u, Tensor<Accum<T>> rstd, Tensor<T> n) {
  const int64_t rows = x.extent(0), D = x.extent(1);
  if (rows == 0) return;
  const bool packs = D % kPack == 0 && aligned16(x.data, x0.data, mix.data, u.data, n.data);
  with_row_layout(packs, D, [&](auto vec, auto chunks) {
    launch_dependent(
        device.stream(), mix_norm_kernel<T, decltype(vec)::value, decltype(chunks)::value>,
        grid(ceil_div(rows, kWarps)), kRowThreads, 0, x.data, x0.data, mix.data, rows, D,
        static_cast<float>(eps), static_cast<float>(scale), u.data, rstd.data, n.data);
  });
  cuda_check_launch("mix_norm");
}

template <class T>
void mix_norm_backward(CudaDevice& device, const MixNormGradient<T>& in, Tensor<const T> plus,
                       Tensor<T> dx, Tensor<T> dx0, Tensor<Accum<T>> dmix) {
  const int64_t rows = in.dn.extent(0), D = in.dn.extent(1);
  if (rows == 0) return;
  const bool packs =
      D % kPack == 0 && aligned16(in.dn.data, in.du.data, in.n.data, in.x.data, in.x0.data,
                                  in.mix.data, plus.data, dx.data, dx0.data);
  Gradient<T> p{in.dn.data,
                in.du.data,
                in.n.data,
                in.x.data,
                in.x0.data,
                plus.data,
                in.rstd.data,
                in.mix.data,
                static_cast<float>(in.scale),
                dx.data,
                dx0.data,
                rows,
                D,
                rows_per_partial(rows),
                nullptr};
  const int64_t blocks = ceil_div(rows, p.rows_per_block);
  // As many warps as have room for their sums.
  const int64_t warps = dmix ? std::min<int64_t>(kWarps, kWidest / D) : kWarps;
  require(warps > 0,
          "model_dim = {}: training on a GPU takes widths up to {}; choose a smaller one, or train "
          "on the CPU",
          D, kWidest);
  const size_t shared = dmix ? static_cast<size_t>(warps * 2 * D) * sizeof(float) : 0;
  if (dmix)
    p.partials = reinterpret_cast<float*>(
        device.workspace(Workspace::rows, static_cast<size_t>(blocks * 2 * D) * sizeof(float)));
  with_row_layout(packs, D, [&](auto vec, auto chunks) {
    constexpr int kChunks = decltype(chunks)::value <= 2 ? decltype(chunks)::value : 0;
    with_switches(
        static_cast<bool>(in.du), static_cast<bool>(plus), static_cast<bool>(dmix),
        [&](auto du, auto with_plus, auto with_mix) {
          launch_dependent(
              device.stream(),
              mix_norm_backward_kernel<T, decltype(vec)::value, kChunks, decltype(du)::value,
                                       decltype(with_plus)::value, decltype(with_mix)::value>,
              grid(blocks), static_cast<unsigned>(warps * kWarp), shared, p);
        });
  });
  cuda_check_launch("mix_norm_backward");
  if (dmix) add_partials(device, p.partials, blocks, 2 * D, dmix.data);
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void mix_norm<T>(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const Accum<T>>, \
                            double, double, Tensor<T>, Tensor<Accum<T>>, Tensor<T>);               \
  template void mix_norm_backward<T>(CudaDevice&, const MixNormGradient<T>&, Tensor<const T>,      \
                                     Tensor<T>, Tensor<T>, Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

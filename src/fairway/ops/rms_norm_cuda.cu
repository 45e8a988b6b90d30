// A warp per row, the row in registers where it fits (with_row_layout).
#include "fairway/base/check.h"
#include "fairway/base/e4m3_cuda.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rms_norm_cuda.h"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;  // rows of a block

// The row of this warp, and its lane.
struct WarpRow {
  int64_t row;
  int lane;
};
__device__ __forceinline__ WarpRow warp_row() {
  const int thread = static_cast<int>(threadIdx.x);
  return {static_cast<int64_t>(blockIdx.x) * kWarps + thread / kWarp, thread % kWarp};
}

template <int kVec>
__device__ __forceinline__ void clear(float (&v)[kVec]) {
#pragma unroll
  for (int i = 0; i < kVec; ++i) v[i] = 0.0f;
}

// Where n goes as an operand; nowhere.
struct NoOperand {
  template <int kVec>
  __device__ __forceinline__ void store(int64_t, const float (&)[kVec]) const {}
};
struct E4m3Operand {
  e4m3* to;
  const int32_t* exponent;

  // Rounded to bf16 first, as what reads n finds it.
  __device__ __forceinline__ void store(int64_t at, const float (&v)[kPack]) const {
    *reinterpret_cast<uint2*>(to + at) =
        e4m3_of_bf16(pack_bf16_8(v), power_of_two(__ldg(exponent)));
  }
};

template <class T, int kVec, int kChunks, class Operand>
__global__ __launch_bounds__(kRowThreads) void norm_kernel(const T* x, const int32_t* pick,
                                                           int64_t rows, int64_t D, float eps,
                                                           float scale, float* rstd_out, T* n,
                                                           Operand operand) {
  wait_for_earlier_kernels();
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  const T* xr = x + (pick != nullptr ? static_cast<int64_t>(pick[row]) : row) * D;
  T* nr = n + row * D;
  float v[kChunks > 0 ? kChunks : 1][kVec];
  float sum = 0;
  if constexpr (kChunks > 0) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) clear(v[c]);
    for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) { load<kVec>(xr + j, v[c]); });
#pragma unroll
    for (int c = 0; c < kChunks; ++c)
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum += v[c][i] * v[c][i];
  } else {
    for_packs<kVec, kChunks>(D, lane, [&](int, int64_t j) {
      load<kVec>(xr + j, v[0]);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum += v[0][i] * v[0][i];
    });
  }
  const float rstd = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(D) + eps);
  if (lane == 0) rstd_out[row] = rstd;
  const float g = rstd * scale;
  for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
    if constexpr (kChunks == 0) load<kVec>(xr + j, v[c]);
    float y[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) y[i] = v[c][i] * g;
    store<kVec>(nr + j, y);
    operand.store(row * D + j, y);
  });
}

// x is the norm's output. The gradient is added to dx, or with kWrite written.
template <class T, int kVec, int kChunks, bool kWrite>
__global__ __launch_bounds__(kRowThreads) void norm_backward_kernel(const T* dn, const T* x,
                                                                    const float* rstd, int64_t rows,
                                                                    int64_t D, float scale, T* dx) {
  wait_for_earlier_kernels();
  constexpr int kHeld = kChunks > 0 ? kChunks : 1;
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  const T *dnr = dn + row * D, *xr = x + row * D;
  T* dxr = dx + row * D;
  const float r = rstd[row];

  float g[kHeld][kVec], v[kHeld][kVec];
  Pack<T, kVec> before[kHeld];
  float sum = 0;
  if constexpr (kChunks > 0) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      clear(g[c]);
      clear(v[c]);
    }
    for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
      load<kVec>(dnr + j, g[c]);
      load<kVec>(xr + j, v[c]);
      if constexpr (!kWrite) load<kVec>(dxr + j, before[c]);
    });
#pragma unroll
    for (int c = 0; c < kChunks; ++c)
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum += g[c][i] * v[c][i];
  } else {
    for_packs<kVec, kChunks>(D, lane, [&](int, int64_t j) {
      load<kVec>(dnr + j, g[0]);
      load<kVec>(xr + j, v[0]);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sum += g[0][i] * v[0][i];
    });
  }
  const float mean = warp_sum(sum) / static_cast<float>(D);
  const float along = r * mean / scale, factor = r * scale;
  for_packs<kVec, kChunks>(D, lane, [&](int c, int64_t j) {
    if constexpr (kChunks == 0) {
      load<kVec>(dnr + j, g[c]);
      load<kVec>(xr + j, v[c]);
      if constexpr (!kWrite) load<kVec>(dxr + j, before[c]);
    }
    float d[kVec];
    if constexpr (kWrite)
      clear(d);
    else
      unpack(before[c], d);
#pragma unroll
    for (int i = 0; i < kVec; ++i) d[i] += factor * g[c][i] - along * v[c][i];
    store<kVec>(dxr + j, d);
  });
}

template <class T, int kVec, int kChunks>
__global__ __launch_bounds__(kRowThreads) void gather_kernel(const T* x, const int32_t* pick,
                                                             int64_t rows, int64_t D, T* y) {
  wait_for_earlier_kernels();
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  const T* xr = x + pick[row] * D;
  T* yr = y + row * D;
  for_packs<kVec, kChunks>(D, lane, [&](int, int64_t j) {
    if constexpr (kVec == 1) {
      yr[j] = xr[j];
    } else {
      Pack<T, kVec> pack;
      load<kVec>(xr + j, pack);
      uint4* to = reinterpret_cast<uint4*>(yr + j);
#pragma unroll
      for (int q = 0; q < Pack<T, kVec>::kQuads; ++q) to[q] = pack.quad[q];
    }
  });
}

template <class T, int kVec, int kChunks>
__global__ __launch_bounds__(kRowThreads) void add_rows_kernel(const T* y, const int32_t* pick,
                                                               int64_t rows, int64_t D, T* x) {
  wait_for_earlier_kernels();
  const auto [row, lane] = warp_row();
  if (row >= rows) return;
  const T* yr = y + row * D;
  T* xr = x + pick[row] * D;
  for_packs<kVec, kChunks>(D, lane, [&](int, int64_t j) {
    float a[kVec], b[kVec];
    load<kVec>(yr + j, a);
    load<kVec>(xr + j, b);
#pragma unroll
    for (int i = 0; i < kVec; ++i) b[i] += a[i];
    store<kVec>(xr + j, b);
  });
}

unsigned row_blocks(int64_t rows) {
  return grid(ceil_div(rows, kWarps));
}

}  // namespace

template <class T>
void rms_norm_rows(CudaDevice& device, const T* x, const int32_t* pick, int64_t rows, int64_t D,
                   double eps, double scale, Accum<T>* rstd, T* n, const char* name) {
  if (rows == 0) return;
  with_row_layout(D % kPack == 0 && aligned16(x, n), D, [&](auto vec, auto chunks) {
    launch_dependent(device.stream(),
                     norm_kernel<T, decltype(vec)::value, decltype(chunks)::value, NoOperand>,
                     row_blocks(rows), kRowThreads, 0, x, pick, rows, D, static_cast<float>(eps),
                     static_cast<float>(scale), rstd, n, NoOperand{});
  });
  cuda_check_launch(name);
}

void rms_norm_e4m3(CudaDevice& device, Tensor<const bf16> x, double eps, double scale,
                   Tensor<float> rstd, Tensor<bf16> n, const int32_t* exponent, e4m3* operand) {
  const int64_t rows = x.extent(0), D = x.extent(1);
  if (rows == 0) return;
  check(D % kPack == 0 && aligned16(x.data, n.data, operand), "rms_norm_e4m3: alignment");
  with_row_layout(true, D, [&](auto vec, auto chunks) {
    if constexpr (decltype(vec)::value == kPack)
      launch_dependent(
          device.stream(), norm_kernel<bf16, kPack, decltype(chunks)::value, E4m3Operand>,
          row_blocks(rows), kRowThreads, 0, x.data, nullptr, rows, D, static_cast<float>(eps),
          static_cast<float>(scale), rstd.data, n.data, E4m3Operand{operand, exponent});
  });
  cuda_check_launch("rms_norm_e4m3");
}

template <class T>
void rms_norm(CudaDevice& device, Tensor<const T> x, double eps, double scale,
              Tensor<Accum<T>> rstd, Tensor<T> n) {
  rms_norm_rows<T>(device, x.data, nullptr, x.extent(0), x.extent(1), eps, scale, rstd.data, n.data,
                   "rms_norm");
}

template <class T>
void rms_norm_backward(CudaDevice& device, Tensor<const T> dn, Tensor<const T> n,
                       Tensor<const Accum<T>> rstd, double scale, Tensor<T> dx) {
  const int64_t rows = n.extent(0), D = n.extent(1);
  if (rows == 0) return;
  const bool packs = D % kPack == 0 && aligned16(dn.data, n.data, dx.data);
  with_row_layout(packs, D, [&](auto vec, auto chunks) {
    launch_dependent(device.stream(),
                     norm_backward_kernel<T, decltype(vec)::value, decltype(chunks)::value, false>,
                     row_blocks(rows), kRowThreads, 0, dn.data, n.data, rstd.data, rows, D,
                     static_cast<float>(scale), dx.data);
  });
  cuda_check_launch("rms_norm_backward");
}

template <class T>
void rms_norm_backward_write(CudaDevice& device, Tensor<const T> dn, Tensor<const T> n,
                             Tensor<const Accum<T>> rstd, Tensor<T> dx) {
  const int64_t N = n.extent(0), D = n.extent(1);
  if (N == 0) return;
  const bool packs = D % kPack == 0 && aligned16(dn.data, n.data, dx.data);
  with_row_layout(packs, D, [&](auto vec, auto chunks) {
    launch_dependent(device.stream(),
                     norm_backward_kernel<T, decltype(vec)::value, decltype(chunks)::value, true>,
                     row_blocks(N), kRowThreads, 0, dn.data, n.data, rstd.data, N, D, 1.0f,
                     dx.data);
  });
  cuda_check_launch("rms_norm_backward_write");
}

template <class T>
void gather_rows(CudaDevice& device, Tensor<const T> x, Tensor<const int32_t> rows, Tensor<T> y) {
  const int64_t N = y.extent(0), D = y.extent(1);
  if (N == 0) return;
  with_row_layout(D % kPack == 0 && aligned16(x.data, y.data), D, [&](auto vec, auto chunks) {
    launch_dependent(device.stream(),
                     gather_kernel<T, decltype(vec)::value, decltype(chunks)::value>, row_blocks(N),
                     kRowThreads, 0, x.data, rows.data, N, D, y.data);
  });
  cuda_check_launch("gather_rows");
}

template <class T>
void add_rows(CudaDevice& device, Tensor<const T> y, Tensor<const int32_t> rows, Tensor<T> x) {
  const int64_t N = y.extent(0), D = y.extent(1);
  if (N == 0) return;
  with_row_layout(D % kPack == 0 && aligned16(x.data, y.data), D, [&](auto vec, auto chunks) {
    launch_dependent(device.stream(),
                     add_rows_kernel<T, decltype(vec)::value, decltype(chunks)::value>,
                     row_blocks(N), kRowThreads, 0, y.data, rows.data, N, D, x.data);
  });
  cuda_check_launch("add_rows");
}

#define FAIRWAY_INSTANTIATE(T)                                                                    \
  template void rms_norm_rows<T>(CudaDevice&, const T*, const int32_t*, int64_t, int64_t, double, \
                                 double, Accum<T>*, T*, const char*);                             \
  template void rms_norm<T>(CudaDevice&, Tensor<const T>, double, double, Tensor<Accum<T>>,       \
                            Tensor<T>);                                                           \
  template void rms_norm_backward<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,               \
                                     Tensor<const Accum<T>>, double, Tensor<T>);                  \
  template void rms_norm_backward_write<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,         \
                                           Tensor<const Accum<T>>, Tensor<T>);                    \
  template void add_rows<T>(CudaDevice&, Tensor<const T>, Tensor<const int32_t>, Tensor<T>);      \
  template void gather_rows<T>(CudaDevice&, Tensor<const T>, Tensor<const int32_t>, Tensor<T>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

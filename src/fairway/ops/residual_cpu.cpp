#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/scalar.h"

namespace fairway {

template <class T>
void lane_join(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1) {
  const int64_t D = in.a.extent(1);
  const T p00 = in.pl[0], p01 = in.pl[1], p10 = in.pl[2], p11 = in.pl[3];
  const T r0 = in.rl[0], r1 = in.rl[1];
  for_row_blocks(device, in.a.extent(0), [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin * D; i < end * D; ++i) {
      const T a = in.a.data[i], m = in.m.data[i];
      const T l0 = in.lane0.data[i], l1 = in.lane1.data[i];
      out0.data[i] = r0 * l0 + p00 * a + p10 * m;
      out1.data[i] = r1 * l1 + p01 * a + p11 * m;
    }
  });
}

template <class T>
void lane_join_backward(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<T> dpl, Tensor<T> drl) {
  const int64_t D = in.a.extent(1), rows = in.a.extent(0);
  const T p00 = in.pl[0], p01 = in.pl[1], p10 = in.pl[2], p11 = in.pl[3];
  const T r0 = in.rl[0], r1 = in.rl[1];
  const bool with_params = dpl.data != nullptr;
  // d0·a, d1·a, d0·m, d1·m, d0·lane0, d1·lane1: the gradients of pl and rl.
  const auto block = [&](int64_t begin, int64_t end, T* sums) {
    const int64_t first = begin * D, n = (end - begin) * D;
    T *g0 = d0.data + first, *g1 = d1.data + first;
    if (with_params) {
      const T *a = in.a.data + first, *m = in.m.data + first;
      sums[0] += dot<T>(g0, a, n);
      sums[1] += dot<T>(g1, a, n);
      sums[2] += dot<T>(g0, m, n);
      sums[3] += dot<T>(g1, m, n);
      sums[4] += dot<T>(g0, in.lane0.data + first, n);
      sums[5] += dot<T>(g1, in.lane1.data + first, n);
    }
    T *dat = da.data + first, *dmt = dm.data + first;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      dat[i] = p00 * g0[i] + p01 * g1[i];
      dmt[i] = p10 * g0[i] + p11 * g1[i];
      g0[i] *= r0;
      g1[i] *= r1;
    }
  };
  if (!with_params) {
    for_row_blocks(device, rows, [&](int64_t b, int64_t e) { block(b, e, nullptr); });
    return;
  }
  const T* partials = sum_row_blocks<T>(device, rows, 6, block);
  add_partials(partials, rows, 6, 0, 4, dpl.data);
  add_partials(partials, rows, 6, 4, 2, drl.data);
}

template <class T>
void scale_to(CpuDevice& device, Tensor<const T> x, double factor, Tensor<T> y) {
  const T f = T(static_cast<decltype(real_part(T{}))>(factor));
  for_each_block(device, x.size(), [&](int64_t begin, int64_t n) {
#pragma omp simd
    for (int64_t i = begin; i < begin + n; ++i) y.data[i] = f * x.data[i];
  });
}

template <class T>
void add(CpuDevice& device, Tensor<const T> x, Tensor<T> y) {
  constexpr int64_t kChunk = 1 << 14;
  const int64_t n = x.size();
#pragma omp parallel for num_threads(device.threads())
  for (int64_t c = 0; c < n; c += kChunk) {
    const int64_t end = std::min(n, c + kChunk);
#pragma omp simd
    for (int64_t i = c; i < end; ++i) y.data[i] += x.data[i];
  }
}

template <class T>
void lane_end(CpuDevice& device, const LaneJoin<T>& in, LaneShares shares, Tensor<T> x) {
  using Real = decltype(real_part(T{}));
  const int64_t D = in.a.extent(1);
  const T s0 = T(static_cast<Real>(shares.of0)), s1 = T(static_cast<Real>(shares.of1));
  const T r0 = s0 * in.rl[0], r1 = s1 * in.rl[1];
  const T pa = s0 * in.pl[0] + s1 * in.pl[1], pm = s0 * in.pl[2] + s1 * in.pl[3];
  for_row_blocks(device, in.a.extent(0), [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin * D; i < end * D; ++i)
      x.data[i] =
          r0 * in.lane0.data[i] + r1 * in.lane1.data[i] + pa * in.a.data[i] + pm * in.m.data[i];
  });
}

template <class T>
void lane_end_backward(CpuDevice& device, const LaneJoin<T>& in, LaneShares shares,
                       Tensor<const T> d, Tensor<T> d0, Tensor<T> d1, Tensor<T> da, Tensor<T> dm,
                       Tensor<T> dpl, Tensor<T> drl) {
  scale_to<T>(device, d, shares.of0, d0);
  scale_to<T>(device, d, shares.of1, d1);
  lane_join_backward<T>(device, in, d0, d1, da, dm, dpl, drl);
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template void lane_join(CpuDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>);               \
  template void lane_join_backward(CpuDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>,       \
                                   Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>);                \
  template void scale_to(CpuDevice&, Tensor<const T>, double, Tensor<T>);                      \
  template void add(CpuDevice&, Tensor<const T>, Tensor<T>);                                   \
  template void lane_end(CpuDevice&, const LaneJoin<T>&, LaneShares, Tensor<T>);               \
  template void lane_end_backward(CpuDevice&, const LaneJoin<T>&, LaneShares, Tensor<const T>, \
                                  Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>,       \
                                  Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/scalar.h"

namespace fairway {

template <class T>
void resid_mix(CpuDevice& device, Tensor<const T> x, Tensor<const T> x0, Tensor<const T> mix,
               Tensor<T> u) {
  const int64_t D = x.extent(1);
  const T *mix0 = mix.data, *mix1 = mix.data + D;
  for_row_blocks(device, x.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T *xt = x.data + t * D, *x0t = x0.data + t * D;
      T* ut = u.data + t * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) ut[j] = mix0[j] * xt[j] + mix1[j] * x0t[j];
    }
  });
}

template <class T>
void resid_mix_backward(CpuDevice& device, Tensor<const T> du, Tensor<const T> x,
                        Tensor<const T> x0, Tensor<const T> mix, bool accumulate_dx, Tensor<T> dx,
                        Tensor<T> dx0, Tensor<T> dmix) {
  const int64_t D = x.extent(1), rows = x.extent(0);
  const T *mix0 = mix.data, *mix1 = mix.data + D;
  const bool with_mix = dmix.data != nullptr;
  const auto block = [&](int64_t begin, int64_t end, T* partial) {
    for (int64_t t = begin; t < end; ++t) {
      const T *dut = du.data + t * D, *xt = x.data + t * D, *x0t = x0.data + t * D;
      T *dxt = dx.data + t * D, *dx0t = dx0.data + t * D;
      if (with_mix) {
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) {
          partial[j] += dut[j] * xt[j];
          partial[D + j] += dut[j] * x0t[j];
        }
      }
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        const T d = dut[j];
        dx0t[j] += mix1[j] * d;
        dxt[j] = accumulate_dx ? dxt[j] + mix0[j] * d : mix0[j] * d;
      }
    }
  };
  if (with_mix) {
    const T* partials = sum_row_blocks<T>(device, rows, 2 * D, block);
    add_partials(partials, rows, 2 * D, 0, 2 * D, dmix.data);
  } else {
    for_row_blocks(device, rows, [&](int64_t b, int64_t e) { block(b, e, nullptr); });
  }
}

template <class T>
void scaled_add(CpuDevice& device, Tensor<const T> x, Tensor<const T> scale, Tensor<const T> a,
                Tensor<T> y) {
  const int64_t D = x.extent(1);
  for_row_blocks(device, x.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T *xt = x.data + t * D, *at = a.data + t * D;
      T* yt = y.data + t * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) yt[j] = xt[j] + scale.data[j] * at[j];
    }
  });
}

template <class T>
void scaled_add_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> a,
                         Tensor<const T> scale, Tensor<T> da, Tensor<T> dscale) {
  const int64_t D = dy.extent(1), rows = dy.extent(0);
  const bool with_scale = dscale.data != nullptr;
  const auto block = [&](int64_t begin, int64_t end, T* partial) {
    for (int64_t t = begin; t < end; ++t) {
      const T *dyt = dy.data + t * D, *at = a.data + t * D;
      T* dat = da.data + t * D;
      if (with_scale) {
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) partial[j] += dyt[j] * at[j];
      }
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) dat[j] = scale.data[j] * dyt[j];
    }
  };
  if (with_scale) {
    const T* partials = sum_row_blocks<T>(device, rows, D, block);
    add_partials(partials, rows, D, 0, D, dscale.data);
  } else {
    for_row_blocks(device, rows, [&](int64_t b, int64_t e) { block(b, e, nullptr); });
  }
}

namespace {

// The gate as two vectors over D: y = g⊙x + keep⊙(w⊙k). Without gates both are 1.
template <class T>
struct GateVectors {
  const T *g, *keep;
};
template <class T>
GateVectors<T> gate_vectors(CpuDevice& device, Tensor<const T> gate, int64_t D) {
  T* g = reinterpret_cast<T*>(device.shared_scratch(1, static_cast<size_t>(2 * D) * sizeof(T)));
  for (int64_t j = 0; j < D; ++j) {
    g[j] = gate ? sigmoid(gate[j]) : T(1);
    g[D + j] = gate ? T(1) - g[j] : T(1);
  }
  return {g, g + D};
}

}  // namespace

template <class T>
void skip_mix(CpuDevice& device, Tensor<const T> x, Tensor<const T> k, Tensor<const T> w,
              Tensor<const T> gate, Tensor<T> y) {
  const int64_t D = x.extent(1);
  const auto [g, keep] = gate_vectors(device, gate, D);
  for_row_blocks(device, x.extent(0), [&, g = g, keep = keep](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T *xt = x.data + t * D, *kt = k.data + t * D;
      T* yt = y.data + t * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) yt[j] = g[j] * xt[j] + keep[j] * (w.data[j] * kt[j]);
    }
  });
}

template <class T>
void skip_mix_backward(CpuDevice& device, Tensor<const T> x, Tensor<const T> k, Tensor<const T> w,
                       Tensor<const T> gate, Tensor<T> dy, Tensor<T> dk, Tensor<T> dw,
                       Tensor<T> dgate) {
  const int64_t D = x.extent(1), rows = x.extent(0);
  const auto [g, keep] = gate_vectors(device, gate, D);
  const T* partials = sum_row_blocks<T>(
      device, rows, 2 * D, [&, g = g, keep = keep](int64_t begin, int64_t end, T* partial) {
        for (int64_t t = begin; t < end; ++t) {
          const T *xt = x.data + t * D, *kt = k.data + t * D;
          T *dyt = dy.data + t * D, *dkt = dk.data + t * D;
#pragma omp simd
          for (int64_t j = 0; j < D; ++j) {
            const T d = dyt[j], dkeep = d * keep[j];
            partial[j] += dkeep * kt[j];
            partial[D + j] += dkeep * g[j] * (xt[j] - w.data[j] * kt[j]);
            dkt[j] = dkeep * w.data[j];
            dyt[j] = d * g[j];
          }
        }
      });
  if (dw) add_partials(partials, rows, 2 * D, 0, D, dw.data);
  if (dgate) add_partials(partials, rows, 2 * D, D, D, dgate.data);
}

template <class T>
void lane_join(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1) {
  const int64_t D = in.a.extent(1);
  const T *sa = in.attn_scale.data, *sm = in.mlp_scale.data;
  const T p00 = in.pl[0], p01 = in.pl[1], p10 = in.pl[2], p11 = in.pl[3];
  const T r0 = in.rl[0], r1 = in.rl[1];
  for_row_blocks(device, in.a.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = t * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        const T a = sa[j] * in.a.data[row + j], m = sm[j] * in.m.data[row + j];
        const T l0 = in.lane0.data[row + j], l1 = in.lane1.data[row + j];
        out0.data[row + j] = r0 * l0 + p00 * a + p10 * m;
        out1.data[row + j] = r1 * l1 + p01 * a + p11 * m;
      }
    }
  });
}

template <class T>
void lane_join_backward(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<T> dattn_scale, Tensor<T> dmlp_scale,
                        Tensor<T> dpl, Tensor<T> drl) {
  const int64_t D = in.a.extent(1), rows = in.a.extent(0);
  const T *sa = in.attn_scale.data, *sm = in.mlp_scale.data;
  const T p00 = in.pl[0], p01 = in.pl[1], p10 = in.pl[2], p11 = in.pl[3];
  const T r0 = in.rl[0], r1 = in.rl[1];
  const bool with_params = dattn_scale.data != nullptr;
  // Column sums over t of d0⊙a, d1⊙a, d0⊙m, d1⊙m, d0⊙lane0, d1⊙lane1 hold every parameter's
  // gradient.
  const auto block = [&](int64_t begin, int64_t end, T* c) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = t * D;
      const T *a = in.a.data + row, *m = in.m.data + row;
      const T *l0 = in.lane0.data + row, *l1 = in.lane1.data + row;
      T *g0 = d0.data + row, *g1 = d1.data + row;
      T *dat = da.data + row, *dmt = dm.data + row;
      if (with_params) {
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) {
          c[j] += g0[j] * a[j];
          c[D + j] += g1[j] * a[j];
          c[2 * D + j] += g0[j] * m[j];
          c[3 * D + j] += g1[j] * m[j];
          c[4 * D + j] += g0[j] * l0[j];
          c[5 * D + j] += g1[j] * l1[j];
        }
      }
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        dat[j] = sa[j] * (p00 * g0[j] + p01 * g1[j]);
        dmt[j] = sm[j] * (p10 * g0[j] + p11 * g1[j]);
        g0[j] *= r0;
        g1[j] *= r1;
      }
    }
  };
  if (!with_params) {
    for_row_blocks(device, rows, [&](int64_t b, int64_t e) { block(b, e, nullptr); });
    return;
  }
  const T* partials = sum_row_blocks<T>(device, rows, 6 * D, block);
  T* c = reinterpret_cast<T*>(device.shared_scratch(1, static_cast<size_t>(6 * D) * sizeof(T)));
  std::fill(c, c + 6 * D, T{});
  add_partials(partials, rows, 6 * D, 0, 6 * D, c);
  for (int64_t j = 0; j < D; ++j) {
    dattn_scale[j] += p00 * c[j] + p01 * c[D + j];
    dmlp_scale[j] += p10 * c[2 * D + j] + p11 * c[3 * D + j];
    dpl[0] += sa[j] * c[j];
    dpl[1] += sa[j] * c[D + j];
    dpl[2] += sm[j] * c[2 * D + j];
    dpl[3] += sm[j] * c[3 * D + j];
    drl[0] += c[4 * D + j];
    drl[1] += c[5 * D + j];
  }
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
void mean_of(CpuDevice& device, Tensor<const T> a, Tensor<const T> b, Tensor<T> y) {
  constexpr int64_t kChunk = 1 << 14;
  const T half = T(0.5f);
  const int64_t n = a.size();
#pragma omp parallel for num_threads(device.threads())
  for (int64_t c = 0; c < n; c += kChunk) {
    const int64_t end = std::min(n, c + kChunk);
#pragma omp simd
    for (int64_t i = c; i < end; ++i) y.data[i] = half * (a.data[i] + b.data[i]);
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void resid_mix(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,           \
                          Tensor<T>);                                                              \
  template void resid_mix_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,  \
                                   Tensor<const T>, bool, Tensor<T>, Tensor<T>, Tensor<T>);        \
  template void scaled_add(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,          \
                           Tensor<T>);                                                             \
  template void scaled_add_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                    Tensor<T>, Tensor<T>);                                         \
  template void skip_mix(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,            \
                         Tensor<const T>, Tensor<T>);                                              \
  template void skip_mix_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,   \
                                  Tensor<const T>, Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>);    \
  template void lane_join(CpuDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>);                   \
  template void lane_join_backward(CpuDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>,           \
                                   Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>,          \
                                   Tensor<T>);                                                     \
  template void scale_to(CpuDevice&, Tensor<const T>, double, Tensor<T>);                          \
  template void add(CpuDevice&, Tensor<const T>, Tensor<T>);                                       \
  template void mean_of(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

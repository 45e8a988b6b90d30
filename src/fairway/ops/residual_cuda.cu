#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/residual.h"

namespace fairway {

namespace {

template <int kVec>
struct OneVector {
  float a[kVec];
};
template <int kVec>
struct TwoVectors {
  float a[kVec], b[kVec];
};

template <int kVec>
__device__ __forceinline__ TwoVectors<kVec> two_vectors(const float* a, const float* b, int64_t j) {
  TwoVectors<kVec> v;
  load<kVec>(a + j, v.a);
  load<kVec>(b + j, v.b);
  return v;
}

__device__ __forceinline__ float sigmoid_of(float x) {
  return 1.0f / (1.0f + expf(-x));
}

bool packs_of(int64_t D, bool aligned) {
  return D % kPack == 0 && aligned;
}

template <class T>
struct ResidMix {
  static constexpr int kIn = 2, kOut = 1, kSums = 0, kScalars = 0;
  const T* in[kIn];  // x, x0
  T* out[kOut];      // u
  const float *mix0, *mix1;

  template <int kVec>
  __device__ TwoVectors<kVec> columns(int64_t j) const {
    return two_vectors<kVec>(mix0, mix1, j);
  }
  template <int kVec>
  __device__ void row(const TwoVectors<kVec>& mix, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&)[1][kVec], float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) out[0][i] = mix.a[i] * in[0][i] + mix.b[i] * in[1][i];
  }
};

template <class T, bool kWithMix, bool kAccumulate>
struct ResidMixBackward {
  static constexpr int kX = kAccumulate ? 3 : 2;  // where x and x0 are among the inputs
  static constexpr int kIn = kX + (kWithMix ? 2 : 0), kOut = 2, kSums = kWithMix ? 2 : 0,
                       kScalars = 0;
  const T* in[kIn];  // du, dx0, dx if accumulated, x and x0 if their mix's gradient is wanted
  T* out[kOut];      // dx, dx0
  const float *mix0, *mix1;

  template <int kVec>
  __device__ TwoVectors<kVec> columns(int64_t j) const {
    return two_vectors<kVec>(mix0, mix1, j);
  }
  template <int kVec, int kSumsHere>
  __device__ void row(const TwoVectors<kVec>& mix, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&sums)[kSumsHere][kVec],
                      float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float du = in[0][i];
      if constexpr (kWithMix) {
        sums[0][i] += du * in[kX][i];
        sums[1][i] += du * in[kX + 1][i];
      }
      out[0][i] = mix.a[i] * du;
      if constexpr (kAccumulate) out[0][i] += in[2][i];
      out[1][i] = in[1][i] + mix.b[i] * du;
    }
  }
};

template <class T>
struct ScaledAdd {
  static constexpr int kIn = 2, kOut = 1, kSums = 0, kScalars = 0;
  const T* in[kIn];  // x, a
  T* out[kOut];      // y
  const float* scale;

  template <int kVec>
  __device__ OneVector<kVec> columns(int64_t j) const {
    OneVector<kVec> v;
    load<kVec>(scale + j, v.a);
    return v;
  }
  template <int kVec>
  __device__ void row(const OneVector<kVec>& s, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&)[1][kVec], float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) out[0][i] = in[0][i] + s.a[i] * in[1][i];
  }
};

template <class T, bool kWithScale>
struct ScaledAddBackward {
  static constexpr int kIn = kWithScale ? 2 : 1, kOut = 1, kSums = kWithScale ? 1 : 0, kScalars = 0;
  const T* in[kIn];  // dy, a if the scale's gradient is wanted
  T* out[kOut];      // da
  const float* scale;

  template <int kVec>
  __device__ OneVector<kVec> columns(int64_t j) const {
    OneVector<kVec> v;
    load<kVec>(scale + j, v.a);
    return v;
  }
  template <int kVec>
  __device__ void row(const OneVector<kVec>& s, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&sums)[1][kVec], float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      if constexpr (kWithScale) sums[0][i] += in[0][i] * in[1][i];
      out[0][i] = s.a[i] * in[0][i];
    }
  }
};

// y = g⊙x + keep⊙(w⊙k); without gates g and keep are 1.
template <int kVec>
struct SkipVectors {
  float g[kVec], keep[kVec], w[kVec];
};
template <int kVec>
__device__ __forceinline__ SkipVectors<kVec> skip_vectors(const float* w, const float* gate,
                                                          int64_t j) {
  SkipVectors<kVec> v;
  load<kVec>(w + j, v.w);
  if (gate != nullptr) load<kVec>(gate + j, v.g);
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    v.g[i] = gate != nullptr ? sigmoid_of(v.g[i]) : 1.0f;
    v.keep[i] = gate != nullptr ? 1.0f - v.g[i] : 1.0f;
  }
  return v;
}

template <class T>
struct SkipMix {
  static constexpr int kIn = 2, kOut = 1, kSums = 0, kScalars = 0;
  const T* in[kIn];  // x, k
  T* out[kOut];      // y
  const float *w, *gate;

  template <int kVec>
  __device__ SkipVectors<kVec> columns(int64_t j) const {
    return skip_vectors<kVec>(w, gate, j);
  }
  template <int kVec>
  __device__ void row(const SkipVectors<kVec>& v, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&)[1][kVec], float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) out[0][i] = v.g[i] * in[0][i] + v.keep[i] * (v.w[i] * in[1][i]);
  }
};

template <class T>
struct SkipMixBackward {
  static constexpr int kIn = 3, kOut = 2, kSums = 2, kScalars = 0;
  const T* in[kIn];  // x, k, dy
  T* out[kOut];      // dy, dk
  const float *w, *gate;

  template <int kVec>
  __device__ SkipVectors<kVec> columns(int64_t j) const {
    return skip_vectors<kVec>(w, gate, j);
  }
  template <int kVec>
  __device__ void row(const SkipVectors<kVec>& v, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&sums)[kSums][kVec], float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float x = in[0][i], k = in[1][i], d = in[2][i], dkeep = d * v.keep[i];
      sums[0][i] += dkeep * k;
      sums[1][i] += dkeep * v.g[i] * (x - v.w[i] * k);
      out[0][i] = d * v.g[i];
      out[1][i] = dkeep * v.w[i];
    }
  }
};

// attn_scale and mlp_scale at the columns, pl and rl.
template <int kVec>
struct LaneVectors {
  float sa[kVec], sm[kVec], p00, p01, p10, p11, r0, r1;
};
template <int kVec>
__device__ __forceinline__ LaneVectors<kVec> lane_vectors(const float* attn_scale,
                                                          const float* mlp_scale, const float* pl,
                                                          const float* rl, int64_t j) {
  LaneVectors<kVec> v;
  load<kVec>(attn_scale + j, v.sa);
  load<kVec>(mlp_scale + j, v.sm);
  v.p00 = pl[0], v.p01 = pl[1], v.p10 = pl[2], v.p11 = pl[3];
  v.r0 = rl[0], v.r1 = rl[1];
  return v;
}

template <class T>
struct LaneJoinForward {
  static constexpr int kIn = 4, kOut = 2, kSums = 0, kScalars = 0;
  const T* in[kIn];  // a, m, lane0, lane1
  T* out[kOut];      // out0, out1
  const float *attn_scale, *mlp_scale, *pl, *rl;

  template <int kVec>
  __device__ LaneVectors<kVec> columns(int64_t j) const {
    return lane_vectors<kVec>(attn_scale, mlp_scale, pl, rl, j);
  }
  template <int kVec>
  __device__ void row(const LaneVectors<kVec>& v, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&)[1][kVec], float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float a = v.sa[i] * in[0][i], m = v.sm[i] * in[1][i];
      out[0][i] = v.r0 * in[2][i] + v.p00 * a + v.p10 * m;
      out[1][i] = v.r1 * in[3][i] + v.p01 * a + v.p11 * m;
    }
  }
};

// sums: Σ_t a⊙(p00·d0 + p01·d1) and the same of m, the scales' gradients. scalars: pl's and rl's.
template <class T, bool kWithParams>
struct LaneJoinBackward {
  static constexpr int kIn = kWithParams ? 6 : 2, kOut = 4, kSums = kWithParams ? 2 : 0,
                       kScalars = kWithParams ? 6 : 0;
  const T* in[kIn];  // d0, d1; a, m, lane0, lane1 if the parameters' gradients are wanted
  T* out[kOut];      // d0, d1, da, dm
  const float *attn_scale, *mlp_scale, *pl, *rl;

  template <int kVec>
  __device__ LaneVectors<kVec> columns(int64_t j) const {
    return lane_vectors<kVec>(attn_scale, mlp_scale, pl, rl, j);
  }
  template <int kVec, int kSumsHere, int kScalarsHere>
  __device__ void row(const LaneVectors<kVec>& v, const float (&in)[kIn][kVec],
                      float (&out)[kOut][kVec], float (&sums)[kSumsHere][kVec],
                      float (&scalars)[kScalarsHere]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float d0 = in[0][i], d1 = in[1][i];
      const float to_a = v.p00 * d0 + v.p01 * d1, to_m = v.p10 * d0 + v.p11 * d1;
      if constexpr (kWithParams) {
        const float a = in[2][i], m = in[3][i];
        sums[0][i] += to_a * a;
        sums[1][i] += to_m * m;
        const float sa = v.sa[i] * a, sm = v.sm[i] * m;
        scalars[0] += d0 * sa;
        scalars[1] += d1 * sa;
        scalars[2] += d0 * sm;
        scalars[3] += d1 * sm;
        scalars[4] += d0 * in[4][i];
        scalars[5] += d1 * in[5][i];
      }
      out[0][i] = v.r0 * d0;
      out[1][i] = v.r1 * d1;
      out[2][i] = v.sa[i] * to_a;
      out[3][i] = v.sm[i] * to_m;
    }
  }
};

struct Scale {
  static constexpr int kInputs = 1;
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};
struct Add {
  static constexpr int kInputs = 2;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Mean {
  static constexpr int kInputs = 2;
  __device__ float operator()(float a, float b) const { return 0.5f * (a + b); }
};

}  // namespace

template <class T>
void resid_mix(CudaDevice& device, Tensor<const T> x, Tensor<const T> x0,
               Tensor<const Accum<T>> mix, Tensor<T> u) {
  const int64_t D = x.extent(1);
  const ResidMix<T> op{{x.data, x0.data}, {u.data}, mix.data, mix.data + D};
  run_columns<T>(device, op, x.extent(0), D,
                 packs_of(D, aligned16(x.data, x0.data, u.data, mix.data)), "resid_mix");
}

template <class T>
void resid_mix_backward(CudaDevice& device, Tensor<const T> du, Tensor<const T> x,
                        Tensor<const T> x0, Tensor<const Accum<T>> mix, bool accumulate_dx,
                        Tensor<T> dx, Tensor<T> dx0, Tensor<Accum<T>> dmix) {
  const int64_t D = du.extent(1), rows = du.extent(0);
  const float *mix0 = mix.data, *mix1 = mix.data + D;
  const bool packs = packs_of(D, aligned16(du.data, x.data, x0.data, mix.data, dx.data, dx0.data));
  constexpr const char* kName = "resid_mix_backward";
  if (dmix) {
    ColumnSums partials;
    if (accumulate_dx) {
      const ResidMixBackward<T, true, true> op{
          {du.data, dx0.data, dx.data, x.data, x0.data}, {dx.data, dx0.data}, mix0, mix1};
      partials = run_columns<T>(device, op, rows, D, packs, kName);
    } else {
      const ResidMixBackward<T, true, false> op{
          {du.data, dx0.data, x.data, x0.data}, {dx.data, dx0.data}, mix0, mix1};
      partials = run_columns<T>(device, op, rows, D, packs, kName);
    }
    add_partials(device, partials.sums, partials.blocks, 2 * D, dmix.data);
  } else if (accumulate_dx) {
    const ResidMixBackward<T, false, true> op{
        {du.data, dx0.data, dx.data}, {dx.data, dx0.data}, mix0, mix1};
    run_columns<T>(device, op, rows, D, packs, kName);
  } else {
    const ResidMixBackward<T, false, false> op{
        {du.data, dx0.data}, {dx.data, dx0.data}, mix0, mix1};
    run_columns<T>(device, op, rows, D, packs, kName);
  }
}

template <class T>
void scaled_add(CudaDevice& device, Tensor<const T> x, Tensor<const Accum<T>> scale,
                Tensor<const T> a, Tensor<T> y) {
  const int64_t D = x.extent(1);
  const ScaledAdd<T> op{{x.data, a.data}, {y.data}, scale.data};
  run_columns<T>(device, op, x.extent(0), D,
                 packs_of(D, aligned16(x.data, a.data, y.data, scale.data)), "scaled_add");
}

template <class T>
void scaled_add_backward(CudaDevice& device, Tensor<const T> dy, Tensor<const T> a,
                         Tensor<const Accum<T>> scale, Tensor<T> da, Tensor<Accum<T>> dscale) {
  const int64_t D = dy.extent(1), rows = dy.extent(0);
  const bool packs = packs_of(D, aligned16(dy.data, a.data, da.data, scale.data));
  if (dscale) {
    const ScaledAddBackward<T, true> op{{dy.data, a.data}, {da.data}, scale.data};
    const ColumnSums partials = run_columns<T>(device, op, rows, D, packs, "scaled_add_backward");
    add_partials(device, partials.sums, partials.blocks, D, dscale.data);
  } else {
    const ScaledAddBackward<T, false> op{{dy.data}, {da.data}, scale.data};
    run_columns<T>(device, op, rows, D, packs, "scaled_add_backward");
  }
}

template <class T>
void skip_mix(CudaDevice& device, Tensor<const T> x, Tensor<const T> k, Tensor<const Accum<T>> w,
              Tensor<const Accum<T>> gate, Tensor<T> y) {
  const int64_t D = x.extent(1);
  const SkipMix<T> op{{x.data, k.data}, {y.data}, w.data, gate.data};
  run_columns<T>(device, op, x.extent(0), D,
                 packs_of(D, aligned16(x.data, k.data, y.data, w.data, gate.data)), "skip_mix");
}

template <class T>
void skip_mix_backward(CudaDevice& device, Tensor<const T> x, Tensor<const T> k,
                       Tensor<const Accum<T>> w, Tensor<const Accum<T>> gate, Tensor<T> dy,
                       Tensor<T> dk, Tensor<Accum<T>> dw, Tensor<Accum<T>> dgate) {
  const int64_t D = x.extent(1);
  const SkipMixBackward<T> op{{x.data, k.data, dy.data}, {dy.data, dk.data}, w.data, gate.data};
  const bool packs = packs_of(D, aligned16(x.data, k.data, dy.data, dk.data, w.data, gate.data));
  const ColumnSums partials =
      run_columns<T>(device, op, x.extent(0), D, packs, "skip_mix_backward");
  add_partials(device, partials.sums, partials.blocks, D, dw.data, D, dgate.data);
}

template <class T>
void lane_join(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1) {
  const int64_t D = in.a.extent(1);
  const LaneJoinForward<T> op{{in.a.data, in.m.data, in.lane0.data, in.lane1.data},
                              {out0.data, out1.data},
                              in.attn_scale.data,
                              in.mlp_scale.data,
                              in.pl.data,
                              in.rl.data};
  const bool packs =
      packs_of(D, aligned16(in.a.data, in.m.data, in.lane0.data, in.lane1.data, out0.data,
                            out1.data, in.attn_scale.data, in.mlp_scale.data));
  run_columns<T>(device, op, in.a.extent(0), D, packs, "lane_join");
}

template <class T>
void lane_join_backward(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<Accum<T>> dattn_scale,
                        Tensor<Accum<T>> dmlp_scale, Tensor<Accum<T>> dpl, Tensor<Accum<T>> drl) {
  const int64_t D = d0.extent(1), rows = d0.extent(0);
  const bool packs =
      packs_of(D, aligned16(in.a.data, in.m.data, in.lane0.data, in.lane1.data, d0.data, d1.data,
                            da.data, dm.data, in.attn_scale.data, in.mlp_scale.data));
  if (dattn_scale) {
    const LaneJoinBackward<T, true> op{
        {d0.data, d1.data, in.a.data, in.m.data, in.lane0.data, in.lane1.data},
        {d0.data, d1.data, da.data, dm.data},
        in.attn_scale.data,
        in.mlp_scale.data,
        in.pl.data,
        in.rl.data};
    const ColumnSums partials = run_columns<T>(device, op, rows, D, packs, "lane_join_backward");
    add_partials(device, partials.sums, partials.blocks, D, dattn_scale.data, D, dmlp_scale.data);
    add_partials(device, partials.scalars, partials.scalar_blocks, 4, dpl.data, 2, drl.data);
  } else {
    const LaneJoinBackward<T, false> op{{d0.data, d1.data}, {d0.data, d1.data, da.data, dm.data},
                                        in.attn_scale.data, in.mlp_scale.data,
                                        in.pl.data,         in.rl.data};
    run_columns<T>(device, op, rows, D, packs, "lane_join_backward");
  }
}

template <class T>
void scale_to(CudaDevice& device, Tensor<const T> x, double factor, Tensor<T> y) {
  run_elementwise<T>(device, x.data, x.data, y.data, x.size(), Scale{static_cast<float>(factor)},
                     "scale_to");
}

template <class T>
void add(CudaDevice& device, Tensor<const T> x, Tensor<T> y) {
  run_elementwise<T>(device, y.data, x.data, y.data, x.size(), Add{}, "add");
}

template <class T>
void mean_of(CudaDevice& device, Tensor<const T> a, Tensor<const T> b, Tensor<T> y) {
  run_elementwise<T>(device, a.data, b.data, y.data, a.size(), Mean{}, "mean_of");
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void resid_mix<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,                        \
                             Tensor<const Accum<T>>, Tensor<T>);                                   \
  template void resid_mix_backward<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,               \
                                      Tensor<const T>, Tensor<const Accum<T>>, bool, Tensor<T>,    \
                                      Tensor<T>, Tensor<Accum<T>>);                                \
  template void scaled_add<T>(CudaDevice&, Tensor<const T>, Tensor<const Accum<T>>,                \
                              Tensor<const T>, Tensor<T>);                                         \
  template void scaled_add_backward<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,              \
                                       Tensor<const Accum<T>>, Tensor<T>, Tensor<Accum<T>>);       \
  template void skip_mix<T>(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const Accum<T>>, \
                            Tensor<const Accum<T>>, Tensor<T>);                                    \
  template void skip_mix_backward<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,                \
                                     Tensor<const Accum<T>>, Tensor<const Accum<T>>, Tensor<T>,    \
                                     Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>);               \
  template void lane_join<T>(CudaDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>);               \
  template void lane_join_backward<T>(CudaDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>,       \
                                      Tensor<T>, Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>,    \
                                      Tensor<Accum<T>>, Tensor<Accum<T>>);                         \
  template void scale_to<T>(CudaDevice&, Tensor<const T>, double, Tensor<T>);                      \
  template void add<T>(CudaDevice&, Tensor<const T>, Tensor<T>);                                   \
  template void mean_of<T>(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

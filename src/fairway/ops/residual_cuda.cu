#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/residual.h"

namespace fairway {

namespace {

bool packs_of(int64_t D, bool aligned) {
  return D % kPack == 0 && aligned;
}

// pl and rl.
struct LaneWeights {
  float p00, p01, p10, p11, r0, r1;
};
__device__ __forceinline__ LaneWeights lane_weights(const float* pl, const float* rl) {
  return {pl[0], pl[1], pl[2], pl[3], rl[0], rl[1]};
}

template <class T>
struct LaneJoinForward {
  static constexpr int kIn = 4, kOut = 2, kScalars = 0;
  const T* in[kIn];  // a, m, lane0, lane1
  T* out[kOut];      // out0, out1
  const float *pl, *rl;

  template <int kVec>
  __device__ LaneWeights columns(int64_t) const {
    return lane_weights(pl, rl);
  }
  template <int kVec>
  __device__ void row(const LaneWeights& v, const float (&in)[kIn][kVec], float (&out)[kOut][kVec],
                      float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float a = in[0][i], m = in[1][i];
      out[0][i] = v.r0 * in[2][i] + v.p00 * a + v.p10 * m;
      out[1][i] = v.r1 * in[3][i] + v.p01 * a + v.p11 * m;
    }
  }
};

template <class T>
struct LaneEndForward {
  static constexpr int kIn = 4, kOut = 1, kScalars = 0;
  const T* in[kIn];  // a, m, lane0, lane1
  T* out[kOut];      // x
  const float *pl, *rl;
  float share0, share1;

  struct Weights {
    float a, m, lane0, lane1;
  };
  template <int kVec>
  __device__ Weights columns(int64_t) const {
    const LaneWeights v = lane_weights(pl, rl);
    return {share0 * v.p00 + share1 * v.p01, share0 * v.p10 + share1 * v.p11, share0 * v.r0,
            share1 * v.r1};
  }
  template <int kVec>
  __device__ void row(const Weights& v, const float (&in)[kIn][kVec], float (&out)[kOut][kVec],
                      float (&)[1]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i)
      out[0][i] = v.lane0 * in[2][i] + v.lane1 * in[3][i] + v.a * in[0][i] + v.m * in[1][i];
  }
};

// scalars: the gradients of pl and rl. kEnd: from the gradient of the lanes' end.
template <class T, bool kWithParams, bool kEnd>
struct LaneJoinBackward {
  static constexpr int kGradients = kEnd ? 1 : 2;
  static constexpr int kIn = kGradients + (kWithParams ? 4 : 0), kOut = 4,
                       kScalars = kWithParams ? 6 : 0;
  // d, or d0 and d1; a, m, lane0, lane1 if the parameters' gradients are wanted
  const T* in[kIn];
  T* out[kOut];  // d0, d1, da, dm
  const float *pl, *rl;
  float share0, share1;  // of kEnd

  template <int kVec>
  __device__ LaneWeights columns(int64_t) const {
    return lane_weights(pl, rl);
  }
  template <int kVec, int kScalarsHere>
  __device__ void row(const LaneWeights& v, const float (&in)[kIn][kVec], float (&out)[kOut][kVec],
                      float (&scalars)[kScalarsHere]) const {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      float d0 = in[0][i], d1 = in[kGradients - 1][i];
      if constexpr (kEnd) {
        d0 *= share0;
        d1 *= share1;
      }
      if constexpr (kWithParams) {
        const float a = in[kGradients][i], m = in[kGradients + 1][i];
        scalars[0] += d0 * a;
        scalars[1] += d1 * a;
        scalars[2] += d0 * m;
        scalars[3] += d1 * m;
        scalars[4] += d0 * in[kGradients + 2][i];
        scalars[5] += d1 * in[kGradients + 3][i];
      }
      out[0][i] = v.r0 * d0;
      out[1][i] = v.r1 * d1;
      out[2][i] = v.p00 * d0 + v.p01 * d1;
      out[3][i] = v.p10 * d0 + v.p11 * d1;
    }
  }
};

struct Scale {
  float factor;
  __device__ void operator()(float x, float& y) const { y = factor * x; }
};
struct Add {
  __device__ void operator()(float x, float& y) const { y += x; }
};

}  // namespace

template <class T>
void lane_join(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1) {
  const int64_t D = in.a.extent(1);
  const LaneJoinForward<T> op{{in.a.data, in.m.data, in.lane0.data, in.lane1.data},
                              {out0.data, out1.data},
                              in.pl.data,
                              in.rl.data};
  const bool packs = packs_of(
      D, aligned16(in.a.data, in.m.data, in.lane0.data, in.lane1.data, out0.data, out1.data));
  run_columns<T>(device, op, in.a.extent(0), D, packs, "lane_join");
}

template <class T>
void lane_join_backward(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<Accum<T>> dpl, Tensor<Accum<T>> drl) {
  const int64_t D = d0.extent(1), rows = d0.extent(0);
  const bool packs = packs_of(D, aligned16(in.a.data, in.m.data, in.lane0.data, in.lane1.data,
                                           d0.data, d1.data, da.data, dm.data));
  if (dpl) {
    const LaneJoinBackward<T, true, false> op{
        {d0.data, d1.data, in.a.data, in.m.data, in.lane0.data, in.lane1.data},
        {d0.data, d1.data, da.data, dm.data},
        in.pl.data,
        in.rl.data,
        1.0f,
        1.0f};
    const ColumnSums partials = run_columns<T>(device, op, rows, D, packs, "lane_join_backward");
    add_partials(device, partials.scalars, partials.blocks, 4, dpl.data, 2, drl.data);
  } else {
    const LaneJoinBackward<T, false, false> op{{d0.data, d1.data},
                                               {d0.data, d1.data, da.data, dm.data},
                                               in.pl.data,
                                               in.rl.data,
                                               1.0f,
                                               1.0f};
    run_columns<T>(device, op, rows, D, packs, "lane_join_backward");
  }
}

template <class T>
void lane_end(CudaDevice& device, const LaneJoin<T>& in, LaneShares shares, Tensor<T> x) {
  const int64_t D = in.a.extent(1);
  const LaneEndForward<T> op{{in.a.data, in.m.data, in.lane0.data, in.lane1.data},
                             {x.data},
                             in.pl.data,
                             in.rl.data,
                             static_cast<float>(shares.of0),
                             static_cast<float>(shares.of1)};
  const bool packs =
      packs_of(D, aligned16(in.a.data, in.m.data, in.lane0.data, in.lane1.data, x.data));
  run_columns<T>(device, op, in.a.extent(0), D, packs, "lane_end");
}

template <class T>
void lane_end_backward(CudaDevice& device, const LaneJoin<T>& in, LaneShares shares,
                       Tensor<const T> d, Tensor<T> d0, Tensor<T> d1, Tensor<T> da, Tensor<T> dm,
                       Tensor<Accum<T>> dpl, Tensor<Accum<T>> drl) {
  const int64_t D = d.extent(1), rows = d.extent(0);
  const bool packs = packs_of(D, aligned16(in.a.data, in.m.data, in.lane0.data, in.lane1.data,
                                           d.data, d0.data, d1.data, da.data, dm.data));
  const auto share0 = static_cast<float>(shares.of0), share1 = static_cast<float>(shares.of1);
  if (dpl) {
    const LaneJoinBackward<T, true, true> op{
        {d.data, in.a.data, in.m.data, in.lane0.data, in.lane1.data},
        {d0.data, d1.data, da.data, dm.data},
        in.pl.data,
        in.rl.data,
        share0,
        share1};
    const ColumnSums partials = run_columns<T>(device, op, rows, D, packs, "lane_end_backward");
    add_partials(device, partials.scalars, partials.blocks, 4, dpl.data, 2, drl.data);
  } else {
    const LaneJoinBackward<T, false, true> op{
        {d.data}, {d0.data, d1.data, da.data, dm.data}, in.pl.data, in.rl.data, share0, share1};
    run_columns<T>(device, op, rows, D, packs, "lane_end_backward");
  }
}

template <class T>
void scale_to(CudaDevice& device, Tensor<const T> x, double factor, Tensor<T> y) {
  map_elements(device, "scale_to", x.size(), Scale{static_cast<float>(factor)}, x.data,
               Write<T>{y.data});
}

template <class T>
void add(CudaDevice& device, Tensor<const T> x, Tensor<T> y) {
  map_elements(device, "add", x.size(), Add{}, x.data, y.data);
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void lane_join<T>(CudaDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>);               \
  template void lane_join_backward<T>(CudaDevice&, const LaneJoin<T>&, Tensor<T>, Tensor<T>,       \
                                      Tensor<T>, Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>);   \
  template void scale_to<T>(CudaDevice&, Tensor<const T>, double, Tensor<T>);                      \
  template void add<T>(CudaDevice&, Tensor<const T>, Tensor<T>);                                   \
  template void lane_end<T>(CudaDevice&, const LaneJoin<T>&, LaneShares, Tensor<T>);               \
  template void lane_end_backward<T>(CudaDevice&, const LaneJoin<T>&, LaneShares, Tensor<const T>, \
                                     Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>, Tensor<Accum<T>>, \
                                     Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

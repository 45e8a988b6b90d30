#include <cmath>
#include <vector>

#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/rms_norm_row.h"
#include "fairway/ops/rope_gain.h"

namespace fairway {

template <class T>
void rope_table(CpuDevice& device, Tensor<const int32_t> cu_seqlens, int rope_dims, double base,
                Tensor<T> cosine, Tensor<T> sine) {
  using Real = decltype(real_part(T{}));
  const int64_t half = rope_dims / 2, segments = cu_seqlens.size() - 1;
  std::vector<double> frequency(static_cast<size_t>(half));
  for (int64_t j = 0; j < half; ++j)
    frequency[static_cast<size_t>(j)] = std::pow(base, -2.0 * static_cast<double>(j) / rope_dims);
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t s = 0; s < segments; ++s)
    for (int64_t t = cu_seqlens[s]; t < cu_seqlens[s + 1]; ++t)
      for (int64_t j = 0; j < half; ++j) {
        const double angle =
            static_cast<double>(t - cu_seqlens[s]) * frequency[static_cast<size_t>(j)];
        cosine[t * half + j] = T(static_cast<Real>(std::cos(angle)));
        sine[t * half + j] = T(static_cast<Real>(std::sin(angle)));
      }
}

template <class T>
void rope_gain(CpuDevice& device, Tensor<const T> x, Tensor<const T> gain, Tensor<const T> cosine,
               Tensor<const T> sine, double eps, Tensor<T> x_rot, Tensor<T> rstd) {
  const int64_t heads = x.extent(1), d = x.extent(2), half = cosine.extent(1);
  for_row_blocks(device, x.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T *c = cosine.data + t * half, *s = sine.data + t * half;
      for (int64_t h = 0; h < heads; ++h) {
        const T* in = x.data + (t * heads + h) * d;
        T* out = x_rot.data + (t * heads + h) * d;
        const T r = row_rstd(in, d, eps), g = r * (gain ? gain[h] : T(1));
        rstd[t * heads + h] = r;
#pragma omp simd
        for (int64_t j = 0; j < half; ++j) {
          const T a = in[j] * g, b = in[half + j] * g;
          out[j] = a * c[j] + b * s[j];
          out[half + j] = b * c[j] - a * s[j];
        }
#pragma omp simd
        for (int64_t j = 2 * half; j < d; ++j) out[j] = in[j] * g;
      }
    }
  });
}

template <class T>
void rope_gain_backward(CpuDevice& device, Tensor<const T> dx_rot, Tensor<const T> x_rot,
                        Tensor<const T> rstd, Tensor<const T> gain, Tensor<const T> cosine,
                        Tensor<const T> sine, Tensor<T> dx, Tensor<T> dgain) {
  using Real = decltype(real_part(T{}));
  const int64_t rows = x_rot.extent(0), heads = x_rot.extent(1), d = x_rot.extent(2);
  const int64_t half = cosine.extent(1);
  const T* partials =
      sum_row_blocks<T>(device, rows, heads, [&](int64_t begin, int64_t end, T* partial) {
        for (int64_t t = begin; t < end; ++t) {
          const T *c = cosine.data + t * half, *s = sine.data + t * half;
          for (int64_t h = 0; h < heads; ++h) {
            const int64_t at = (t * heads + h) * d;
            const T *x = x_rot.data + at, *dy = dx_rot.data + at;
            T* out = dx.data + at;
            const T g = gain ? gain[h] : T(1), inverse = g == T(0) ? T(0) : T(1) / g;
            const T of_gain = dot(dy, x, d) * inverse;
            partial[h] += of_gain;
            // The gradient of what was rotated is scale·dy − along·x.
            const T r = rstd[t * heads + h], scale = r * g;
            const T along = r * of_gain / T(static_cast<Real>(d));
#pragma omp simd
            for (int64_t j = 0; j < half; ++j) {
              const T a = scale * dy[j] - along * x[j];
              const T b = scale * dy[half + j] - along * x[half + j];
              out[j] = a * c[j] - b * s[j];
              out[half + j] = b * c[j] + a * s[j];
            }
#pragma omp simd
            for (int64_t j = 2 * half; j < d; ++j) out[j] = scale * dy[j] - along * x[j];
          }
        }
      });
  if (dgain) add_partials(partials, rows, heads, 0, heads, dgain.data);
}

#define FAIRWAY_INSTANTIATE(T)                                                                    \
  template void rope_table(CpuDevice&, Tensor<const int32_t>, int, double, Tensor<T>, Tensor<T>); \
  template void rope_gain(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,          \
                          Tensor<const T>, double, Tensor<T>, Tensor<T>);                         \
  template void rope_gain_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                   Tensor<const T>, Tensor<const T>, Tensor<const T>, Tensor<T>,  \
                                   Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/embedding.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/rms_norm_row.h"

namespace fairway {

template <class T>
void embed(CpuDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table, double eps,
           Tensor<T> rstd, Tensor<T> x0) {
  const int64_t D = table.extent(1);
  for_row_blocks(device, tokens.size(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = table.data + tokens[t] * D;
      rstd[t] = row_rstd(row, D, eps);
      for (int64_t j = 0; j < D; ++j) x0.data[t * D + j] = row[j] * rstd[t];
    }
  });
}

template <class T>
void embed_backward(CpuDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table,
                    Tensor<const T> rstd, Tensor<const T> dx0, Tensor<T> dtable) {
  const int64_t D = table.extent(1), V = table.extent(0);
  // Each slice of the vocabulary is one thread's: no two threads share a row, and the order of the
  // additions to a row is the order of the tokens.
  constexpr int64_t kSlices = 64;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t s = 0; s < kSlices; ++s) {
    const int64_t low = V * s / kSlices, high = V * (s + 1) / kSlices;
    for (int64_t t = 0; t < tokens.size(); ++t) {
      const int64_t token = tokens[t];
      if (token < low || token >= high) continue;
      row_rms_backward(dx0.data + t * D, table.data + token * D, rstd[t], D,
                       dtable.data + token * D);
    }
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                               \
  template void embed(CpuDevice&, Tensor<const int32_t>, Tensor<const T>, double, Tensor<T>, \
                      Tensor<T>);                                                            \
  template void embed_backward(CpuDevice&, Tensor<const int32_t>, Tensor<const T>,           \
                               Tensor<const T>, Tensor<const T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

#include "fairway/base/check.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/adamw_cuda.cuh"
#include "fairway/ops/elementwise_cuda.h"

namespace fairway {

namespace {

template <class G>
void run(CudaDevice& device, int64_t n, float* w, const G* g, float* m, float* v,
         const AdamW& step) {
  check(m || step.beta1 == 0, "adamw: m may be null only with beta1 = 0");
  const AdamWElement f{adamw_factors(step)};
  if (m)
    map_elements(device, "adamw", n, f, w, g, m, v);
  else
    map_elements(device, "adamw", n, f, w, g, v);
}

}  // namespace

void adamw(CudaDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step) {
  run(device, n, w, g, m, v, step);
}
void adamw(CudaDevice& device, int64_t n, float* w, const bf16* g, float* m, float* v,
           const AdamW& step) {
  run(device, n, w, g, m, v, step);
}

}  // namespace fairway

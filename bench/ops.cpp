#include "ops.h"

#include "machine.h"
#include "ops_bench.h"

namespace fairway::bench {

namespace {

// The ceilings; no ops yet.
OpsFigures ceilings(CpuDevice& device, const ModelConfig& c, int64_t tokens) {
  return {copy_bandwidth(device.threads()),
          onednn_rate(device.threads(), device.precision(), tokens, c.model_dim, c.mlp_dim(), false,
                      true),
          {}};
}
#if FAIRWAY_WITH_CUDA
OpsFigures ceilings(CudaDevice& device, const ModelConfig&, int64_t) {
  return {copy_bandwidth(device), matmul_rate(device), {}};
}
#endif

}  // namespace

OpsFigures bench_ops(const OpsOptions& o) {
  return with_device(o.device, [&]<class Device, class E>(Device& device, std::type_identity<E>) {
    OpsFigures figures = ceilings(device, o.model, o.tokens);
    OpsBench<Device, E> bench(device, o, figures);
    bench.model();
    bench.mlp_e4m3();
    bench.adapters();
    bench.optimizer();
    return figures;
  });
}

}  // namespace fairway::bench

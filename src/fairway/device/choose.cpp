#include "fairway/device/choose.h"

namespace fairway {

DeviceKind resolve(DeviceKind kind) {
  if (kind == DeviceKind::cpu) return kind;
#if FAIRWAY_WITH_CUDA
  std::string why;
  if (cuda_available(&why)) return DeviceKind::cuda;
#else
  const std::string why = "this program was built without CUDA; build it where nvcc is in the path";
#endif
  require(kind != DeviceKind::cuda,
          "--device cuda: {}, or use --device cpu (in recipes train.device)", why);
  return DeviceKind::cpu;
}

void refuse_float8(MatmulPrecision precision) {
  if (precision == MatmulPrecision::float8)
    usage_fail(
        "--matmul-precision float8: only training and scoring compute in it; use bfloat16 or auto");
}

int64_t pass_tokens(const DeviceChoice& choice) {
  if (resolve(choice.kind) == DeviceKind::cpu) return kPassTokens<CpuDevice, float>;
  return choice.precision == MatmulPrecision::float32 ? kPassTokens<CudaDevice, float>
                                                      : kPassTokens<CudaDevice, bf16>;
}

}  // namespace fairway

// Which device a command runs on: `--device auto|cpu|cuda`.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "fairway/base/check.h"
#include "fairway/device/run_types.h"

namespace fairway {

enum class DeviceKind { automatic, cpu, cuda };
inline constexpr std::array<std::string_view, 3> names(DeviceKind) {
  return {"auto", "cpu", "cuda"};
}

struct DeviceChoice {
  DeviceKind kind = DeviceKind::automatic;  // automatic: a GPU where there is one
  int threads = 0;                          // of the CPU; 0: one per core
  MatmulPrecision precision = MatmulPrecision::automatic;
  int ordinal = 0;  // which GPU
};

// What `choice` comes to on this machine. Throws Error if a GPU is asked for and there is none.
DeviceKind resolve(DeviceKind kind);

// Whatever neither trains nor scores has no float8 of its own: a command line that asks it for
// float8 is wrong.
void refuse_float8(MatmulPrecision precision);

// kPassTokens of the device and element type that with_device chooses.
int64_t pass_tokens(const DeviceChoice& choice);

// Calls f(device, std::type_identity<T>{}) with the chosen device and T the element type of
// activations and matrices: bf16 on a GPU unless float32 is asked for; float on a CPU, whose
// products round their inputs if bfloat16 is asked for. float8 is as automatic; what more it means,
// training and scoring ask their own configurations.
template <class F>
auto with_device(const DeviceChoice& choice, F&& f) {
#if FAIRWAY_WITH_CUDA
  if (resolve(choice.kind) == DeviceKind::cuda) {
    CudaDevice device(choice.ordinal);
    if (choice.precision == MatmulPrecision::float32)
      return std::forward<F>(f)(device, std::type_identity<float>{});
    return std::forward<F>(f)(device, std::type_identity<bf16>{});
  }
#else
  resolve(choice.kind);
#endif
  CpuDevice device(choice.threads, choice.precision);
  return std::forward<F>(f)(device, std::type_identity<float>{});
}

}  // namespace fairway

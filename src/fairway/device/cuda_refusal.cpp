#include "fairway/device/cuda_refusal.h"

#include <fmt/format.h>

namespace fairway {

namespace {
constexpr int kOldestCapability = 80;         // bf16 arithmetic, asynchronous copies
constexpr const char* kOldestDriver = "580";  // of CUDA 13's
}  // namespace

std::string cuda_refusal(const CudaMachine& m) {
  if (m.driver == 0)
    return fmt::format("no NVIDIA driver found on this machine; install version {} or newer",
                       kOldestDriver);
  // Within a major version, older drivers serve newer programs.
  if (m.driver / 1000 < m.runtime / 1000)
    return fmt::format(
        "this machine's NVIDIA driver is too old, for CUDA {}.{} where this program needs {}; "
        "update it to version {} or newer",
        m.driver / 1000, m.driver % 1000 / 10, m.runtime / 1000, kOldestDriver);
  if (!m.error.empty())
    return fmt::format("{}; see whether nvidia-smi finds the GPUs of this machine", m.error);
  if (m.gpus == 0)
    return "the NVIDIA driver shows no GPU; see whether nvidia-smi does, and whether "
           "CUDA_VISIBLE_DEVICES hides it";
  if (m.capability < kOldestCapability)
    return fmt::format("{} has compute capability {}.{}; use a GPU with 8.0 (Ampere) or newer",
                       m.name, m.capability / 10, m.capability % 10);
  return {};
}

}  // namespace fairway

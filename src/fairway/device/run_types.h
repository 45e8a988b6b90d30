// The devices and element types that whole runs (training, evaluation) exist for, and how much of a
// run they do at a time.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/device/cpu_device.h"
#include "fairway/device/cuda_device.h"

// X(Device, T), T the element type of activations and matrices: float on a CPU (its products may
// still round their inputs), float or bf16 on a GPU.
#if FAIRWAY_WITH_CUDA
#define FAIRWAY_FOR_CUDA_RUNS(X) X(CudaDevice, float) X(CudaDevice, bf16)
#else
#define FAIRWAY_FOR_CUDA_RUNS(X)
#endif
#define FAIRWAY_FOR_RUNS(X) X(CpuDevice, float) FAIRWAY_FOR_CUDA_RUNS(X)

namespace fairway {

// Tokens that it suits a device to take through a model together, where that is free.
template <class Device, class T>
constexpr int64_t kPassTokens = std::is_same_v<Device, CpuDevice> ? 4096
                                : sizeof(T) == 2                  ? 98304
                                                                  : 49152;

// The same for test-time training, whose adapters' work comes once a document and pass, and how
// many documents at most: a GPU has as many as its memory holds.
template <class Device, class T>
constexpr int64_t kTrainedTokens =
    std::is_same_v<Device, CpuDevice> ? kPassTokens<Device, T> : 4 * kPassTokens<Device, T>;
template <class Device>
constexpr int64_t kTrainedDocs = std::is_same_v<Device, CpuDevice> ? 64 : 65535;

}  // namespace fairway

// The devices and element types that whole runs (training, evaluation) exist for.
#pragma once

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

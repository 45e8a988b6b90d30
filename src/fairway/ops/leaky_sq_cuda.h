// The activation's backward, elementwise. Internal to ops/*_cuda.cu.
#pragma once

#include <cstdint>

#include "fairway/device/cuda_device.h"

namespace fairway {

// dz ⊙= f'(z), n elements: dz comes in as the gradient of f(z). For float and bf16.
template <class T>
void leaky_sq_backward(CudaDevice& device, int64_t n, const T* z, T* dz);

}  // namespace fairway

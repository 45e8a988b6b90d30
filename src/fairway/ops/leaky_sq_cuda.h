// The MLP's activation f(z) = max(z, z/2)² and its slope, elementwise. Internal to ops/*_cuda.*.
#pragma once

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_device.h"

namespace fairway {

// f[i] = f(z[i]); f may be z. For float and bf16.
template <class T>
void leaky_sq_values(CudaDevice& device, int64_t n, const T* z, T* f);

// dz ⊙= f'(z), n elements: dz comes in as the gradient of f(z). For float and bf16.
template <class T>
void leaky_sq_backward(CudaDevice& device, int64_t n, const T* z, T* dz);

// f in place, z → f(z); bit i % 32 of signs[i / 32] says z[i] > 0 (null: not wanted).
void leaky_sq_with_signs(CudaDevice& device, int64_t n, bf16* z, uint32_t* signs);

// dz ⊙= f'(z) from f(z) and the signs: f'(z) = 2z = 2√f for z > 0, else z/2 = −√f.
void leaky_sq_backward_from_output(CudaDevice& device, int64_t n, const bf16* f,
                                   const uint32_t* signs, bf16* dz);

}  // namespace fairway

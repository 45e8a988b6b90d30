// What this machine can do, measured now: the ceilings that every figure is a fraction of.
#pragma once

#include <cstdint>

#include "fairway/device/cpu_device.h"

namespace fairway::bench {

// Bytes read plus bytes written a second, copying buffers larger than the caches on all threads.
double copy_bandwidth(int threads);

// Flops a second of one oneDNN product C[m,n] = A[m,k] B[k,n] on all threads, oneDNN dividing the
// work as it likes. `transposed` says how A and B lie in memory.
double onednn_rate(int threads, MatmulPrecision precision, int64_t m, int64_t n, int64_t k,
                   bool a_transposed, bool b_transposed);

// The same for a GPU: a copy from memory to memory, and a bf16 product of 8192 x 8192 matrices of
// random numbers.
double copy_bandwidth(CudaDevice& device);
double matmul_rate(CudaDevice& device);
// Bytes of the GPU's memory that are taken, by this process or any other.
double memory_in_use(CudaDevice& device);

double seconds_now();
// Largest resident size of the process so far, in bytes.
double peak_memory();

}  // namespace fairway::bench

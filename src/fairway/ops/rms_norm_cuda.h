// The CUDA RMS norm with its input rows picked by index, for the ops that fuse the two. Internal to
// ops/*_cuda.cu.
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/device/cuda_device.h"

namespace fairway {

// n[r] = scale · x[pick[r]] · rstd[r] for r < rows; pick null: x[r]. Elements of x and n: D a row.
template <class T>
void rms_norm_rows(CudaDevice& device, const T* x, const int32_t* pick, int64_t rows, int64_t D,
                   double eps, double scale, Accum<T>* rstd, T* n, const char* name);

}  // namespace fairway

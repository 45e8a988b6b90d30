// Dense double-precision factorisation for GPTQ.
#pragma once

#include <cstdint>
#include <vector>

#include "fairway/device/cpu_device.h"

namespace fairway {

// U, upper triangular with UᵀU = H⁻¹, of a symmetric h [n, n] (row-major, both triangles filled;
// taken over as workspace). False if h is not numerically positive definite. The same bits for any
// number of threads.
bool inverse_cholesky_upper(CpuDevice& device, int64_t n, std::vector<double>& h,
                            std::vector<double>& u);

}  // namespace fairway

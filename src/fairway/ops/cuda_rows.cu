#include "fairway/ops/cuda_rows.cuh"

namespace fairway {

namespace {

constexpr int kSlices = 32;  // of the partials, each summed in order by one thread of a column

__global__ __launch_bounds__(kWarp* kSlices) void add_partials_kernel(const float* partials,
                                                                      int64_t count, int64_t n0,
                                                                      float* out0, int64_t n1,
                                                                      float* out1) {
  wait_for_earlier_kernels();
  const int x = static_cast<int>(threadIdx.x), slice = static_cast<int>(threadIdx.y);
  const int64_t width = n0 + n1, column = static_cast<int64_t>(blockIdx.x) * kWarp + x;
  const int64_t per_slice = (count + kSlices - 1) / kSlices, begin = slice * per_slice;
  const int64_t end = begin + per_slice < count ? begin + per_slice : count;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int64_t b = begin; b < end; ++b) sum += partials[b * width + column];
  }
  __shared__ float shared[kSlices][kWarp];
  shared[slice][x] = sum;
  __syncthreads();
  if (slice != 0 || column >= width) return;
  for (int s = 1; s < kSlices; ++s) sum += shared[s][x];
  float* out = column < n0 ? out0 : out1;
  if (out != nullptr) out[column < n0 ? column : column - n0] += sum;
}

}  // namespace

void add_partials(CudaDevice& device, const float* partials, int64_t count, int64_t n0, float* out0,
                  int64_t n1, float* out1) {
  if (count == 0 || n0 + n1 == 0 || (out0 == nullptr && out1 == nullptr)) return;
  launch_dependent(device.stream(), add_partials_kernel, grid(ceil_div(n0 + n1, kWarp)),
                   dim3(kWarp, kSlices), 0, partials, count, n0, out0, n1, out1);
  cuda_check_launch("add_partials");
}

}  // namespace fairway

#include "fairway/ops/cuda_rows.cuh"

namespace fairway {

namespace {

constexpr int kSlices = 32;  // of the partials, each summed in order by one thread of a column
constexpr int kAtOnce = 16;  // loads on their way

__global__ __launch_bounds__(kWarp* kSlices) void add_partials_kernel(const float* partials,
                                                                      int64_t count, int64_t n0,
                                                                      float* out0, int64_t n1,
                                                                      float* out1) {
  wait_for_earlier_kernels();
  const int x = static_cast<int>(threadIdx.x), slice = static_cast<int>(threadIdx.y);
  const int64_t width = n0 + n1, column = static_cast<int64_t>(blockIdx.x) * kWarp + x;
  const int64_t per_slice = (count + kSlices - 1) / kSlices, begin = slice * per_slice;
  const int64_t end = begin + per_slice < count ? begin + per_slice : count;
  float* const out = column >= width ? nullptr : column < n0 ? out0 : out1;
  float* const to = out != nullptr ? out + (column < n0 ? column : column - n0) : nullptr;
  // Before the sums, whose loads it would have to wait for.
  const float before = slice == 0 && to != nullptr ? *to : 0.0f;
  float sum = 0;
  for (int64_t first = begin; column < width && first < end; first += kAtOnce) {
    float v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      v[i] = first + i < end ? partials[(first + i) * width + column] : 0.0f;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum += v[i];
  }
  __shared__ float shared[kSlices][kWarp];
  shared[slice][x] = sum;
  __syncthreads();
  if (slice != 0 || to == nullptr) return;
#pragma unroll
  for (int s = 1; s < kSlices; ++s) sum += shared[s][x];
  *to = before + sum;
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

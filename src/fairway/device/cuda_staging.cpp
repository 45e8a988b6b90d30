#include "fairway/device/cuda_staging.h"

#include <algorithm>
#include <cstring>

#include "fairway/device/cuda_check.h"

namespace fairway {

CudaStaging::CudaStaging(CUstream_st* stream) : stream_(stream) {
  void* memory = nullptr;
  cuda_check(cudaMallocHost(&memory, 2 * kHalf), "allocating page-locked memory");
  memory_ = static_cast<std::byte*>(memory);
  for (CUevent_st*& event : left_)
    cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
}

CudaStaging::~CudaStaging() {
  for (CUevent_st* event : left_) cudaEventDestroy(event);
  cudaFreeHost(memory_);
}

void CudaStaging::change_half() {
  cuda_check(cudaEventRecord(left_[half_], stream_), "recording an event");
  half_ = 1 - half_;
  used_ = 0;
  cuda_check(cudaEventSynchronize(left_[half_]), "waiting for uploads");
}

void CudaStaging::upload(void* device, const void* host, size_t bytes) {
  constexpr size_t kAlign = 256;
  for (size_t done = 0; done < bytes;) {
    if (used_ == kHalf) change_half();
    const size_t part = std::min(bytes - done, kHalf - used_);
    std::byte* at = memory_ + half_ * kHalf + used_;
    std::memcpy(at, static_cast<const std::byte*>(host) + done, part);
    cuda_check(cudaMemcpyAsync(static_cast<std::byte*>(device) + done, at, part,
                               cudaMemcpyHostToDevice, stream_),
               "copying to the GPU");
    used_ += (part + kAlign - 1) / kAlign * kAlign;
    done += part;
  }
}

}  // namespace fairway

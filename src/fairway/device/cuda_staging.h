// Uploads that the host does not wait for: through page-locked memory that the GPU copies from in
// its own time. Internal to device/.
#pragma once

#include <array>
#include <cstddef>

struct CUstream_st;
struct CUevent_st;

namespace fairway {

class CudaStaging {
 public:
  explicit CudaStaging(CUstream_st* stream);
  ~CudaStaging();
  CudaStaging(const CudaStaging&) = delete;
  CudaStaging& operator=(const CudaStaging&) = delete;

  // The host memory may be reused when this returns. It waits only where earlier uploads that are
  // still on their way fill the staging memory.
  void upload(void* device, const void* host, size_t bytes);

 private:
  // Uploads fill one half while the GPU copies from the other.
  static constexpr size_t kHalf = size_t{4} << 20;
  void change_half();

  CUstream_st* stream_;
  std::byte* memory_ = nullptr;
  std::array<CUevent_st*, 2> left_{};  // after the last copy from each half
  size_t half_ = 0, used_ = 0;         // bytes of this half
};

}  // namespace fairway

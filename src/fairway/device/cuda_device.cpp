#include "fairway/device/cuda_device.h"

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_matmul.h"
#include "fairway/device/cuda_refusal.h"
#include "fairway/device/cuda_staging.h"

namespace fairway {

bool cuda_available(std::string* why) {
  CudaMachine machine;
  machine.runtime = CUDART_VERSION;
  cudaDriverGetVersion(&machine.driver);
  const cudaError_t status = cudaGetDeviceCount(&machine.gpus);
  if (status == cudaErrorNoDevice)
    machine.gpus = 0;
  else if (status != cudaSuccess)
    machine.error = cudaGetErrorString(status);
  else if (machine.gpus > 0) {
    cudaDeviceProp properties{};
    cuda_check(cudaGetDeviceProperties(&properties, 0), "reading the GPU's properties");
    machine.name = properties.name;
    machine.capability = 10 * properties.major + properties.minor;
  }
  const std::string reason = cuda_refusal(machine);
  if (why) *why = reason;
  return reason.empty();
}

CudaBuffer::CudaBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* p = nullptr;
  const cudaError_t status = cudaMalloc(&p, bytes);
  if (status == cudaErrorMemoryAllocation) {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(
        "the GPU has {} MiB of its {} MiB free, {} MiB are needed: training takes less with more "
        "train.micro_steps, evaluation with a smaller --pass-tokens",
        free >> 20, total >> 20, bytes >> 20);
  }
  cuda_check(status, "allocating memory");
  data_.reset(static_cast<std::byte*>(p));
  cuda_check(cudaMemset(p, 0, bytes), "clearing memory");
  // Devices' streams do not wait for the default stream, which clears on its own time.
  cuda_check(cudaStreamSynchronize(cudaStreamLegacy), "clearing memory");
}

void CudaBuffer::Free::operator()(std::byte* p) const {
  cudaFree(p);
}

CudaDevice::CudaDevice(int ordinal) {
  std::string why;
  require(cuda_available(&why), "no GPU can be used: {}", why);
  int devices = 0;
  cuda_check(cudaGetDeviceCount(&devices), "counting GPUs");
  require(ordinal < devices,
          "GPU {} is needed, and this host has {}: start no more ranks on a host than it has GPUs",
          ordinal, devices);
  cuda_check(cudaSetDevice(ordinal), "selecting the GPU");
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, ordinal), "reading the GPU's properties");
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  capability_ = 10 * properties.major + properties.minor;
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  staging_ = std::make_unique<CudaStaging>(stream_);
  matmul_ = std::make_unique<CudaMatmul>();
}

CudaDevice::~CudaDevice() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

size_t CudaDevice::free_bytes() const {
  size_t free = 0, total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "asking how much memory is free");
  return free;
}

void CudaDevice::upload(void* device, const void* host, size_t bytes) {
  check(!recording(), "CudaDevice::upload: a graph would keep what is uploaded now");
  staging_->upload(device, host, bytes);
}

void CudaDevice::download(void* host, const void* device, size_t bytes) {
  cuda_check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_),
             "copying from the GPU");
  synchronize();
}

void CudaDevice::copy(void* to, const void* from, size_t bytes) {
  cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_),
             "copying on the GPU");
}

void CudaDevice::zero(void* device, size_t bytes) {
  cuda_check(cudaMemsetAsync(device, 0, bytes, stream_), "clearing memory");
}

void CudaDevice::synchronize() {
  cuda_check(cudaStreamSynchronize(stream_), "waiting for the GPU");
}

bool CudaDevice::recording() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cuda_check(cudaStreamIsCapturing(stream_, &status), "asking whether a graph is recorded");
  return status != cudaStreamCaptureStatusNone;
}

std::byte* CudaDevice::workspace(Workspace which, size_t bytes) {
  Buffer& buffer = workspaces_[static_cast<size_t>(which)];
  if (buffer.bytes() < bytes) {
    check(!recording(), "CudaDevice::workspace: more is needed while a graph is recorded");
    synchronize();  // earlier work may still use the old one
    buffer = Buffer();
    buffer = Buffer(bytes + bytes / 4);
    ++workspace_moves_;
  }
  return buffer.data();
}

}  // namespace fairway

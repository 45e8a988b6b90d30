// An NVIDIA GPU: one stream, one allocation at a time, cuBLASLt. Plain C++: code above the ops
// needs no CUDA header.
//
// Work is issued to the stream in program order and runs later; `download` and `synchronize` wait.
// Every op gives the same bits on the same GPU model run after run: sums have a fixed order, and a
// row's result does not depend on the rows beside it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "fairway/device/device.h"

struct CUstream_st;

namespace fairway {

// Whether this process can use a GPU; if not, `why` (may be null) receives the reason.
bool cuda_available(std::string* why = nullptr);

// Owning device memory, zeroed.
class CudaBuffer {
 public:
  CudaBuffer() = default;
  explicit CudaBuffer(size_t bytes);
  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t bytes_ = 0;
};

class CudaGraphs;
class CudaMatmul;
class CudaStaging;

// What ops keep in a device's scratch memory, one piece of memory each. It lasts until the next op
// that uses the same: an op has others than the ops that it calls.
enum class Workspace {
  rows,      // sums of blocks of rows; attention's tiles where nobody made a plan
  operands,  // adapters packed for products; attention's row terms; the optimizer's sums; dm and n
             // as columns for e4m3 weight gradients
  adapters,  // sums of the chunks of rows of adapters' gradients; of slices of a wide adapter's dxa
  transposed,  // a matrix or several, transposed
  weights,     // all layers' matrices, transposed
  hidden,      // the MLP's hidden rows, or their sums; the head's rows; weights' gradients' sums
  plan,        // attention's tiles
  e4m3,    // rows as e4m3 operands, and beside dm's what the way back through the norm needs; what
           // is known of e4m3 matrices
  matmul,  // cuBLASLt's own
  count
};

class CudaDevice {
 public:
  using Buffer = CudaBuffer;
  using Graphs = CudaGraphs;

  // Throws Error where there is no usable GPU, saying why.
  explicit CudaDevice(int ordinal = 0);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  CUstream_st* stream() const { return stream_; }
  const std::string& name() const { return name_; }
  int multiprocessors() const { return multiprocessors_; }
  int capability() const { return capability_; }  // 90 for compute capability 9.0

  Buffer allocate(size_t bytes) { return Buffer(bytes); }
  size_t free_bytes() const;  // of the GPU's memory, for all that use it
  // The host memory may be reused when upload returns; the work issued before may still run.
  void upload(void* device, const void* host, size_t bytes);
  void download(void* host, const void* device, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  void zero(void* device, size_t bytes);
  void synchronize();

  // Scratch for the op that is being issued: at least `bytes`, 256-byte aligned, undefined content,
  // valid until the next call for the same. It grows, which moves it, outside of recordings only.
  std::byte* workspace(Workspace which, size_t bytes);
  // How often one has moved so far.
  int64_t workspace_moves() const { return workspace_moves_; }

  // Whether Graphs record at all (they do): off for comparison.
  void use_graphs(bool on) { uses_graphs_ = on; }
  bool uses_graphs() const { return uses_graphs_; }

  CudaMatmul& matmul() { return *matmul_; }

 private:
  bool recording() const;

  CUstream_st* stream_ = nullptr;
  std::string name_;
  int multiprocessors_ = 0, capability_ = 0;
  bool uses_graphs_ = true;
  std::array<Buffer, static_cast<size_t>(Workspace::count)> workspaces_;
  int64_t workspace_moves_ = 0;
  std::unique_ptr<CudaStaging> staging_;
  std::unique_ptr<CudaMatmul> matmul_;
};

}  // namespace fairway

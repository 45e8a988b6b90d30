// Work that is issued over and over with the same arguments. On a GPU it becomes CUDA graphs:
// launched as one, its kernels follow each other more closely, and the host is free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <vector>

#include "fairway/device/device.h"

struct CUgraphExec_st;

namespace fairway {

// Whatever the arguments of the work depend on: shapes, addresses, choices of the host.
using GraphKey = std::vector<int64_t>;

class CpuGraphs {
 public:
  CpuGraphs(CpuDevice&, size_t) {}
  template <class F>
  void run(const GraphKey&, F&& f) {
    f();
  }
};

class CudaGraphs {
 public:
  // Remembers the `most` keys that were used last. The device must outlive it.
  CudaGraphs(CudaDevice& device, size_t most) : device_(device), most_(most) {}
  ~CudaGraphs();
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;

  // Does what f() does, which issues work to the device's stream and nothing else: no uploads, no
  // downloads, no waiting. For one key it must be the same work, on the same memory, every time.
  // f is called the first time, which makes all that is made once, and the second time, to record
  // it; from then on the recording is launched instead. Where the GPU has no memory for recordings,
  // or device.use_graphs(false), f is called every time.
  void run(const GraphKey& key, const std::function<void()>& f);

 private:
  struct Entry {
    GraphKey key;
    CUgraphExec_st* graph = nullptr;
    int64_t workspace_moves = 0;  // of the device, when the graph was recorded
  };
  void forget(Entry& entry);
  bool record(Entry& entry, const std::function<void()>& f);

  CudaDevice& device_;
  size_t most_;
  std::list<Entry> entries_;  // used last first
};

}  // namespace fairway

#include <cuda_runtime_api.h>

#include <algorithm>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/graphs.h"

namespace fairway {

namespace {

struct Graph {
  cudaGraph_t value = nullptr;
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    if (value) cudaGraphDestroy(value);
  }
};

// What f issues to the stream, which does not run it.
void capture(cudaStream_t stream, const std::function<void()>& f, Graph& graph) {
  // Other threads, such as NCCL's, may do as they like meanwhile.
  cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
             "beginning to record a graph");
  try {
    f();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph.value);
    throw;
  }
  cuda_check(cudaStreamEndCapture(stream, &graph.value), "recording a graph");
}

}  // namespace

CudaGraphs::~CudaGraphs() {
  cudaStreamSynchronize(device_.stream());
  for (const Entry& entry : entries_)
    if (entry.graph) cudaGraphExecDestroy(entry.graph);
}

void CudaGraphs::forget(Entry& entry) {
  if (!entry.graph) return;
  device_.synchronize();  // it may be running
  cuda_check(cudaGraphExecDestroy(entry.graph), "freeing a graph");
  entry.graph = nullptr;
}

// False: the GPU has no memory for it.
bool CudaGraphs::record(Entry& entry, const std::function<void()>& f) {
  Graph graph;
  capture(device_.stream(), f, graph);
  cudaError_t status = cudaGraphInstantiate(&entry.graph, graph.value, 0);
  if (status == cudaSuccess) status = cudaGraphUpload(entry.graph, device_.stream());
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // or the next launch would report it
    return false;
  }
  cuda_check(status, "making a graph");
  entry.workspace_moves = device_.workspace_moves();
  return true;
}

void CudaGraphs::run(const GraphKey& key, const std::function<void()>& f) {
  if (most_ == 0 || !device_.uses_graphs()) return f();
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    f();
    if (entries_.size() == most_) {
      forget(entries_.back());
      entries_.pop_back();
    }
    entries_.push_front({key});
    return;
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  // The addresses of workspaces are among a recording's arguments.
  if (entry.workspace_moves != device_.workspace_moves()) forget(entry);
  if (!entry.graph && !record(entry, f)) {
    for (Entry& other : entries_) forget(other);
    entries_.clear();
    most_ = 0;
    return f();
  }
  cuda_check(cudaGraphLaunch(entry.graph, device_.stream()), "launching a graph");
}

}  // namespace fairway

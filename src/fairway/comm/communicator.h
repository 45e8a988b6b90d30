// What a training step exchanges between ranks: float32 tensors in the memory of each rank's
// device. Three bodies: one rank, MPI for CPUs, NCCL for GPUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "fairway/comm/process_group.h"
#include "fairway/device/device.h"

namespace fairway {

class Communicator {
 public:
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // An exchange under way. Its memory must be left alone until wait() has returned, which every
  // transfer needs exactly once. On a GPU, work issued before the start comes before the exchange
  // and work issued after wait() behind it; the host waits for neither.
  using Transfer = size_t;

  // All are collective: every rank starts the same transfers in the same order. Sums are the same
  // bits on every rank, and from run to run at the same number of ranks.

  // x [n] ← its sum over ranks.
  virtual Transfer all_reduce(float* x, int64_t n) = 0;

  // x [n] is cut into slices of `slice` elements, rank r's being [r·slice, (r+1)·slice); the last
  // ones end at n, and may be empty. slice·size() ≥ n.

  // This rank's slice ← its sum over ranks; the rest of x is undefined afterwards.
  virtual Transfer reduce_scatter(float* x, int64_t n, int64_t slice) = 0;
  // Every other slice ← what it is on its own rank.
  virtual Transfer all_gather(float* x, int64_t n, int64_t slice) = 0;

  virtual void wait(Transfer transfer) = 0;

 protected:
  int rank_ = 0, size_ = 1;
};

// One rank: nothing to exchange.
std::unique_ptr<Communicator> make_single_communicator();

// `group` (and a GPU) must outlive the result. Collective. On GPUs of more than one rank it loads
// NCCL's library, and throws Error if there is none.
std::unique_ptr<Communicator> make_communicator(CpuDevice& device, ProcessGroup& group);
std::unique_ptr<Communicator> make_communicator(CudaDevice& device, ProcessGroup& group);

}  // namespace fairway

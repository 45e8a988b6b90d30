#include "fairway/comm/nccl_communicator.h"

#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"

#if FAIRWAY_WITH_NCCL

#include <dlfcn.h>
#include <nccl.h>

#include <algorithm>
#include <exception>
#include <vector>

namespace fairway {

namespace {

// NCCL is loaded when the first run on several GPUs starts: nothing else needs it installed.
class NcclLibrary {
 public:
  NcclLibrary() : handle_(dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL)) {
    require(
        handle_,
        "several GPUs exchange through NCCL, which cannot be loaded ({}): install it (libnccl2, "
        "or nvidia-nccl-cu13 from PyPI) and let LD_LIBRARY_PATH name its folder",
        dlerror());
    load(get_unique_id, "ncclGetUniqueId");
    load(comm_init_rank, "ncclCommInitRank");
    load(comm_destroy, "ncclCommDestroy");
    load(comm_abort, "ncclCommAbort");
    load(error_string, "ncclGetErrorString");
    load(group_start, "ncclGroupStart");
    load(group_end, "ncclGroupEnd");
    load(all_reduce, "ncclAllReduce");
    load(reduce_scatter, "ncclReduceScatter");
    load(all_gather, "ncclAllGather");
    load(reduce, "ncclReduce");
    load(broadcast, "ncclBroadcast");
  }
  // Never unloaded: its threads may outlive the last communicator.

  void check(ncclResult_t status, const char* what) const {
    require(status == ncclSuccess, "NCCL: {}: {}", what, error_string(status));
  }

  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRank) comm_init_rank;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclReduce) reduce;
  decltype(&ncclBroadcast) broadcast;

 private:
  template <class F>
  void load(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(handle_, name));
    require(function, "libnccl.so.2 lacks {}: install a newer NCCL", name);
  }

  void* handle_;
};

// A stream of its own, so that exchanges run beside the device's kernels; events order the two.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(CudaDevice& device, ProcessGroup& group) : device_(device) {
    rank_ = group.rank();
    size_ = group.size();
    ncclUniqueId id{};
    if (group.root()) nccl_.check(nccl_.get_unique_id(&id), "making an id");
    id = group.broadcast(id);
    nccl_.check(nccl_.comm_init_rank(&comm_, size_, id, rank_), "connecting the ranks");
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  }
  ~NcclCommunicator() override {
    // All ranks come here together, but a rank that failed is alone: it gives up what is under way,
    // which nobody will join, and is about to end the others.
    if (std::uncaught_exceptions() > exceptions_) {
      nccl_.comm_abort(comm_);
    } else {
      cudaStreamSynchronize(stream_);
      nccl_.comm_destroy(comm_);
    }
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaStreamDestroy(stream_);
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  Transfer all_reduce(float* x, int64_t n) override {
    return exchange("all-reduce", [&] {
      return nccl_.all_reduce(x, x, static_cast<size_t>(n), ncclFloat, ncclSum, comm_, stream_);
    });
  }

  Transfer reduce_scatter(float* x, int64_t n, int64_t slice) override {
    return exchange("reduce-scatter", [&] {
      if (n == slice * size_)
        return nccl_.reduce_scatter(x, x + rank_ * slice, static_cast<size_t>(slice), ncclFloat,
                                    ncclSum, comm_, stream_);
      return for_each_slice(x, n, slice, [&](float* at, size_t count, int owner) {
        return nccl_.reduce(at, at, count, ncclFloat, ncclSum, owner, comm_, stream_);
      });
    });
  }

  Transfer all_gather(float* x, int64_t n, int64_t slice) override {
    return exchange("all-gather", [&] {
      if (n == slice * size_)
        return nccl_.all_gather(x + rank_ * slice, x, static_cast<size_t>(slice), ncclFloat, comm_,
                                stream_);
      return for_each_slice(x, n, slice, [&](float* at, size_t count, int owner) {
        return nccl_.broadcast(at, at, count, ncclFloat, owner, comm_, stream_);
      });
    });
  }

  void wait(Transfer transfer) override {
    cuda_check(cudaStreamWaitEvent(device_.stream(), events_[transfer]), "waiting for an exchange");
    free_.push_back(transfer);
  }

 private:
  template <class F>
  Transfer exchange(const char* what, F&& issue) {
    const Transfer transfer = take_event();
    cudaEvent_t event = events_[transfer];
    cuda_check(cudaEventRecord(event, device_.stream()), what);
    cuda_check(cudaStreamWaitEvent(stream_, event), what);
    nccl_.check(issue(), what);
    cuda_check(cudaEventRecord(event, stream_), what);
    return transfer;
  }

  // Slices of unequal size: one collective each, issued as one.
  template <class F>
  ncclResult_t for_each_slice(float* x, int64_t n, int64_t slice, F&& issue) {
    ncclResult_t worst = nccl_.group_start();
    for (int owner = 0; owner < size_; ++owner) {
      const int64_t begin = std::min(owner * slice, n), end = std::min(begin + slice, n);
      if (begin == end) break;
      const ncclResult_t status = issue(x + begin, static_cast<size_t>(end - begin), owner);
      if (worst == ncclSuccess) worst = status;
    }
    const ncclResult_t status = nccl_.group_end();
    return worst == ncclSuccess ? status : worst;
  }

  Transfer take_event() {
    if (free_.empty()) {
      free_.push_back(events_.size());
      events_.emplace_back();
      cuda_check(cudaEventCreateWithFlags(&events_.back(), cudaEventDisableTiming),
                 "making an event");
    }
    const Transfer transfer = free_.back();
    free_.pop_back();
    return transfer;
  }

  CudaDevice& device_;
  NcclLibrary nccl_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  int exceptions_ = std::uncaught_exceptions();
  std::vector<cudaEvent_t> events_;
  std::vector<Transfer> free_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(CudaDevice& device, ProcessGroup& group) {
  return std::make_unique<NcclCommunicator>(device, group);
}

}  // namespace fairway

#else

namespace fairway {

std::unique_ptr<Communicator> make_nccl_communicator(CudaDevice&, ProcessGroup& group) {
  fail(
      "{} ranks on GPUs exchange through NCCL, and the program was built without its header: "
      "install libnccl-dev (or nvidia-nccl-cu13 from PyPI) and build it again",
      group.size());
}

}  // namespace fairway

#endif

namespace fairway {

std::unique_ptr<Communicator> make_communicator(CudaDevice& device, ProcessGroup& group) {
  return group.size() == 1 ? make_single_communicator() : make_nccl_communicator(device, group);
}

}  // namespace fairway

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "fairway/base/check.h"
#include "fairway/comm/mpi.h"

namespace fairway {

namespace {

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const ProcessGroup& group) {
    rank_ = group.rank();
    size_ = group.size();
  }

  Transfer all_reduce(float* x, int64_t n) override {
    Pending& p = start();
    MPI_Iallreduce(MPI_IN_PLACE, x, count(n), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &p.request);
    return pending_.size() - 1;
  }

  Transfer reduce_scatter(float* x, int64_t n, int64_t slice) override {
    Pending& p = start();
    cut(p, n, slice);
    // In place, the result lies at the beginning of the buffer: it moves to its slice in wait().
    p.x = x;
    MPI_Ireduce_scatter(MPI_IN_PLACE, x, p.counts.data(), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD,
                        &p.request);
    return pending_.size() - 1;
  }

  Transfer all_gather(float* x, int64_t n, int64_t slice) override {
    Pending& p = start();
    cut(p, n, slice);
    MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, p.counts.data(), p.begins.data(),
                    MPI_FLOAT, MPI_COMM_WORLD, &p.request);
    return pending_.size() - 1;
  }

  void wait(Transfer transfer) override {
    Pending& p = *pending_[transfer];
    MPI_Wait(&p.request, MPI_STATUS_IGNORE);
    if (p.x) {
      const auto own = static_cast<size_t>(rank_);
      std::memmove(p.x + p.begins[own], p.x, static_cast<size_t>(p.counts[own]) * sizeof(float));
    }
    p.done = true;
    while (!pending_.empty() && pending_.back()->done) pending_.pop_back();
  }

 private:
  // MPI reads the lists while the transfer is under way: they must stay where they are.
  struct Pending {
    MPI_Request request = MPI_REQUEST_NULL;
    std::vector<int> counts, begins;  // [ranks] of each slice
    float* x = nullptr;               // of a reduce_scatter
    bool done = false;
  };

  Pending& start() {
    pending_.push_back(std::make_unique<Pending>());
    return *pending_.back();
  }

  static int count(int64_t n) {
    check(n >= 0 && n <= std::numeric_limits<int>::max(), "MpiCommunicator: elements of a tensor");
    return static_cast<int>(n);
  }

  void cut(Pending& p, int64_t n, int64_t slice) const {
    check(slice * size_ >= n, "MpiCommunicator: slices");
    for (int r = 0; r < size_; ++r) {
      const int64_t begin = std::min(r * slice, n), end = std::min(begin + slice, n);
      p.begins.push_back(count(begin));
      p.counts.push_back(count(end - begin));
    }
  }

  std::vector<std::unique_ptr<Pending>> pending_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const ProcessGroup& group) {
  return std::make_unique<MpiCommunicator>(group);
}

}  // namespace fairway

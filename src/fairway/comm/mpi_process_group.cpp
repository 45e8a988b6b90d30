#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <exception>

#include "fairway/base/check.h"
#include "fairway/comm/mpi.h"

// MPI's errors end the program (MPI_ERRORS_ARE_FATAL, its default): no status is checked here.

namespace fairway {

namespace {

// MPI counts in int.
constexpr size_t kPiece = size_t{1} << 30;

// f(begin, count) over [0, n) in pieces that an int can count.
template <class F>
void for_each_piece(size_t n, F&& f) {
  for (size_t begin = 0; begin < n; begin += kPiece)
    f(begin, static_cast<int>(std::min(kPiece, n - begin)));
}

template <class T>
void sum_over_ranks(std::span<T> values, MPI_Datatype type) {
  for_each_piece(values.size(), [&](size_t begin, int count) {
    MPI_Allreduce(MPI_IN_PLACE, values.data() + begin, count, type, MPI_SUM, MPI_COMM_WORLD);
  });
}

// Of the cores that any rank on the host may run on, an even share, as far as this rank may use it.
int share_of_cores(MPI_Comm host, int ranks) {
  cpu_set_t own, any;
  CPU_ZERO(&own);
  sched_getaffinity(0, sizeof own, &own);
  MPI_Allreduce(&own, &any, sizeof own, MPI_BYTE, MPI_BOR, host);
  return std::max(1, std::min(CPU_COUNT(&own), CPU_COUNT(&any) / ranks));
}

// A counter in rank 0's memory that the others add to without its help.
class MpiQueue final : public SharedQueue {
 public:
  MpiQueue() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    const MPI_Aint bytes = rank == 0 ? sizeof(int64_t) : 0;
    int64_t* counter = nullptr;
    MPI_Win_allocate(bytes, sizeof(int64_t), MPI_INFO_NULL, MPI_COMM_WORLD, &counter, &window_);
    MPI_Win_lock_all(0, window_);
    if (rank == 0) {
      *counter = 0;
      MPI_Win_sync(window_);
    }
    MPI_Barrier(MPI_COMM_WORLD);
  }
  ~MpiQueue() override {
    // Collective, but a rank that failed is here alone: it is about to end the others.
    if (std::uncaught_exceptions() > exceptions_) return;
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }
  MpiQueue(const MpiQueue&) = delete;
  MpiQueue& operator=(const MpiQueue&) = delete;

  int64_t next() override {
    const int64_t one = 1;
    int64_t before = 0;
    MPI_Fetch_and_op(&one, &before, MPI_INT64_T, 0, 0, MPI_SUM, window_);
    MPI_Win_flush(0, window_);
    return before;
  }
  void poll() override {
    int arrived = 0;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &arrived, MPI_STATUS_IGNORE);
  }

 private:
  MPI_Win window_ = MPI_WIN_NULL;
  int exceptions_ = std::uncaught_exceptions();
};

class MpiProcessGroup final : public ProcessGroup {
 public:
  MpiProcessGroup() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &local_rank_);
    MPI_Comm_size(host, &local_size_);
    local_threads_ = share_of_cores(host, local_size_);
    MPI_Comm_free(&host);
  }
  ~MpiProcessGroup() override { MPI_Finalize(); }
  MpiProcessGroup(const MpiProcessGroup&) = delete;
  MpiProcessGroup& operator=(const MpiProcessGroup&) = delete;

  void broadcast(std::span<std::byte> bytes) override {
    for_each_piece(bytes.size(), [&](size_t begin, int count) {
      MPI_Bcast(bytes.data() + begin, count, MPI_BYTE, 0, MPI_COMM_WORLD);
    });
  }

  void sum(std::span<double> values) override { sum_over_ranks(values, MPI_DOUBLE); }
  void sum(std::span<float> values) override { sum_over_ranks(values, MPI_FLOAT); }

  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes) override {
    if (!root()) {
      send(0, bytes);
      return {};
    }
    std::vector<std::vector<std::byte>> all;
    all.emplace_back(bytes.begin(), bytes.end());
    for (int from = 1; from < size_; ++from) all.push_back(receive(from));
    return all;
  }

  void send(int to, std::span<const std::byte> bytes) override {
    const uint64_t size = bytes.size();
    MPI_Send(&size, 1, MPI_UINT64_T, to, 0, MPI_COMM_WORLD);
    for_each_piece(bytes.size(), [&](size_t begin, int count) {
      MPI_Send(bytes.data() + begin, count, MPI_BYTE, to, 0, MPI_COMM_WORLD);
    });
  }

  std::vector<std::byte> receive(int from) override {
    std::vector<std::byte> bytes(size_of_next(from));
    receive_bytes(from, bytes);
    return bytes;
  }
  void receive(int from, std::span<std::byte> bytes) override {
    check(size_of_next(from) == bytes.size(), "receive: a message of another size");
    receive_bytes(from, bytes);
  }

  std::unique_ptr<SharedQueue> make_queue() override { return std::make_unique<MpiQueue>(); }

  void abort(int status) override { MPI_Abort(MPI_COMM_WORLD, status); }

 private:
  static size_t size_of_next(int from) {
    uint64_t size = 0;
    MPI_Recv(&size, 1, MPI_UINT64_T, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return size;
  }
  static void receive_bytes(int from, std::span<std::byte> bytes) {
    for_each_piece(bytes.size(), [&](size_t begin, int count) {
      MPI_Recv(bytes.data() + begin, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    });
  }
};

}  // namespace

std::unique_ptr<ProcessGroup> make_mpi_process_group() {
  return std::make_unique<MpiProcessGroup>();
}

}  // namespace fairway

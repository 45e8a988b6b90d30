// The processes of one run: one alone, or the ranks that mpirun or srun started together. This is
// what they say to each other from host memory; the tensors of a training step travel through
// comm/communicator.h.
//
// Collective calls are made by every rank, in the same order, from its main thread. A rank that
// fails does not return from here to the others: main() prints its message and calls abort().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "fairway/base/check.h"

namespace fairway {

// What every rank throws alike: it is rank 0's to say.
class SharedError : public Error {
 public:
  using Error::Error;
};

// The numbers 0, 1, 2, … handed out once each, to whichever rank asks next.
class SharedQueue {
 public:
  virtual ~SharedQueue() = default;
  // Not collective.
  virtual int64_t next() = 0;
  // Lets other ranks' questions through where the network does not do so by itself; to be called
  // now and then during long work.
  virtual void poll() {}
};

class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool root() const { return rank_ == 0; }
  // Among the ranks on this host.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  // `asked`, or if that is 0 the cores of this host that fall to this rank, shared evenly where the
  // launcher has not bound the ranks to their own; 0 for one process alone, which takes what it
  // likes.
  int threads(int asked) const { return asked > 0 ? asked : local_threads_; }

  // Rank 0's bytes, on every rank. Collective.
  virtual void broadcast(std::span<std::byte> bytes) = 0;
  template <class T>
  requires std::is_trivially_copyable_v<T> T broadcast(T value) {
    broadcast(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  // values ← their sums over ranks: the same bits on every rank, and again at the same number of
  // ranks. Collective.
  virtual void sum(std::span<double> values) = 0;
  virtual void sum(std::span<float> values) = 0;
  // Every rank's bytes at rank 0, by rank; an empty list elsewhere. Collective.
  virtual std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes) = 0;

  // From one rank to another; messages between two ranks keep their order.
  virtual void send(int to, std::span<const std::byte> bytes) = 0;
  virtual std::vector<std::byte> receive(int from) = 0;
  // A message of that size, to where it belongs.
  virtual void receive(int from, std::span<std::byte> bytes) = 0;

  // Collective.
  virtual std::unique_ptr<SharedQueue> make_queue() = 0;

  // Ends all ranks with this exit status. Returns where there is only one: its caller then ends it.
  virtual void abort(int status) = 0;

 protected:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, local_threads_ = 0;
};

// One process alone.
std::unique_ptr<ProcessGroup> make_single_process();

// The ranks that an MPI launcher started with this one, or one process alone where none did: the
// launchers leave their marks in the environment. To be called once, before other threads start;
// the process group must be destroyed before the process ends. Throws Error under a launcher if the
// program was built without MPI.
std::unique_ptr<ProcessGroup> join_process_group();

// What to add to a refusal that could come of the processes of one launch that do not see one
// another: launched under srun without PMIx, each is a group of one. Empty where nothing hints at
// that.
std::string launch_hint(const ProcessGroup& group);

}  // namespace fairway

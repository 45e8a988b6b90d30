// Which rank updates what, and the exchanges that this takes (SPEC §4, step 2).
//
// The matrix banks are cut along their first dimension into slices of ⌈matrices/P⌉ matrices: rank r
// sums, updates and keeps optimizer state for slice r of each bank, and the updated matrices come
// together on all ranks. What lies behind the banks in the flat buffer (embedding, head, vectors)
// is summed in one exchange and updated by every rank alike.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fairway/comm/communicator.h"
#include "fairway/model/config.h"

namespace fairway {

// One bank [matrices, rows, cols] and this rank's slice of it. Offsets count elements.
struct BankSlice {
  int64_t flat = 0;              // where the bank starts in the flat buffer
  int64_t matrices = 0;          // of the bank
  int64_t rows = 0, cols = 0;    // of a matrix
  int64_t slice = 0;             // matrices in each slice but the last ones
  int64_t first = 0, count = 0;  // of this rank's slice; there may be none
  int64_t state = 0;             // where its elements start in the rank's optimizer state

  int64_t matrix() const { return rows * cols; }
  int64_t own() const { return flat + first * matrix(); }  // in the flat buffer
};

// A part of the flat buffer that this rank keeps state for: [flat, flat + size), at `state` there.
struct OwnRun {
  int64_t flat = 0, state = 0, size = 0;
};

// What rank `rank` of `ranks` keeps. State has the order of the flat buffer, with alignment gaps
// (zeros) like it: for one rank it is the flat buffer's own layout.
struct Shard {
  Shard(const ModelConfig& model, int rank, int ranks);

  std::vector<BankSlice> banks;
  int64_t bank_elements = 0;             // of state that banks have
  int64_t rest_flat = 0, rest_size = 0;  // what lies behind the banks: state for all of it
  int64_t size() const { return bank_elements + rest_size; }

  // Adjacent parts joined: for one rank, the whole buffer.
  std::vector<OwnRun> runs() const;
};

// The exchanges of one step, each started as early and waited for as late as can be.
class Sharding {
 public:
  Sharding(const ModelConfig& model, std::unique_ptr<Communicator> comm);

  const Shard& shard() const { return shard_; }

  // Starts summing the flat gradients over ranks.
  void start_reduce(float* gradients);
  // Until the slice of bank `i`, or what lies behind the banks, holds its sum. May be called again.
  void wait_bank(size_t i);
  void wait_rest();
  void wait_reduced();

  // Starts bringing bank `i` of the flat weights together from its slices.
  void start_gather(size_t i, float* weights);
  void wait_gathered();

 private:
  struct Pending {
    Communicator::Transfer transfer = 0;
    bool under_way = false;
  };
  void wait(Pending& pending);

  std::unique_ptr<Communicator> comm_;
  Shard shard_;
  std::vector<Pending> reducing_, gathering_;  // [banks]
  Pending reducing_rest_;
};

}  // namespace fairway

#include "fairway/optim/sharding.h"

#include <algorithm>
#include <utility>

#include "fairway/model/weights.h"

namespace fairway {

Shard::Shard(const ModelConfig& model, int rank, int ranks) {
  int64_t flat = 0;
  for_each(weights_view<float>(model, nullptr),
           [&](const char*, ParamGroup group, Tensor<float> w) {
             if (group != ParamGroup::bank) return;
             BankSlice b;
             b.flat = flat;
             b.matrices = w.extent(0), b.rows = w.extent(1), b.cols = w.extent(2);
             b.slice = (b.matrices + ranks - 1) / ranks;
             b.first = std::min(rank * b.slice, b.matrices);
             b.count = std::min(b.slice, b.matrices - b.first);
             b.state = bank_elements;
             flat += flat_aligned(w.size());
             bank_elements += flat_aligned(b.count * b.matrix());
             banks.push_back(b);
           });
  rest_flat = flat;
  rest_size = flat_size(model) - flat;
}

std::vector<OwnRun> Shard::runs() const {
  std::vector<OwnRun> runs;
  const auto add = [&](const OwnRun& run) {
    if (run.size == 0) return;
    // Only alignment gaps lie between neighbours that are as far apart in both.
    if (!runs.empty() && run.flat - runs.back().flat == run.state - runs.back().state)
      runs.back().size = run.flat + run.size - runs.back().flat;
    else
      runs.push_back(run);
  };
  for (const BankSlice& b : banks) add({b.own(), b.state, b.count * b.matrix()});
  add({rest_flat, bank_elements, rest_size});
  return runs;
}

Sharding::Sharding(const ModelConfig& model, std::unique_ptr<Communicator> comm)
    : comm_(std::move(comm)),
      shard_(model, comm_->rank(), comm_->size()),
      reducing_(shard_.banks.size()),
      gathering_(shard_.banks.size()) {}

void Sharding::start_reduce(float* gradients) {
  for (size_t i = 0; i < shard_.banks.size(); ++i) {
    const BankSlice& b = shard_.banks[i];
    reducing_[i] = {
        comm_->reduce_scatter(gradients + b.flat, b.matrices * b.matrix(), b.slice * b.matrix()),
        true};
  }
  reducing_rest_ = {comm_->all_reduce(gradients + shard_.rest_flat, shard_.rest_size), true};
}

void Sharding::wait(Pending& pending) {
  if (pending.under_way) comm_->wait(pending.transfer);
  pending.under_way = false;
}

void Sharding::wait_bank(size_t i) {
  wait(reducing_[i]);
}

void Sharding::wait_rest() {
  wait(reducing_rest_);
}

void Sharding::wait_reduced() {
  for (Pending& pending : reducing_) wait(pending);
  wait_rest();
}

void Sharding::start_gather(size_t i, float* weights) {
  const BankSlice& b = shard_.banks[i];
  gathering_[i] = {
      comm_->all_gather(weights + b.flat, b.matrices * b.matrix(), b.slice * b.matrix()), true};
}

void Sharding::wait_gathered() {
  for (Pending& pending : gathering_) wait(pending);
}

}  // namespace fairway

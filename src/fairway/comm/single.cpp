#include "fairway/base/check.h"
#include "fairway/comm/communicator.h"

namespace fairway {

namespace {

class SingleQueue final : public SharedQueue {
 public:
  int64_t next() override { return next_++; }

 private:
  int64_t next_ = 0;
};

class SingleProcess final : public ProcessGroup {
 public:
  void broadcast(std::span<std::byte>) override {}
  void sum(std::span<double>) override {}
  void sum(std::span<float>) override {}
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes) override {
    return {{bytes.begin(), bytes.end()}};
  }
  void send(int, std::span<const std::byte>) override { check(false, "send: one rank alone"); }
  std::vector<std::byte> receive(int) override {
    check(false, "receive: one rank alone");
    return {};
  }
  void receive(int, std::span<std::byte>) override { check(false, "receive: one rank alone"); }
  std::unique_ptr<SharedQueue> make_queue() override { return std::make_unique<SingleQueue>(); }
  void abort(int) override {}
};

class SingleCommunicator final : public Communicator {
 public:
  Transfer all_reduce(float*, int64_t) override { return 0; }
  Transfer reduce_scatter(float*, int64_t, int64_t) override { return 0; }
  Transfer all_gather(float*, int64_t, int64_t) override { return 0; }
  void wait(Transfer) override {}
};

}  // namespace

std::unique_ptr<ProcessGroup> make_single_process() {
  return std::make_unique<SingleProcess>();
}

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace fairway

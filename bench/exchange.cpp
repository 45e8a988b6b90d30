#include "exchange.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/comm/communicator.h"
#include "fairway/model/weights.h"
#include "fairway/optim/sharding.h"
#include "machine.h"
#include "timer.h"

namespace fairway::bench {

namespace {

// Every rank must start each exchange as often: counts are fixed, not measured.
constexpr int kSeries = 5;

template <class Device>
class Exchanges {
 public:
  Exchanges(Device& device, const ExchangeOptions& o)
      : device_(device),
        group_(*o.group),
        comm_(make_communicator(device, group_)),
        elements_(flat_size(o.model)),
        memory_(device.allocate(static_cast<size_t>(elements_) * sizeof(float))),
        x_(reinterpret_cast<float*>(memory_.data())) {
    // No rank's are another's. Summed again and again they end as infinities, which take as long.
    std::vector<float> values(static_cast<size_t>(elements_));
    const Philox rng(7, static_cast<uint64_t>(group_.rank()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = 1e-30f * (1 + static_cast<float>(rng.below(i, 1 << 20)) * 0x1p-20f);
    device.upload(x_, values.data(), values.size() * sizeof(float));
  }

  // `slice`: elements of each rank's but the last; 0: shared evenly.
  double seconds(Collective kind, double bytes, int64_t slice = 0) {
    const auto n = static_cast<int64_t>(bytes / sizeof(float));
    if (slice == 0) slice = (n + group_.size() - 1) / group_.size();
    return seconds_of([&] {
      switch (kind) {
        case Collective::reduce_scatter:
          return comm_->wait(comm_->reduce_scatter(x_, n, slice));
        case Collective::all_gather:
          return comm_->wait(comm_->all_gather(x_, n, slice));
        case Collective::all_reduce:
          return comm_->wait(comm_->all_reduce(x_, n));
      }
    });
  }

  double step_seconds(const ModelConfig& model) {
    Sharding sharding(model, make_communicator(device_, group_));
    return seconds_of([&] {
      sharding.start_reduce(x_);
      sharding.wait_reduced();
      for (size_t i = 0; i < sharding.shard().banks.size(); ++i) sharding.start_gather(i, x_);
      sharding.wait_gathered();
    });
  }

  int64_t elements() const { return elements_; }

 private:
  template <class F>
  double seconds_of(F&& exchange) {
    constexpr int each = std::is_same_v<Device, CpuDevice> ? 2 : 10;
    std::vector<double> means;
    for (int i = 0; i <= kSeries; ++i) {
      device_.synchronize();
      group_.broadcast(true);
      const double start = seconds_now();
      for (int j = 0; j < each; ++j) exchange();
      device_.synchronize();
      if (i > 0) means.push_back((seconds_now() - start) / each);  // the first warms up
    }
    return median(means);
  }

  Device& device_;
  ProcessGroup& group_;
  std::unique_ptr<Communicator> comm_;
  int64_t elements_;
  typename Device::Buffer memory_;
  float* x_;
};

template <class Device>
ExchangeFigures run(Device& device, const ExchangeOptions& o) {
  const int P = o.group->size();
  Exchanges<Device> exchanges(device, o);
  ExchangeFigures f;
  f.device = device.name();
  const auto measure = [&](Exchange e, int64_t slice = 0) {
    e.seconds = exchanges.seconds(e.kind, e.bytes, slice);
    return e;
  };
  const StepExchanges step = step_exchanges(o.model, ClipMode::per_rank, {}, P);
  // Ranks own whole matrices: slices may be uneven, which takes other collectives.
  const Shard shard(o.model, o.group->rank(), P);
  for (const auto* list : {&step.reduce_banks, &step.gather_banks})
    for (size_t i = 0; i < list->size(); ++i)
      f.of_step.push_back(measure((*list)[i], shard.banks[i].slice * shard.banks[i].matrix()));
  f.of_step.insert(f.of_step.begin() + std::ssize(step.reduce_banks), measure(step.reduce_rest));
  f.step_seconds = exchanges.step_seconds(o.model);

  const double all = static_cast<double>(exchanges.elements()) * sizeof(float);
  for (double bytes = 1 << 12; bytes < all; bytes *= 16)
    f.by_size.push_back(measure({"by size", Collective::all_reduce, bytes,
                                 bytes_sent(Collective::all_reduce, bytes, P), 0}));
  f.by_size.push_back(measure(
      {"by size", Collective::all_reduce, all, bytes_sent(Collective::all_reduce, all, P), 0}));

  // t = launch + rounds·(P − 1)·latency + sent/bandwidth: launch and latency from the smallest
  // all-reduce and a reduce-scatter of that size, bandwidth from the largest. No time is nothing.
  const Exchange &least = f.by_size.front(), &most = f.by_size.back();
  const double one_round = exchanges.seconds(Collective::reduce_scatter, least.bytes);
  f.links.ranks_per_node = P;
  constexpr double kLeast = 1e-7;
  f.links.node_latency = std::max((least.seconds - one_round) / (P - 1), kLeast);
  f.links.launch = std::max(one_round - f.links.node_latency * (P - 1), kLeast);
  f.links.node_bandwidth =
      (most.sent - least.sent) / std::max(most.seconds - least.seconds, kLeast);
  return f;
}

}  // namespace

ExchangeFigures bench_exchange(const ExchangeOptions& o) {
  return with_device(o.device, [&]<class Device, class T>(Device& device, std::type_identity<T>) {
    return run(device, o);
  });
}

}  // namespace fairway::bench

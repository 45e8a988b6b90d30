#include "fairway/eval/score_windows.h"

#include <algorithm>
#include <numeric>

#include "fairway/device/run_types.h"
#include "fairway/eval/pass.h"

namespace fairway {

template <class Device, class T>
void score_windows(Device& device, const Network& net, const Weights<const T>& weights,
                   const TokenStream& stream, std::span<const Window> windows, int64_t pass_tokens,
                   E4m3Mlp mlp, std::span<float> nll, const ScoreProgress& progress) {
  const auto groups =
      group_windows(windows, pass_tokens > 0 ? pass_tokens : kPassTokens<Device, T>);
  typename Pass<Device, T>::Capacity capacity{.mlp = mlp};
  for (const WindowGroup& g : groups) {
    capacity.rows = std::max(capacity.rows, g.rows);
    capacity.scored = std::max(capacity.scored, g.scored);
    capacity.windows = std::max(capacity.windows, static_cast<int64_t>(g.last - g.first));
  }
  if (groups.empty()) return;
  Pass<Device, T> pass(device, net, weights, capacity);
  for (const WindowGroup& g : groups) {
    const auto members = windows.subspan(g.first, g.last - g.first);
    const auto scored = pass.run(stream, members, nullptr);
    auto from = scored.begin();
    for (const Window& w : members) {
      std::copy_n(from, w.scored(), nll.begin() + w.score_from);
      from += w.scored();
    }
    progress(g.scored, std::accumulate(scored.begin(), scored.end(), 0.0));
  }
}

#define FAIRWAY_INSTANTIATE(Device, T)                                                       \
  template void score_windows(Device&, const Network&, const Weights<const T>&,              \
                              const TokenStream&, std::span<const Window>, int64_t, E4m3Mlp, \
                              std::span<float>, const ScoreProgress&);
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

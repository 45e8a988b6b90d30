#include "fairway/model/route.h"

#include <gtest/gtest.h>

#include "fairway/model/weights.h"

namespace fairway {
namespace {

// Half of the visits store what they make, and each stored output is mixed in once.
TEST(Route, UsesEverySkipWeightOnce) {
  ModelConfig c;
  for (c.num_layers = 1; c.num_layers < 9; ++c.num_layers)
    for (c.num_loops = 0; c.num_loops < 4; ++c.num_loops)
      for (c.loop_start = 0; c.loop_start < c.num_layers; ++c.loop_start)
        for (c.loop_end = c.loop_start; c.loop_end < c.num_layers; ++c.loop_end) {
          const Route route = make_route(c, /*looped=*/true);
          ASSERT_EQ(num_skip_weights(c), static_cast<int>(route.size() / 2));
          std::vector<int> uses(route.size() / 2);
          for (const Visit& visit : route)
            if (visit.skip >= 0) ++uses.at(static_cast<size_t>(visit.skip));
          EXPECT_EQ(uses, std::vector<int>(uses.size(), 1));
        }
}

}  // namespace
}  // namespace fairway

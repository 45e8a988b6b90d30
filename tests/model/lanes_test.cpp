// What the two lanes end in: gradients agree with themselves whichever lane it is.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fairway/model/model.h"
#include "support/model_run.h"
#include "support/small_model.h"

namespace fairway {
namespace {

TEST(Lanes, EndInWhatTheConfigurationSays) {
  ModelConfig config = testing::small_model(/*vocab_size=*/11);
  config.num_loops = 0;
  config.parallel_start_layer = 2;  // two layers in lanes: they enter the last one apart
  for (const FinalLane lane : {FinalLane::mean, FinalLane::mlp, FinalLane::attn}) {
    config.parallel_final_lane = lane;
    config.validate();
    const std::vector<double> params = testing::random_params(config);
    const auto weights = weights_view(config, params.data());
    CpuDevice device(1);
    testing::ModelRun<double> run(device, config, /*looped=*/false, {1, 4, 9, 2, 3},
                                  {4, 9, 2, 3, 1}, {0, 5});
    run.loss(weights);

    const auto& last = run.acts.visits.back();
    const int layer = run.net.route.back().layer;
    const auto to_lane = weights.parallel_post_lambdas.slice(layer);
    const auto of_lane = weights.parallel_resid_lambdas.slice(layer);
    for (int64_t i = 0; i < last.x.size(); ++i) {
      double out[2], size = 0;
      for (int j = 0; j < 2; ++j) {
        const double terms[3] = {of_lane[j] * (j == 0 ? last.x[i] : last.lane1[i]),
                                 to_lane[j] * last.a[i], to_lane[2 + j] * last.m[i]};
        out[j] = terms[0] + terms[1] + terms[2];
        for (const double term : terms) size += std::fabs(term);
      }
      const double want = lane == FinalLane::mean  ? (out[0] + out[1]) / 2
                          : lane == FinalLane::mlp ? out[1]
                                                   : out[0];
      // No more than eight roundings on either way.
      EXPECT_NEAR(run.acts.final_x[i], want, 16 * 0x1p-53 * size) << static_cast<int>(lane);
    }
  }
}

}  // namespace
}  // namespace fairway

#include "fairway/plan/exchange.h"

#include <gtest/gtest.h>

#include "fairway/model/weights.h"
#include "small_run.h"

namespace fairway {
namespace {

TEST(Exchange, RingVolumes) {
  EXPECT_DOUBLE_EQ(bytes_sent(Collective::reduce_scatter, 1200, 4), 900);
  EXPECT_DOUBLE_EQ(bytes_sent(Collective::all_gather, 1200, 4), 900);
  EXPECT_DOUBLE_EQ(bytes_sent(Collective::all_reduce, 1200, 4), 1800);
  EXPECT_DOUBLE_EQ(bytes_sent(Collective::all_reduce, 1200, 1), 0);
}

TEST(Exchange, SecondsInOneNodeAndOverANetwork) {
  const Links links{.ranks_per_node = 4,
                    .node_bandwidth = 1000,
                    .node_latency = 1,
                    .network_bandwidth = 100,
                    .network_latency = 10,
                    .launch = 0.5};
  EXPECT_EQ(exchange_seconds(links, Collective::all_reduce, 1200, 1), 0);
  // Three steps inside the node, 900 bytes.
  EXPECT_DOUBLE_EQ(exchange_seconds(links, Collective::all_gather, 1200, 4), 0.5 + 3 + 0.9);
  EXPECT_DOUBLE_EQ(exchange_seconds(links, Collective::all_reduce, 1200, 4), 0.5 + 6 + 1.8);
  // Six ranks are two nodes of three, whose adapters carry 300 bytes a second together: four steps
  // inside nodes, one between them, 1000 bytes.
  EXPECT_EQ(links.nodes(6), 2);
  EXPECT_DOUBLE_EQ(exchange_seconds(links, Collective::reduce_scatter, 1200, 6),
                   0.5 + 4 + 10 + 1000 / 300.0);
  // Nine are three nodes. However many adapters there are, a rank's own link is the limit.
  EXPECT_EQ(links.nodes(9), 3);
  Links fast = links;
  fast.network_bandwidth = 1e9;
  EXPECT_DOUBLE_EQ(exchange_seconds(fast, Collective::reduce_scatter, 1200, 6), 0.5 + 4 + 10 + 1);
}

TEST(Exchange, OfAStep) {
  const StepExchanges e = step_exchanges(small_model(), ClipMode::per_rank, Links{}, 4);
  ASSERT_EQ(e.reduce_banks.size(), 4u);
  ASSERT_EQ(e.gather_banks.size(), 4u);
  const double elements[] = {8 * 1024, 8 * 512, 4 * 4096, 4 * 4096};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(e.reduce_banks[i].kind, Collective::reduce_scatter);
    EXPECT_EQ(e.gather_banks[i].kind, Collective::all_gather);
    EXPECT_DOUBLE_EQ(e.reduce_banks[i].bytes, 4 * elements[i]);
    EXPECT_DOUBLE_EQ(e.reduce_banks[i].sent, 3 * elements[i]);
    EXPECT_DOUBLE_EQ(e.gather_banks[i].sent, 3 * elements[i]);
    EXPECT_DOUBLE_EQ(e.gather_banks[i].seconds,
                     exchange_seconds(Links{}, Collective::all_gather, 4 * elements[i], 4));
  }
  EXPECT_EQ(e.reduce_rest.kind, Collective::all_reduce);
  EXPECT_DOUBLE_EQ(
      e.reduce_rest.bytes,
      4.0 * static_cast<double>(flat_size(small_model()) - (8 * 1024 + 8 * 512 + 2 * 4 * 4096)));
  EXPECT_EQ(e.agree.size(), 2u);
}

// Reducing in slices and gathering them moves as much as reducing everywhere.
TEST(Exchange, SlicesMoveAsMuchAsWholeGradients) {
  ModelConfig model = small_model();
  for (const bool tied : {true, false}) {
    model.tie_embeddings = tied;
    for (const int ranks : {2, 3, 8, 1024}) {
      const StepExchanges e = step_exchanges(model, ClipMode::per_rank, Links{}, ranks);
      double sent = 0, agreed = 0;
      e.for_each([&](const Exchange& x) { sent += x.sent; });
      for (const Exchange& x : e.agree) agreed += x.sent;
      EXPECT_NEAR(
          sent - agreed,
          bytes_sent(Collective::all_reduce, 4.0 * static_cast<double>(flat_size(model)), ranks),
          1e-6);
    }
  }
}

TEST(Exchange, TheMeanGradientsNormTakesOneMore) {
  const auto agreements = [](ClipMode clip) {
    return step_exchanges(small_model(), clip, Links{}, 2).agree.size();
  };
  EXPECT_EQ(agreements(ClipMode::global), agreements(ClipMode::per_rank) + 1);
}

TEST(Exchange, NothingAlone) {
  step_exchanges(small_model(), ClipMode::global, Links{}, 1).for_each([](const Exchange& e) {
    ADD_FAILURE() << e.what;
  });
}

}  // namespace
}  // namespace fairway

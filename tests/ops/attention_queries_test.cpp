// Queries that are only the last rows of each segment: the same bits as from attention of all rows
// whose other rows have no gradient.
#include <gtest/gtest.h>

#include <memory>

#include "fairway/device/run_types.h"
#include "op_cases.h"
#include "support/op_harness.h"

namespace fairway {
namespace {

using testing::HeadsCase;
using testing::kHeadsCases;
using testing::LastQueries;
using testing::OpHarness;
using testing::RunsOn;

using Case = std::tuple<HeadsCase, bool, bool>;  // few queries, with xsa

std::string name_of(const Case& c) {
  const auto& [heads, few, with_xsa] = c;
  return std::string(heads.name) + (few ? "_few" : "_last") + (with_xsa ? "_xsa" : "");
}

class AttentionQueries : public ::testing::TestWithParam<Case> {
 protected:
  template <class Device, class T>
  void check(Device& device) {
    using A = Accum<T>;
    const auto& [heads, few, with_xsa] = GetParam();
    const auto& [name, H, K, d, rope_dims, cu_seqlens, on] = heads;
    const LastQueries last(cu_seqlens, few);
    const int64_t rows = cu_seqlens.back(), Q = last.Q(), half = rope_dims / 2;
    const Shape q_shape{rows, H, d}, picked_shape{Q, H, d}, kv_shape{rows, K, d};
    OpHarness<Device, T> h(device);
    const auto list = h.ints(last.rows);
    const auto cu = h.ints(cu_seqlens);
    // Rows of all heads' values, or of one number a head.
    const auto flat = []<class U>(Tensor<U> t) {
      return Tensor<U>{t.data, {t.extent(0), t.size() / t.extent(0)}};
    };
    const auto pick = [&]<class U>(Tensor<const U> all, Shape shape) {
      const Tensor<U> some = h.template scratch<U>(shape);
      gather_rows<U>(device, flat(all), list, flat(some));
      return some;
    };

    struct Results {
      Tensor<T> y, dq, dk, dv;
      Tensor<A> lse, y_dot_v;
    };
    const auto run = [&](const AttentionSegments& segments, Tensor<const T> q, Tensor<const T> k,
                         Tensor<const T> v, Tensor<T> dy, const RopeBackward<T>& rope) {
      const int64_t n = q.extent(0);
      Results r{h.out("y", q.shape),    h.out("dq", q.shape),     h.out("dk", k.shape),
                h.inout("dv", k.shape), h.out_vec("lse", {H, n}), h.out_vec("y·v", {n, H})};
      device.zero(r.dv.data, static_cast<size_t>(r.dv.size()) * sizeof(T));
      const auto delta = h.template scratch<A>({H, n});
      if (with_xsa) {
        attention_xsa<T>(device, q, k, v, segments, r.y, r.lse, r.y_dot_v);
        xsa_backward<T>(device, r.y, v, r.y_dot_v, dy, r.dv, delta, segments.query_rows);
      } else {
        attention_varlen<T>(device, q, k, v, segments, r.y, r.lse);
        attention_delta<T>(device, r.y, dy, delta);
      }
      attention_varlen_backward<T>(device, q, k, v, segments, r.lse, dy, delta, r.dq, r.dk, r.dv,
                                   &rope);
      return r;
    };

    const auto q = h.in(q_shape, 1.5), k = h.in(kv_shape, 1.5), v = h.in(kv_shape);
    const auto dy = h.in(picked_shape);
    const Tensor<T> dy_of_all = h.template scratch<T>(q_shape),
                    dy_picked = h.template scratch<T>(picked_shape);
    add_rows<T>(device, flat(dy), list, flat(dy_of_all));
    device.copy(dy_picked.data, dy.data, static_cast<size_t>(dy.size()) * sizeof(T));
    RopeBackward<T> rope{h.vec({rows, H}, 0.1, 1), h.vec({rows, K}, 0.1, 1), h.vec({H}, 0.1, 1.5),
                         h.vec({rows, half}),      h.vec({rows, half}),      {}};
    const Results all = run(cu, q, k, v, dy_of_all, rope);
    rope.q_cosine = pick(rope.cosine, {Q, half});
    rope.q_sine = pick(rope.sine, {Q, half});
    rope.rstd_q = pick(rope.rstd_q, {Q, H});
    const Results some = run(AttentionSegments(cu, h.ints(last.starts), list),
                             pick(q, picked_shape), k, v, dy_picked, rope);
    device.synchronize();

    const auto values = [&]<class U>(Tensor<U> t) {
      std::vector<U> host(static_cast<size_t>(t.size()));
      device.download(host.data(), t.data, host.size() * sizeof(U));
      std::vector<double> out;
      for (const U x : host) out.push_back(testing::to_double(x));
      return out;
    };
    EXPECT_EQ(values(some.y), values(pick(Tensor<const T>(all.y), picked_shape))) << "y";
    EXPECT_EQ(values(some.dq), values(pick(Tensor<const T>(all.dq), picked_shape))) << "dq";
    EXPECT_EQ(values(some.dk), values(all.dk)) << "dk";
    EXPECT_EQ(values(some.dv), values(all.dv)) << "dv";
    if (with_xsa) {
      EXPECT_EQ(values(some.y_dot_v), values(pick(Tensor<const A>(all.y_dot_v), {Q, H}))) << "y·v";
    }
    const auto lse = values(some.lse), lse_of_all = values(all.lse);
    for (int64_t head = 0; head < H; ++head)
      for (int64_t i = 0; i < Q; ++i)
        ASSERT_EQ(lse[static_cast<size_t>(head * Q + i)],
                  lse_of_all[static_cast<size_t>(head * rows + last.rows[static_cast<size_t>(i)])])
            << "lse of head " << head << ", query " << i;
    for (const auto& output : h.outputs())
      EXPECT_TRUE(output.intact) << output.name << ": wrote past its end";
  }
};

TEST_P(AttentionQueries, CpuFloat) {
  CpuDevice device(2);
  check<CpuDevice, float>(device);
}
TEST_P(AttentionQueries, CpuDouble) {
  CpuDevice device(2);
  check<CpuDevice, double>(device);
}

auto cases(bool gpu) {
  std::vector<HeadsCase> heads;
  for (const HeadsCase& c : kHeadsCases)
    if (gpu || c.on == RunsOn::all) heads.push_back(c);
  return ::testing::Combine(::testing::ValuesIn(heads), ::testing::Bool(), ::testing::Bool());
}
const auto kNames = [](const auto& info) { return name_of(info.param); };

#if FAIRWAY_WITH_CUDA
// One device for all cases: making one takes longer than they do.
CudaDevice* gpu() {
  static const auto device =
      cuda_available() ? std::make_unique<CudaDevice>() : std::unique_ptr<CudaDevice>();
  return device.get();
}

class GpuAttentionQueries : public AttentionQueries {
 protected:
  void SetUp() override {
    if (!gpu()) GTEST_SKIP() << "no GPU here";
  }
};
TEST_P(GpuAttentionQueries, Float) {
  check<CudaDevice, float>(*gpu());
}
TEST_P(GpuAttentionQueries, Bf16) {
  check<CudaDevice, bf16>(*gpu());
}
INSTANTIATE_TEST_SUITE_P(Cases, GpuAttentionQueries, cases(/*gpu=*/true), kNames);
#endif

INSTANTIATE_TEST_SUITE_P(Cases, AttentionQueries, cases(/*gpu=*/false), kNames);

}  // namespace
}  // namespace fairway

// Attention: the fast float version against the definition in double, in both precisions of
// products.
#include <gtest/gtest.h>

#include "fairway/device/cpu_device.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/xsa.h"
#include "support/random.h"

namespace fairway {
namespace {

using testing::difference;
using testing::Owned;
using testing::random_doubles;

struct Case {
  const char* name;
  int64_t H, K, d;
  std::vector<int32_t> cu_seqlens;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

struct Problem {
  explicit Problem(const Case& chosen) : c(chosen), T(chosen.cu_seqlens.back()) {
    q = random_doubles(T * c.H * c.d, 0, 1.5);
    k = random_doubles(T * c.K * c.d, 1, 1.5);
    v = random_doubles(T * c.K * c.d, 2);
    dy = random_doubles(T * c.H * c.d, 3);
  }
  const Case& c;
  int64_t T;
  std::vector<double> q, k, v, dy;
};

template <class U>
struct Result {
  explicit Result(const Problem& p)
      : y({p.T, p.c.H, p.c.d}, U(7)),
        lse({p.c.H, p.T}, U(7)),
        dq({p.T, p.c.H, p.c.d}, U(7)),
        dk({p.T, p.c.K, p.c.d}, U(7)),
        dv({p.T, p.c.K, p.c.d}) {}
  Owned<U> y, lse, dq, dk, dv;
  bool intact() const {
    return y.intact() && lse.intact() && dq.intact() && dk.intact() && dv.intact();
  }
};

template <class U>
Result<U> run(const Problem& p, CpuDevice& device, bool plain) {
  const Shape qs{p.T, p.c.H, p.c.d}, ks{p.T, p.c.K, p.c.d};
  const Owned<U> q(qs, p.q), k(ks, p.k), v(ks, p.v), dy(qs, p.dy);
  const Tensor<const int32_t> segments(p.c.cu_seqlens.data(), {std::ssize(p.c.cu_seqlens)});
  Result<U> r(p);
  Owned<U> delta({p.c.H, p.T});
  if (plain)
    attention_varlen_plain<U>(device, q.cview(), k.cview(), v.cview(), segments, r.y.view(),
                              r.lse.view());
  else
    attention_varlen<U>(device, q.cview(), k.cview(), v.cview(), segments, r.y.view(),
                        r.lse.view());
  attention_delta<U>(device, r.y.cview(), dy.cview(), delta.view());
  if (plain)
    attention_varlen_backward_plain<U>(device, q.cview(), k.cview(), v.cview(), segments,
                                       r.lse.cview(), dy.cview(), delta.cview(), r.dq.view(),
                                       r.dk.view(), r.dv.view());
  else
    attention_varlen_backward<U>(device, q.cview(), k.cview(), v.cview(), segments, r.lse.cview(),
                                 dy.cview(), delta.cview(), r.dq.view(), r.dk.view(), r.dv.view());
  return r;
}

class Attention : public ::testing::TestWithParam<Case> {};

TEST_P(Attention, FloatIsAsGoodAsTheDefinitionInFloat) {
  const Problem p(GetParam());
  CpuDevice device(2);
  const auto exact = run<double>(p, device, true);
  const auto naive = run<float>(p, device, true), fast = run<float>(p, device, false);
  EXPECT_TRUE(fast.intact());
  // At most twice the error of the same arithmetic done naively, plus one rounding. Where the exact
  // result vanishes (a softmax over one key has no gradient) what is left is the rounding of sums
  // of d products of size about 1, here relative to 1.
  const double floor = p.T > 1 ? 0x1p-23 : 0x1p-23 * static_cast<double>(p.c.d);
  const auto check = [&](const char* what, const auto& member) {
    const auto got = difference(fast.*member.first, exact.*member.second);
    const auto allowed = difference(naive.*member.first, exact.*member.second);
    EXPECT_LE(got.relative, 2 * allowed.relative + floor) << what;
  };
  check("y", std::pair(&Result<float>::y, &Result<double>::y));
  check("lse", std::pair(&Result<float>::lse, &Result<double>::lse));
  check("dq", std::pair(&Result<float>::dq, &Result<double>::dq));
  check("dk", std::pair(&Result<float>::dk, &Result<double>::dk));
  check("dv", std::pair(&Result<float>::dv, &Result<double>::dv));
}

TEST_P(Attention, Bfloat16ProductsErrByTheirRounding) {
  if (!cpu_has_fast_bf16()) GTEST_SKIP() << "this processor has no bfloat16 products";
  const Problem p(GetParam());
  CpuDevice device(2, MatmulPrecision::bfloat16);
  const auto exact = run<double>(p, device, true);
  const auto fast = run<float>(p, device, false);
  EXPECT_TRUE(fast.intact());
  // Inputs are rounded to 2^-9 relative. Scores are sums of d products of size ~σ²: their error is
  // about 2^-9·√2·|score|, and moves probabilities by as much: a few 2^-8 on each output.
  constexpr double kTolerance = 6 * 0x1p-8;
  EXPECT_LE(difference(fast.y, exact.y).relative, kTolerance);
  EXPECT_LE(difference(fast.dq, exact.dq).relative, kTolerance);
  EXPECT_LE(difference(fast.dk, exact.dk).relative, kTolerance);
  EXPECT_LE(difference(fast.dv, exact.dv).relative, kTolerance);
}

TEST_P(Attention, BitsDoNotDependOnTheNumberOfThreads) {
  const Problem p(GetParam());
  CpuDevice one(1), three(3);
  const auto a = run<float>(p, one, false), b = run<float>(p, three, false);
  EXPECT_TRUE(a.y.same_bits(b.y) && a.lse.same_bits(b.lse) && a.dq.same_bits(b.dq) &&
              a.dk.same_bits(b.dk) && a.dv.same_bits(b.dv));
}

// A segment alone gives the bits it gives among others, and no later token changes an earlier row.
TEST(AttentionProperties, SegmentsAreIndependentAndCausal) {
  const Case together{"together", 2, 1, 16, {0, 70, 205, 300}}, alone{"alone", 2, 1, 16, {0, 135}};
  const Problem all(together);
  Problem one(alone);
  const auto part = [&](const std::vector<double>& from, int64_t width) {
    return std::vector<double>(from.begin() + 70 * width, from.begin() + 205 * width);
  };
  one.q = part(all.q, 32);
  one.k = part(all.k, 16);
  one.v = part(all.v, 16);
  one.dy = part(all.dy, 32);
  CpuDevice device(2);
  const auto a = run<float>(all, device, false), b = run<float>(one, device, false);
  for (size_t i = 0; i < b.y.size(); ++i) {
    ASSERT_EQ(a.y[70 * 32 + i], b.y[i]);
    ASSERT_EQ(a.dq[70 * 32 + i], b.dq[i]);
  }
  one.k[100 * 16] += 1;
  one.v[100 * 16 + 3] -= 2;
  const auto changed = run<float>(one, device, false);
  for (size_t i = 0; i < 100 * 32; ++i) ASSERT_EQ(changed.y[i], b.y[i]);
  EXPECT_NE(changed.y[100 * 32], b.y[100 * 32]);
}

INSTANTIATE_TEST_SUITE_P(Cases, Attention,
                         ::testing::Values(Case{"one_token", 2, 1, 8, {0, 1}},
                                           Case{"empty_segments", 2, 2, 8, {0, 0, 3, 3, 3}},
                                           Case{"around_a_tile", 2, 1, 16, {0, 63, 127, 192, 257}},
                                           Case{"grouped", 8, 2, 32, {0, 33, 300}},
                                           Case{"record_heads", 8, 4, 64, {0, 5, 140, 141, 500}},
                                           Case{"odd_width", 3, 1, 10, {0, 90}}),
                         [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace fairway

// Products of rows: against double, bit-independent of batching and threads, in bounds.
#include "fairway/ops/linear.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fairway/base/fields.h"
#include "fairway/device/cpu_device.h"
#include "fairway/ops/softcap_xent.h"
#include "support/random.h"

namespace fairway {
namespace {

using testing::difference;
using testing::Owned;
using testing::random_doubles;

struct Case {
  int64_t rows, in, out;
  MatmulPrecision precision;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.rows << " rows, " << c.in << " to " << c.out << ", " << enum_name(c.precision);
}

class Linear : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().precision == MatmulPrecision::bfloat16 && !cpu_has_fast_bf16())
      GTEST_SKIP() << "this processor has no bfloat16 products";
  }
  // A sum of n products of independent numbers errs by about √n roundings of one product, against a
  // result of size √n: one rounding of the inputs each, and the accumulation's growth.
  double tolerance(int64_t n) const {
    const double unit = GetParam().precision == MatmulPrecision::bfloat16 ? 0x1p-8 : 0x1p-23;
    return unit + 0x1p-24 * std::sqrt(static_cast<double>(n)) * 4;
  }
};

TEST_P(Linear, MatchesDouble) {
  const Case& c = GetParam();
  const int64_t rows = c.rows, in = c.in, out = c.out;
  CpuDevice device(2, c.precision), plain(2);
  const auto x = random_doubles(rows * in, 0), w = random_doubles(out * in, 1),
             dy = random_doubles(rows * out, 2), start = random_doubles(rows * out, 3);
  const auto run = [&]<class T>(CpuDevice& dev, T) {
    const Owned<T> tx({rows, in}, x), tw({out, in}, w), tdy({rows, out}, dy);
    std::vector<Owned<T>> r{Owned<T>({rows, out}, T(9)), Owned<T>({rows, out}, start),
                            Owned<T>({rows, in}, T(9)), Owned<T>({out, in}, w)};
    linear<T>(dev, tx.cview(), tw.cview(), r[0].view(), false);
    linear<T>(dev, tx.cview(), tw.cview(), r[1].view(), true);
    linear_backward_input<T>(dev, tdy.cview(), tw.cview(), r[2].view(), false);
    linear_backward_weight<T>(dev, tdy.cview(), tx.cview(), r[3].view());
    return r;
  };
  const auto got = run(device, float{});
  const auto want = run(plain, double{});
  const int64_t inner[] = {in, in, out, rows};
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(got[i].intact());
    EXPECT_LE(difference(got[i], want[i]).relative, tolerance(inner[i])) << "product " << i;
  }
}

TEST_P(Linear, RowsDoNotDependOnTheirNeighbours) {
  const Case& c = GetParam();
  const int64_t rows = c.rows, in = c.in, out = c.out;
  CpuDevice device(2, c.precision), one(1, c.precision);
  const Owned<float> x({rows, in}, random_doubles(rows * in, 0)),
      w({out, in}, random_doubles(out * in, 1));
  Owned<float> all({rows, out}), threads({rows, out});
  linear<float>(device, x.cview(), w.cview(), all.view(), false);
  linear<float>(one, x.cview(), w.cview(), threads.view(), false);
  EXPECT_TRUE(all.same_bits(threads));
  for (int64_t begin : {int64_t{0}, rows / 3, rows - 1})
    for (int64_t n : {int64_t{1}, rows / 2}) {
      if (n == 0 || begin + n > rows) continue;
      Owned<float> part({n, out});
      linear<float>(device, {x.cview().data + begin * in, {n, in}}, w.cview(), part.view(), false);
      for (int64_t i = 0; i < n * out; ++i)
        ASSERT_EQ(part[static_cast<size_t>(i)], all[static_cast<size_t>(begin * out + i)]);
    }
}

TEST_P(Linear, AddsToTheResidualAsWrittenOut) {
  const Case& c = GetParam();
  const int64_t rows = c.rows, in = c.in, out = c.out;
  CpuDevice device(2, c.precision);
  const auto x = random_doubles(rows * in, 0), w = random_doubles(out * in, 1),
             residual = random_doubles(rows * out, 2);
  const Owned<float> tx({rows, in}, x), tw({out, in}, w), tr({rows, out}, residual);
  Owned<float> y({rows, out}, 9.0f), in_place({rows, out}, residual);
  linear_add<float>(device, tx.cview(), tw.cview(), tr.cview(), y.view());
  linear_add<float>(device, tx.cview(), tw.cview(), in_place.cview(), in_place.view());
  Owned<double> want({rows, out}, residual);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t o = 0; o < out; ++o)
      for (int64_t i = 0; i < in; ++i)
        want[static_cast<size_t>(t * out + o)] +=
            x[static_cast<size_t>(t * in + i)] * w[static_cast<size_t>(o * in + i)];
  EXPECT_LE(difference(y, want).relative, tolerance(in));
  EXPECT_TRUE(in_place.same_bits(y));
  EXPECT_TRUE(y.intact() && in_place.intact());
}

INSTANTIATE_TEST_SUITE_P(Cases, Linear,
                         ::testing::Values(Case{1, 8, 8, MatmulPrecision::float32},
                                           Case{17, 24, 40, MatmulPrecision::float32},
                                           Case{300, 64, 192, MatmulPrecision::float32},
                                           Case{130, 512, 513, MatmulPrecision::float32},
                                           Case{2100, 32, 48, MatmulPrecision::float32},
                                           Case{17, 24, 40, MatmulPrecision::bfloat16},
                                           Case{300, 64, 192, MatmulPrecision::bfloat16}));

TEST(SoftcapXent, MatchesDouble) {
  constexpr int64_t kN = 37, kV = 301;
  CpuDevice device(2);
  const auto z = random_doubles(kN * kV, 0, 20), weight = random_doubles(kN, 1);
  std::vector<int32_t> targets;
  for (int32_t i = 0; i < kN; ++i) targets.push_back(i * 7 % kV);
  const auto run = [&]<class T>(T) {
    Owned<T> logits({kN, kV}, z), nll({kN});
    const Owned<T> d_nll({kN}, weight);
    softcap_xent<T>(device, logits.view(), {targets.data(), {kN}}, 30, d_nll.cview().data,
                    nll.view());
    return std::vector<Owned<T>>{logits, nll};
  };
  const auto got = run(float{});
  const auto want = run(double{});
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(got[i].intact());
    // Logits up to 30 carry an absolute error of 30 roundings: so do nll, and e^logit relatively.
    EXPECT_LE(difference(got[i], want[i]).relative, 30 * 0x1p-23) << i;
  }
}

}  // namespace
}  // namespace fairway

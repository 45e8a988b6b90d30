// The MLP with e4m3 operands on the CPU, against the formulas of ops/mlp_e4m3.h written out in
// double with a rounding to e4m3 of their own. Other devices: device_ops_test.cpp.
#include "fairway/ops/mlp_e4m3.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <vector>

#include "fairway/device/cpu_device.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/rms_norm.h"
#include "support/random.h"

namespace fairway {
namespace {

using testing::Owned;
using testing::random_doubles;
using Values = std::vector<double>;

// The nearest e4m3 value to x at the scale 2^e, and what it is where an error of `error` (relative)
// makes it another.
struct Rounded {
  double value = 0, other = 0;
  double doubt() const { return std::fabs(other - value); }
};
Rounded nearest_e4m3(double x, int e, double error) {
  static const Values table = [] {
    Values v;  // codes 0 to 126
    for (int exponent = 0; exponent < 16; ++exponent)
      for (int mantissa = 0; mantissa < 8 && v.size() < 127; ++mantissa)
        v.push_back(exponent == 0 ? std::ldexp(mantissa, -9)
                                  : std::ldexp(8 + mantissa, exponent - 10));
    return v;
  }();
  const double scaled = std::ldexp(std::fabs(x), e), unit = std::copysign(std::ldexp(1.0, -e), x);
  if (scaled >= table.back()) return {table.back() * unit, table.back() * unit};
  const auto above =
      static_cast<size_t>(std::upper_bound(table.begin(), table.end(), scaled) - table.begin());
  const double low = table[above - 1], high = table[above], middle = (low + high) / 2;
  const bool up = scaled > middle || (scaled == middle && above % 2 == 0);
  const bool certain = std::fabs(scaled - middle) > error * scaled;
  return {(up ? high : low) * unit, (up == certain ? high : low) * unit};
}

// The largest e with x·2^e ≤ most.
int largest_exponent(double x, double most) {
  int e = kE4m3MaxExponent;
  while (e > -kE4m3MaxExponent && std::ldexp(x, e) > most) --e;
  return e;
}
double largest_of(const Values& x) {
  double largest = 0;
  for (double v : x) largest = std::max(largest, std::fabs(v));
  return largest;
}
double norm_of(const Values& x) {
  double squares = 0;
  for (double v : x) squares += v * v;
  return std::sqrt(squares);
}

struct Matrices {
  int64_t rows, D, F;
  double ln;
  Values n, dm, up, down, residual;
  Values dwup, dwdown;  // what gradients are added to
};

Matrices random_matrices(int64_t rows, int64_t D, int64_t F, double ln) {
  Matrices m{rows, D, F, ln, {}, {}, {}, {}, {}, {}, {}};
  m.n = random_doubles(rows * D, 0, ln);
  m.dm = random_doubles(rows * D, 1, 0x1p-12);
  for (int64_t t = 0; t < rows; ++t)  // rows of all sizes, one of zeros
    for (int64_t i = 0; i < D; ++i) {
      double& v = m.dm[static_cast<size_t>(t * D + i)];
      v = t == 3 ? 0 : std::ldexp(v, static_cast<int>(-t % 13));
    }
  m.up = random_doubles(F * D, 2, 1 / std::sqrt(static_cast<double>(D)));
  m.down = random_doubles(D * F, 3, 0.1 / std::sqrt(static_cast<double>(F)));
  m.residual = random_doubles(rows * D, 4);
  m.dwup = random_doubles(F * D, 5, 1e-3);
  m.dwdown = random_doubles(D * F, 6, 1e-3);
  return m;
}

// An output by the formulas, and how far a float op may be from it where it rounds f, z and dz
// the other way.
struct Output {
  Values value, doubt;

  explicit Output(const Values& start) : value(start), doubt(start.size(), 0) {}
  void add(int64_t i, const Rounded& x, double by) {
    value[static_cast<size_t>(i)] += x.value * by;
    doubt[static_cast<size_t>(i)] += x.doubt() * std::fabs(by);
  }
};
struct Wanted {
  int exponents[kE4m3Exponents];
  Output y, dn, dwup, dwdown;
  Values f, dz;                       // the operands [rows, F]
  int dm_exponent = 0;                // of the weights' gradients
  std::vector<int> n_exponents = {};  // of the rows, beside dz
};
Wanted slow(const Matrices& m) {
  const auto at = [](const Values& x, int64_t row, int64_t width, int64_t column) {
    return x[static_cast<size_t>(row * width + column)];
  };
  const auto [rows, D, F, ln, n, dm, up, down, residual, dwup, dwdown] = m;
  const double root_f = std::sqrt(static_cast<double>(F)), error = 0x1p-24 * (8 + 4 * root_f);
  const double s_up = ln * norm_of(up) / root_f, s_down = norm_of(down) / root_f;
  Wanted w{{}, Output(residual), Output(Values(n.size(), 0)), Output(dwup), Output(dwdown), {}, {}};
  w.exponents[kE4m3N] = largest_exponent(std::sqrt(static_cast<double>(D)) * ln, 448);
  w.exponents[kE4m3Up] = largest_exponent(largest_of(up), 448);
  w.exponents[kE4m3F] = largest_exponent(s_up * s_up, 1);
  w.exponents[kE4m3Z] = largest_exponent(s_up, 8);
  w.exponents[kE4m3Down] = largest_exponent(largest_of(down), 448);
  w.exponents[kE4m3Dz] = largest_exponent(112 * std::sqrt(17.0 / 8) * s_up * s_down, 1);
  const auto rounded = [&](const Values& x, int e) {
    Values q;
    for (double v : x) q.push_back(nearest_e4m3(v, e, 0).value);
    return q;
  };
  const Values q_up = rounded(up, w.exponents[kE4m3Up]),
               q_down = rounded(down, w.exponents[kE4m3Down]),
               q_n = rounded(n, w.exponents[kE4m3N]);
  // For the weights' gradients: all of dm with one exponent, that of its largest magnitude.
  w.dm_exponent = largest_exponent(largest_of(dm), 448);
  const Values q_dm_of_all = rounded(dm, w.dm_exponent);
  for (int64_t t = 0; t < rows; ++t) {
    const auto row_of = [&](const Values& x) {
      return Values(x.begin() + t * m.D, x.begin() + (t + 1) * m.D);
    };
    const Values row = row_of(dm);
    const int e_row = largest_exponent(largest_of(row), 448);
    const int e_n = std::max(w.exponents[kE4m3N] + w.dm_exponent - e_row, -kE4m3MaxExponent);
    w.n_exponents.push_back(e_n);
    const Values q_dm = rounded(row, e_row), q_n_beside_dz = rounded(row_of(n), e_n);
    for (int64_t j = 0; j < F; ++j) {
      double z = 0, df = 0;
      for (int64_t i = 0; i < D; ++i) {
        z += at(q_n, t, D, i) * at(q_up, j, D, i);
        df += q_dm[static_cast<size_t>(i)] * at(q_down, i, F, j);
      }
      const Rounded q_f = nearest_e4m3(z > 0 ? z * z : z * z / 4, w.exponents[kE4m3F], error);
      const Rounded q_z = nearest_e4m3(z, w.exponents[kE4m3Z], error);
      const auto dz_of = [&](double of_z) {
        return nearest_e4m3(df * (of_z > 0 ? 2 * of_z : of_z / 2), e_row + w.exponents[kE4m3Dz],
                            error);
      };
      Rounded q_dz = dz_of(q_z.value);
      if (q_z.doubt() > 0) {
        const Rounded other = dz_of(q_z.other);
        for (const double dz : {other.value, other.other})
          if (std::fabs(dz - q_dz.value) > q_dz.doubt()) q_dz.other = dz;
      }
      w.f.push_back(q_f.value);
      w.dz.push_back(q_dz.value);
      for (int64_t i = 0; i < D; ++i) {
        w.y.add(t * D + i, q_f, at(q_down, i, F, j));
        w.dn.add(t * D + i, q_dz, at(q_up, j, D, i));
        w.dwup.add(j * D + i, q_dz, q_n_beside_dz[static_cast<size_t>(i)]);
        w.dwdown.add(i * F + j, q_f, at(q_dm_of_all, t, D, i));
      }
    }
  }
  return w;
}

struct Got {
  Owned<float> y, z, dn, dwup, dwdown, q_up, q_down;
  std::vector<int32_t> exponents;
};
// Rows [begin, end) of the op.
Got run(CpuDevice& device, const Matrices& m, int64_t begin, int64_t end) {
  const int64_t rows = end - begin, D = m.D, F = m.F;
  const auto part = [&](const Values& x) {
    return Owned<float>({rows, D}, Values(x.begin() + begin * D, x.begin() + end * D));
  };
  const Owned<float> n = part(m.n), dm = part(m.dm), residual = part(m.residual);
  const Owned<float> up({1, F, D}, m.up), down({1, D, F}, m.down);
  Got r{Owned<float>({rows, D}, 9.0f),  Owned<float>({rows, F}, 9.0f),
        Owned<float>({rows, D}, 9.0f),  Owned<float>({F, D}, m.dwup),
        Owned<float>({D, F}, m.dwdown), Owned<float>({1, F, D}, 9.0f),
        Owned<float>({1, D, F}, 9.0f),  std::vector<int32_t>(kE4m3Exponents)};
  const MlpE4m3<float> bank{
      r.q_up.view(), r.q_down.view(), {r.exponents.data(), {1, kE4m3Exponents}}};
  const double ln[] = {m.ln};
  mlp_e4m3_weights<float>(device, up.cview(), down.cview(), ln, bank);
  const MlpE4m3<float> w = bank.slice(0);
  const MlpHidden<float> hidden{r.z.view(), {}};
  mlp_leaky_sq_e4m3<float>(device, n.cview(), w, residual.cview(), hidden, r.y.view());
  mlp_leaky_sq_e4m3_backward<float>(device, dm.cview(), n.cview(), hidden, w, r.dn.view(),
                                    r.dwup.view(), r.dwdown.view());
  EXPECT_TRUE(r.y.intact() && r.z.intact() && r.dn.intact() && r.dwup.intact() &&
              r.dwdown.intact() && r.q_up.intact() && r.q_down.intact());
  return r;
}
Got run(CpuDevice& device, const Matrices& m) {
  return run(device, m, 0, m.rows);
}

// |got − want| ≤ doubt + the growth of rounding in a sum of `terms` products of the values' size.
void expect_near(const Owned<float>& got, const Output& output, int64_t terms, const char* what) {
  const Values &want = output.value, &doubt = output.doubt;
  const double growth = 0x1p-24 * (8 + 4 * std::sqrt(static_cast<double>(terms)));
  double size = 0;
  for (double v : want) size += v * v / static_cast<double>(want.size());
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(got[i], want[i], doubt[i] + growth * (std::sqrt(size) + std::fabs(want[i])))
        << what << " " << i;
}

struct Size {
  int64_t rows, D, F;
  double ln;
};
void PrintTo(const Size& s, std::ostream* out) {
  *out << s.rows << " rows, " << s.D << " to " << s.F << ", ln " << s.ln;
}

class MlpE4m3Op : public ::testing::TestWithParam<Size> {
 protected:
  Matrices matrices() const {
    const Size s = GetParam();
    return random_matrices(s.rows, s.D, s.F, s.ln);
  }
};

TEST_P(MlpE4m3Op, IsItsFormulas) {
  const Matrices m = matrices();
  CpuDevice device(2);
  const Got got = run(device, m);
  const Wanted want = slow(m);
  for (int i = 0; i < kE4m3Exponents; ++i)
    EXPECT_EQ(got.exponents[static_cast<size_t>(i)], want.exponents[i]) << i;
  expect_near(got.y, want.y, m.F, "y");
  expect_near(got.dn, want.dn, m.F, "dn");
  expect_near(got.dwup, want.dwup, m.rows, "dwup");
  expect_near(got.dwdown, want.dwdown, m.rows, "dwdown");
  // A doubt would hide what it is about; few are left.
  for (const Output* out : {&want.y, &want.dn, &want.dwup, &want.dwdown})
    EXPECT_GT(std::count(out->doubt.begin(), out->doubt.end(), 0.0), std::ssize(out->doubt) / 2);
}

TEST_P(MlpE4m3Op, RowsDependOnNothingElse) {
  const Matrices m = matrices();
  CpuDevice device(2), one(1);
  const Got all = run(device, m), alone = run(one, m);
  EXPECT_TRUE(all.y.same_bits(alone.y));
  EXPECT_TRUE(all.dn.same_bits(alone.dn));
  EXPECT_TRUE(all.dwup.same_bits(alone.dwup));
  EXPECT_TRUE(all.dwdown.same_bits(alone.dwdown));
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {m.rows / 3, m.rows}}) {
    const Got part = run(device, m, begin, end);
    for (size_t i = 0; i < part.y.size(); ++i) {
      ASSERT_EQ(part.y[i], all.y[static_cast<size_t>(begin * m.D) + i]);
      ASSERT_EQ(part.dn[i], all.dn[static_cast<size_t>(begin * m.D) + i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, MlpE4m3Op,
                         ::testing::Values(Size{5, 8, 16, 1}, Size{37, 24, 40, 0.5},
                                           Size{150, 64, 256, 0.3}));

// A row by itself has exponents of its own. Among others, larger ones, the weights' gradients read
// its dm and its n to the smallest step of theirs, one of which is then all that may be lost; rows
// of zeros change nothing.
TEST(MlpE4m3, RowsOfAllSizesBringWhatTheyBringAlone) {
  Matrices m = random_matrices(12, 24, 40, 0.5);
  m.dwup.assign(m.dwup.size(), 0);
  m.dwdown.assign(m.dwdown.size(), 0);
  for (int64_t t = 0; t < m.rows; ++t)  // 2^-12 and further, in steps of 2^-4
    for (int64_t i = 0; i < m.D; ++i) {
      double& v = m.dm[static_cast<size_t>(t * m.D + i)];
      v = std::ldexp(v, static_cast<int>(-3 * (t % 13)));
    }
  CpuDevice device(2);
  const Wanted w = slow(m);
  Output dwup(m.dwup), dwdown(m.dwdown);
  for (int64_t t = 0; t < m.rows; ++t) {
    const Got alone = run(device, m, t, t + 1);
    for (int64_t j = 0; j < m.F; ++j)
      for (int64_t i = 0; i < m.D; ++i) {
        const auto of_up = static_cast<size_t>(j * m.D + i),
                   of_down = static_cast<size_t>(i * m.F + j);
        const auto of_hidden = static_cast<size_t>(t * m.F + j);
        dwup.value[of_up] += alone.dwup[of_up];
        dwdown.value[of_down] += alone.dwdown[of_down];
        dwup.doubt[of_up] +=
            std::ldexp(std::fabs(w.dz[of_hidden]), -9 - w.n_exponents[static_cast<size_t>(t)]);
        dwdown.doubt[of_down] += std::ldexp(w.f[of_hidden], -9 - w.dm_exponent);
      }
  }
  const Got got = run(device, m);
  expect_near(got.dwup, dwup, m.rows, "dwup");
  expect_near(got.dwdown, dwdown, m.rows, "dwdown");
  // The bound is no wide one.
  EXPECT_LT(norm_of(dwup.doubt), 1e-3 * norm_of(dwup.value));
  EXPECT_LT(norm_of(dwdown.doubt), 1e-3 * norm_of(dwdown.value));
}

// The norm before it: as its own op has it from dn, into dx that may be dm.
TEST_P(MlpE4m3Op, GoesBackThroughTheNorm) {
  const Matrices m = matrices();
  const int64_t rows = m.rows, D = m.D, F = m.F;
  CpuDevice device(2);
  const Got plain = run(device, m);
  Owned<float> want({rows, D}, m.dm), dx({rows, D}, m.dm), rstd({rows}, 0.5f);
  const Owned<float> n({rows, D}, m.n), up({1, F, D}, m.up), down({1, D, F}, m.down);
  for (size_t t = 0; t < rstd.size(); ++t) rstd[t] += static_cast<float>(t % 3);
  rms_norm_backward<float>(device, plain.dn.cview(), n.cview(), rstd.cview(), m.ln, want.view());

  Got r{plain};
  r.dwup = Owned<float>({F, D}, m.dwup);
  r.dwdown = Owned<float>({D, F}, m.dwdown);
  const MlpE4m3<float> w =
      MlpE4m3<float>{r.q_up.view(), r.q_down.view(), {r.exponents.data(), {1, kE4m3Exponents}}}
          .slice(0);
  const MlpHidden<float> hidden{r.z.view(), {}};
  mlp_leaky_sq_e4m3<float>(device, n.cview(), w, {}, hidden, r.y.view());
  mlp_leaky_sq_e4m3_backward<float>(device, dx.cview(), n.cview(), hidden, w, r.dn.view(),
                                    r.dwup.view(), r.dwdown.view(), {},
                                    {rstd.cview(), m.ln, dx.view(), {}});
  EXPECT_TRUE(dx.same_bits(want));
  EXPECT_TRUE(r.dwup.same_bits(plain.dwup));
  EXPECT_TRUE(r.dwdown.same_bits(plain.dwdown));
  EXPECT_TRUE(dx.intact() && r.dn.intact());
}

// Test-time training: what adapters add comes behind, frozen weights have no gradients, and nothing
// need be kept, all of which changes no bit of the rest. One document has no rows.
TEST_P(MlpE4m3Op, AdaptersComeBesideIt) {
  const Matrices m = matrices();
  const int64_t rows = m.rows, D = m.D, R = 3;
  CpuDevice device(2);
  Got r = run(device, m);
  const auto third = static_cast<int32_t>(rows / 3);
  const std::vector<int32_t> starts{0, third, third, static_cast<int32_t>(rows)};
  const Tensor<const int32_t> doc_rows{starts.data(), {std::ssize(starts)}};
  const Owned<float> a({3, R * D}, random_doubles(3 * R * D, 7)),
      b({3, D * R}, random_doubles(3 * D * R, 8)), xa({rows, R}, random_doubles(rows * R, 9)),
      dxa({rows, R}, random_doubles(rows * R, 10, 0x1p-12));
  LowRankDown<const float> down;
  down.a[0] = a.cview().data, down.count = 1, down.stride = R * D, down.docs = 3;
  down.doc_rows = doc_rows, down.rank = R, down.in = D;
  const LowRankUp<const float> up{b.cview().data, D * R, 3, doc_rows, R, D};

  Owned<float> y(r.y), dn(r.dn), want_dx({rows, D}, m.dm);
  low_rank_up<float>(device, xa.cview(), up, y.view());
  low_rank_down_backward<float>(device, dxa.cview(), dn.cview(), down, dn.view(), {});
  const Owned<float> n({rows, D}, m.n), residual({rows, D}, m.residual), rstd({rows}, 0.5f);
  rms_norm_backward<float>(device, dn.cview(), n.cview(), rstd.cview(), m.ln, want_dx.view());

  const MlpE4m3<float> w =
      MlpE4m3<float>{r.q_up.view(), r.q_down.view(), {r.exponents.data(), {1, kE4m3Exponents}}}
          .slice(0);
  const MlpHidden<float> hidden{r.z.view(), {}};
  Owned<float> kept({rows, D}, 9.0f), bare({rows, D}, 9.0f), got_dn({rows, D}, 9.0f),
      dx({rows, D}, m.dm);
  mlp_leaky_sq_e4m3<float>(device, n.cview(), w, residual.cview(), {}, bare.view(),
                           {up, xa.cview()});
  mlp_leaky_sq_e4m3<float>(device, n.cview(), w, residual.cview(), hidden, kept.view(),
                           {up, xa.cview()});
  EXPECT_TRUE(kept.same_bits(y));
  EXPECT_TRUE(bare.same_bits(y));
  mlp_leaky_sq_e4m3_backward<float>(device, dx.cview(), n.cview(), hidden, w, got_dn.view(), {}, {},
                                    {down, dxa.cview()}, {rstd.cview(), m.ln, dx.view(), {}});
  EXPECT_TRUE(got_dn.same_bits(dn));
  EXPECT_TRUE(dx.same_bits(want_dx));
  EXPECT_TRUE(kept.intact() && bare.intact() && got_dn.intact() && dx.intact());
}

// Scales of matrices that are zero, or too small or large for any: finite, and zero where the
// matrix is.
TEST(MlpE4m3, MatricesOfAnySize) {
  CpuDevice device(1);
  for (const double size : {0.0, 1e-42, 1e-30, 1e-12, 1e12, 1e30}) {
    Matrices m = random_matrices(5, 8, 16, 1);
    for (double& v : m.up) v = static_cast<float>(v * size);
    for (double& v : m.dwdown) v = 0;
    const Got got = run(device, m);
    for (const int32_t e : got.exponents) EXPECT_LE(std::abs(e), kE4m3MaxExponent) << size;
    EXPECT_EQ(got.exponents[kE4m3Up], largest_exponent(largest_of(m.up), 448)) << size;
    for (size_t i = 0; i < got.q_up.size(); ++i) {
      EXPECT_TRUE(std::isfinite(got.q_up[i])) << size;
      if (m.up[i] == 0) {
        EXPECT_EQ(got.q_up[i], 0);
      }
      if (size == 1e12 || size == 1e-12) {
        EXPECT_NEAR(got.q_up[i], m.up[i], std::fabs(m.up[i]) / 16) << i;
      }
    }
    if (size > 1e12) continue;  // z² may be infinite
    for (size_t i = 0; i < got.y.size(); ++i) {
      EXPECT_TRUE(std::isfinite(got.y[i]) && std::isfinite(got.dn[i])) << size;
      if (size < 1e-40) {
        EXPECT_EQ(got.y[i], static_cast<float>(m.residual[i]));
        EXPECT_EQ(got.dn[i], 0);
      }
    }
  }
}

// One hidden unit holds all of ‖Wup‖² and ‖Wdown‖², and an input and a gradient are its weights: z
// is 64 times what s says and read as 56 times that, f 4096 times s² and read as 448, and so is dz
// beyond its largest, but not in a second row, whose gradient is one of its weights.
TEST(MlpE4m3, SaturatesAtTheLargestValue) {
  constexpr int64_t kD = 64, kF = 64;
  Matrices m{2,
             kD,
             kF,
             1.0,
             Values(2 * kD, 1.0),
             Values(2 * kD, 0.0),
             Values(kF * kD, 0.0),
             Values(kD * kF, 0.0),
             Values(2 * kD, 0.0),
             Values(kF * kD, 0.0),
             Values(kD * kF, 0.0)};
  for (size_t i = 0; i < kD; ++i) m.up[i] = m.down[i * kF] = m.dm[i] = 1;
  m.dm[kD] = 1;
  CpuDevice device(1);
  const Got got = run(device, m);
  ASSERT_EQ(got.exponents[kE4m3F], 0);
  ASSERT_EQ(got.exponents[kE4m3Z], 3);
  // df = 64 and 1, dz = df·2·56; 1 is dm's largest, so 8 is its exponent.
  const float largest = std::ldexp(448.0f, -8 - got.exponents[kE4m3Dz]);
  ASSERT_LT(largest, 64 * 2 * 56);
  for (size_t i = 0; i < kD; ++i) {
    EXPECT_EQ(got.y[i], 448);
    EXPECT_EQ(got.y[kD + i], 448);
    EXPECT_EQ(got.dn[i], largest);
    EXPECT_EQ(got.dn[kD + i], 2 * 56);
    EXPECT_EQ(got.dwup[i], largest + 2 * 56);
    EXPECT_EQ(got.dwdown[i * kF], i == 0 ? 2 * 448 : 448);
  }
}

}  // namespace
}  // namespace fairway

// Exclusive attention's gradient by complex-step differentiation: also where a value is so short
// that its norm is clamped, which the model's own test never meets.
#include "fairway/ops/xsa.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>

#include "fairway/device/cpu_device.h"
#include "support/random.h"

namespace fairway {
namespace {

using testing::Owned;
using testing::random_doubles;
using Complex = std::complex<double>;

constexpr int64_t kT = 3, kH = 4, kK = 2, kD = 6;
const Shape kHeads{kT, kH, kD}, kValues{kT, kK, kD}, kRows{kT, kH};

class Xsa : public ::testing::TestWithParam<double> {};

TEST_P(Xsa, GradientMatchesTheComplexStep) {
  CpuDevice device(1);
  const auto y = random_doubles(kHeads.size(), 0), dy = random_doubles(kHeads.size(), 1),
             v = random_doubles(kValues.size(), 2, GetParam());
  Owned<double> y2(kHeads, y), y_dot_v(kRows), dv(kValues), delta({kH, kT}), gradient(kHeads, dy);
  const Owned<double> values(kValues, v);
  xsa<double>(device, y2.view(), values.cview(), y_dot_v.view());
  xsa_backward<double>(device, y2.cview(), values.cview(), y_dot_v.cview(), gradient.view(),
                       dv.view(), delta.view());

  // Σ dy ⊙ y2 with one element of `stepped` a step into the imaginary.
  constexpr double kStep = 1e-50;
  Owned<Complex> complex_y(kHeads), complex_v(kValues, v), dots(kRows);
  const auto derivative = [&](Complex& stepped) {
    stepped += Complex(0, kStep);
    Owned<Complex> out = complex_y;
    xsa<Complex>(device, out.view(), complex_v.cview(), dots.view());
    stepped = stepped.real();
    Complex loss = 0;
    for (size_t i = 0; i < out.size(); ++i) loss += dy[i] * out[i];
    return loss.imag() / kStep;
  };
  for (size_t i = 0; i < y.size(); ++i) complex_y[i] = y[i];
  const auto check = [&](Owned<Complex>& inputs, const Owned<double>& got) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double want = derivative(inputs[i]);
      norm += want * want;
      error += std::pow(got[i] - want, 2);
    }
    EXPECT_LE(std::sqrt(error), 1e-12 * std::sqrt(norm));
  };
  check(complex_y, gradient);
  check(complex_v, dv);
}

INSTANTIATE_TEST_SUITE_P(Lengths, Xsa, ::testing::Values(1.0, 1e-13), [](const auto& param_info) {
  return param_info.param == 1 ? "ordinary" : "clamped";
});

}  // namespace
}  // namespace fairway

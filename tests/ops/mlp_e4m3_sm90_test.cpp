// The e4m3 MLP on Hopper GPUs: how operands are made, bit for bit; each product by itself, against
// double sums over the very bytes that it reads; and the op where every number is exact, against
// the CPU's.
#include "fairway/ops/mlp_e4m3_sm90.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/cpu_device.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/linear_norm_back_sm90.cuh"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "support/random.h"

namespace fairway {
namespace {

// One device for all tests: making one takes longer than they do.
CudaDevice* gpu() {
  static const auto device =
      cuda_available() ? std::make_unique<CudaDevice>() : std::unique_ptr<CudaDevice>();
  return device.get();
}

// An array in device memory, with sentinels behind it.
template <class U>
class DeviceArray {
 public:
  explicit DeviceArray(std::vector<U> values) : count_(values.size()) {
    std::vector<std::byte> bytes(count_ * sizeof(U) + kGuard, kSentinel);
    std::memcpy(bytes.data(), values.data(), count_ * sizeof(U));
    memory_ = gpu()->allocate(bytes.size());
    gpu()->upload(memory_.data(), bytes.data(), bytes.size());
  }
  // Full of sentinels: to be written.
  explicit DeviceArray(int64_t count) : count_(static_cast<size_t>(count)) {
    const std::vector<std::byte> bytes(count_ * sizeof(U) + kGuard, kSentinel);
    memory_ = gpu()->allocate(bytes.size());
    gpu()->upload(memory_.data(), bytes.data(), bytes.size());
  }
  int64_t count() const { return static_cast<int64_t>(count_); }
  U* data() const { return reinterpret_cast<U*>(memory_.data()); }
  std::vector<U> read() const {
    std::vector<std::byte> bytes(count_ * sizeof(U) + kGuard);
    gpu()->download(bytes.data(), memory_.data(), bytes.size());
    for (size_t i = count_ * sizeof(U); i < bytes.size(); ++i)
      EXPECT_EQ(bytes[i], kSentinel) << "wrote past the end";
    std::vector<U> values(count_);
    std::memcpy(values.data(), bytes.data(), count_ * sizeof(U));
    return values;
  }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr std::byte kSentinel{0xA5};
  size_t count_;
  CudaBuffer memory_;
};

double value_of(float x) {
  return static_cast<double>(x);
}
double value_of(bf16 x) {
  return static_cast<double>(static_cast<float>(x));
}
// From the format's definition.
double value_of(e4m3 x) {
  const int exponent = x.bits >> 3 & 15, mantissa = x.bits & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (x.bits & 0x80) != 0 ? -magnitude : magnitude;
}
template <class U>
std::vector<double> values_of(const std::vector<U>& x) {
  std::vector<double> out(x.size());
  std::transform(x.begin(), x.end(), out.begin(), [](U v) { return value_of(v); });
  return out;
}

bool is_nan(e4m3 x) {
  return (x.bits & 0x7F) == 0x7F;
}
// Same bits; NaN is NaN.
void expect_same(const std::vector<e4m3>& got, const std::vector<e4m3>& want, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_TRUE(got[i].bits == want[i].bits || (is_nan(got[i]) && is_nan(want[i])))
        << what << ", element " << i << ": " << int{got[i].bits} << " instead of "
        << int{want[i].bits};
}

std::vector<bf16> normals(int64_t count, uint64_t stream, double size = 1) {
  std::vector<bf16> out;
  for (const float x : testing::random_floats(count, 5, stream, size)) out.push_back(bf16(x));
  return out;
}

// x [rows, width] → its operand: exponent `e`, and where there are any, its row's too.
std::vector<e4m3> operand_of(const std::vector<bf16>& x, int e,
                             const std::vector<int32_t>& of_rows = {}, int64_t width = 1) {
  std::vector<e4m3> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const int row = of_rows.empty() ? 0 : of_rows[i / static_cast<size_t>(width)];
    out[i] = to_e4m3(static_cast<float>(x[i]) * power_of_two(e + row));
  }
  return out;
}
std::vector<e4m3> transposed(const std::vector<e4m3>& x, int64_t rows, int64_t columns) {
  std::vector<e4m3> out(x.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      out[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * columns + j)];
  return out;
}

// a [rows, inner] b [columns, inner] ᵀ.
std::vector<double> product(const std::vector<e4m3>& a, const std::vector<e4m3>& b, int64_t rows,
                            int64_t columns, int64_t inner) {
  const auto x = values_of(a), y = values_of(b);
  std::vector<double> out(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < inner; ++k)
        sum += x[static_cast<size_t>(i * inner + k)] * y[static_cast<size_t>(j * inner + k)];
      out[static_cast<size_t>(i * columns + j)] = sum;
    }
  return out;
}

int32_t row_exponent(const bf16* row, int64_t width) {
  float largest = 0;
  for (int64_t i = 0; i < width; ++i)
    largest = std::max(largest, std::fabs(static_cast<float>(row[i])));
  return e4m3_exponent(largest);
}

// Rows of `sizes` very different sizes, 2^smallest of a normal number and up, and some of zeros.
std::vector<bf16> rows_of_many_sizes(int64_t rows, int64_t width, uint64_t stream, int sizes,
                                     int smallest) {
  std::vector<bf16> x = normals(rows * width, stream);
  for (int64_t t = 0; t < rows; ++t)
    for (bf16& one :
         std::span(x).subspan(static_cast<size_t>(t * width), static_cast<size_t>(width)))
      one = t % 11 == 3 ? bf16(0.0f)
                        : bf16(std::ldexp(static_cast<float>(one),
                                          static_cast<int>(t * 7 % sizes) + smallest));
  return x;
}
std::vector<int32_t> exponents_of_rows(const std::vector<bf16>& x, int64_t width) {
  std::vector<int32_t> exponents;
  for (size_t at = 0; at < x.size(); at += static_cast<size_t>(width))
    exponents.push_back(row_exponent(x.data() + at, width));
  return exponents;
}

// Each row by itself: ‖got − want‖ ≤ tolerance·‖scale‖, `scale` the terms' of the last sum.
template <class U>
void expect_close(const std::vector<U>& got, const std::vector<double>& want,
                  const std::vector<double>& scale, int64_t width, double tolerance,
                  const char* what) {
  ASSERT_EQ(got.size(), want.size());
  double worst = 0;
  int64_t at = -1;
  for (int64_t row = 0; row * width < std::ssize(got); ++row) {
    double error = 0, norm = 0;
    for (int64_t j = 0; j < width; ++j) {
      const auto i = static_cast<size_t>(row * width + j);
      error += std::pow(value_of(got[i]) - want[i], 2);
      norm += scale[i] * scale[i];
    }
    // A row of zeros must be one.
    const double relative = norm > 0 ? std::sqrt(error / norm) : (error > 0 ? HUGE_VAL : 0.0);
    if (!(relative <= worst)) worst = relative, at = row;
  }
  EXPECT_LE(worst, tolerance) << what << ": row " << at;
  ::testing::Test::RecordProperty(what, std::to_string(worst / tolerance));
}

constexpr double kBf16 = 0x1p-9;  // half a unit in the last place
// A sum in the tensor cores: each instruction of 32 along K cuts terms and sum off, some 13 bits
// below the largest of them, which is about the sum itself; twice a sum's bits are cut.
double accumulation(int64_t inner) {
  return static_cast<double>(inner) / 32 * 0x1p-12;
}

struct Sizes {
  int64_t T, D, F;
  int shift_f, shift_dz;  // of the exponents, from where nothing saturates or underflows
};
void PrintTo(const Sizes& s, std::ostream* out) {
  *out << s.T << " rows, D " << s.D << ", F " << s.F << ", exponents of f and dz shifted by "
       << s.shift_f << ", " << s.shift_dz;
}

class GpuE4m3 : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!gpu()) GTEST_SKIP() << "no GPU here";
    if (gpu()->capability() != 90) GTEST_SKIP() << "no Hopper GPU here";
  }
};

// Every bf16 value, NaN and infinity too, at scales that saturate and underflow.
TEST_F(GpuE4m3, OperandOfEveryValue) {
  std::vector<bf16> x(1 << 16);
  for (size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<uint16_t>(i);
  const DeviceArray<bf16> on_device(x);
  for (const int e : {-kE4m3MaxExponent, -1, 0, 7, kE4m3MaxExponent}) {
    const DeviceArray<int32_t> exponents(std::vector<int32_t>{e, 9, 9, 9, 9});
    const DeviceArray<e4m3> to(std::ssize(x));
    cuda::mlp_e4m3_operand_n(gpu()->stream(), on_device.data(), exponents.data(), 512, 128,
                             to.data());
    expect_same(to.read(), operand_of(x, e), "operand of n");
  }
}

TEST_F(GpuE4m3, OperandOfRows) {
  for (const auto& [T, D] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 128}, {37, 384}, {300, 512}, {70, 1024}, {9, 1664}}) {
    const auto dm = rows_of_many_sizes(T, D, 1, 181, -100);
    const auto want = exponents_of_rows(dm, D);
    const DeviceArray<bf16> on_device(dm);
    const DeviceArray<e4m3> to(T * D);
    const DeviceArray<int32_t> exponents(T);
    cuda::mlp_e4m3_operand_dm(gpu()->stream(), on_device.data(), T, D, to.data(), exponents.data());
    ASSERT_EQ(exponents.read(), want) << T << " x " << D;
    expect_same(to.read(), operand_of(dm, 0, want, D), "operand of dm");
  }
}

// mix_norm_backward makes the operand of the gradient that it writes.
TEST_F(GpuE4m3, OperandBesideTheGradient) {
  // A row in registers, one that does not fill them, and one read twice.
  for (const auto& [T, D] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 128}, {300, 512}, {37, 384}, {70, 1024}})
    for (const bool skips : {false, true})
      for (const bool with_mix : {false, true}) {
        SCOPED_TRACE(std::to_string(T) + " x " + std::to_string(D) + (skips ? ", skip" : "") +
                     (with_mix ? ", with mix" : ""));
        const DeviceArray<bf16> dn(normals(T * D, 31)), n(normals(T * D, 32)),
            x_pre(normals(T * D, 33)), k(normals(T * D, 34)), x0(normals(T * D, 35)),
            du(rows_of_many_sizes(T, D, 36, 121, -60)), to(T * D), to_k(T * D);
        const auto floats = [](const std::vector<bf16>& x) {
          const auto values = values_of(x);
          return std::vector<float>(values.begin(), values.end());
        };
        const DeviceArray<float> rstd(floats(normals(T, 37))), mix(floats(normals(2 * D, 38))),
            skip(floats(normals(2 * D, 39))), dmix(std::vector<float>(static_cast<size_t>(2 * D))),
            dskip(std::vector<float>(static_cast<size_t>(2 * D)));
        const DeviceArray<e4m3> operand(T * D), operand_wanted(T * D);
        const DeviceArray<int32_t> exponents(T), exponents_wanted(T);
        const auto rows = [&](const DeviceArray<bf16>& x) {
          return Tensor<bf16>{x.data(), {T, D}};
        };
        const auto vectors = [&](const DeviceArray<float>& v) {
          return Tensor<float>{v.data(), {2, D}};
        };
        MixNormBackward<bf16> from{
            rows(dn), rows(n),      {rstd.data(), {T}}, 0.5, {rows(x_pre), {}, {}},
            rows(x0), vectors(mix), rows(du),           {},  {}};
        MixNormGradients<bf16> gradients{rows(to), {}, {}, {}, {}};
        if (with_mix) gradients.mix = vectors(dmix);
        if (skips) {
          from.in.k = rows(k), from.in.skip = vectors(skip);
          gradients.k = rows(to_k);
          if (with_mix) gradients.skip = vectors(dskip);
        }
        gradients.x_pre_e4m3 = {{operand.data(), {T, D}}, {exponents.data(), {T}}};
        mix_norm_backward<bf16>(*gpu(), from, gradients);
        cuda::mlp_e4m3_operand_dm(gpu()->stream(), to.data(), T, D, operand_wanted.data(),
                                  exponents_wanted.data());
        EXPECT_EQ(exponents.read(), exponents_wanted.read());
        expect_same(operand.read(), operand_wanted.read(), "operand");
      }
}

TEST_F(GpuE4m3, OperandsOfWeights) {
  const int64_t L = 3, rows = 384, columns = 128;
  const std::vector<bf16> w = normals(L * rows * columns, 2, 0.05);
  std::vector<int32_t> e(static_cast<size_t>(L * kE4m3Exponents), 99);
  for (int64_t i = 0; i < L; ++i)
    e[static_cast<size_t>(i * kE4m3Exponents + kE4m3Down)] = static_cast<int32_t>(9 + 2 * i);
  const DeviceArray<bf16> on_device(w);
  const DeviceArray<int32_t> exponents(e);
  const DeviceArray<e4m3> to(2 * L * rows * columns);
  cuda::mlp_e4m3_operand_weights(gpu()->stream(), on_device.data(), exponents.data(), kE4m3Down, L,
                                 rows, columns, to.data());
  std::vector<e4m3> want;
  for (int64_t i = 0; i < L; ++i) {
    const auto first = w.begin() + i * rows * columns;
    const auto one = operand_of({first, first + rows * columns}, static_cast<int>(9 + 2 * i));
    const auto across = transposed(one, rows, columns);
    want.insert(want.end(), one.begin(), one.end());
    want.insert(want.end(), across.begin(), across.end());
  }
  expect_same(to.read(), want, "operands of weights");
}

class GpuE4m3Products : public GpuE4m3, public ::testing::WithParamInterface<Sizes> {};

TEST_P(GpuE4m3Products, EachAgainstItsOwnOperands) {
  const auto [T, D, F, shift_f, shift_dz] = GetParam();
  const auto stream = gpu()->stream();
  // n of size 1, so z and f are too; f·2^4 < 448 for |z| < 5.
  const std::array<int32_t, kE4m3Exponents> e{6, 10, 4 + shift_f, 11, -4 + shift_dz};
  const auto n = operand_of(normals(T * D, 3), e[kE4m3N]);
  const auto up = operand_of(normals(F * D, 4, 1 / std::sqrt(static_cast<double>(D))), e[kE4m3Up]);
  const auto down =
      operand_of(normals(D * F, 5, 1 / std::sqrt(static_cast<double>(F))), e[kE4m3Down]);
  const DeviceArray<int32_t> exponents(std::vector<int32_t>(e.begin(), e.end()));
  const int64_t hidden = T * F;

  // z and f.
  const DeviceArray<e4m3> n_there(n), up_there(up), f_operand(hidden);
  const DeviceArray<bf16> f_there(hidden);
  const DeviceArray<std::byte> signs(static_cast<int64_t>(cuda::leaky_sq_sign_bytes(T, F)));
  cuda::mlp_e4m3_up(stream, n_there.data(), up_there.data(), exponents.data(), T, D, F,
                    f_there.data(), f_operand.data(), signs.data());
  auto z = product(n, up, T, F, D);
  std::vector<double> f_wanted;
  for (double& one : z) {
    one = std::ldexp(one, -(e[kE4m3N] + e[kE4m3Up]));
    f_wanted.push_back(std::pow(std::max(one, one / 2), 2));
  }
  const auto f = f_there.read();
  const auto f_bytes = f_operand.read();
  signs.read();
  expect_close(f, f_wanted, f_wanted, F, kBf16 + 2 * accumulation(D), "f");
  expect_same(f_bytes, operand_of(f, e[kE4m3F]), "operand of f");

  // y, with and without a residual, which may be y itself.
  const auto residual = normals(T * D, 6);
  auto m = product(f_bytes, down, T, D, F);
  for (double& one : m) one = std::ldexp(one, -(e[kE4m3F] + e[kE4m3Down]));
  std::vector<double> y_wanted, y_scale;
  for (size_t i = 0; i < m.size(); ++i) {
    y_wanted.push_back(m[i] + value_of(residual[i]));
    y_scale.push_back(std::hypot(m[i], value_of(residual[i])));
  }
  const DeviceArray<e4m3> down_there(down);
  const DeviceArray<bf16> m_there(T * D), y_there(T * D), in_place(residual),
      residual_there(residual);
  cuda::mlp_e4m3_down(stream, f_operand.data(), down_there.data(), exponents.data(), nullptr, T, D,
                      F, m_there.data());
  cuda::mlp_e4m3_down(stream, f_operand.data(), down_there.data(), exponents.data(),
                      residual_there.data(), T, D, F, y_there.data());
  cuda::mlp_e4m3_down(stream, f_operand.data(), down_there.data(), exponents.data(),
                      in_place.data(), T, D, F, in_place.data());
  expect_close(m_there.read(), m, m, D, kBf16 + accumulation(F), "m");
  expect_close(y_there.read(), y_wanted, y_scale, D, kBf16 + accumulation(F), "y");
  EXPECT_EQ(values_of(in_place.read()), values_of(y_there.read()));

  // dz, and each row's Σ f·df.
  const auto dm = rows_of_many_sizes(T, D, 7, 81, -50);
  const auto dm_exponents = exponents_of_rows(dm, D);
  const auto dm_bytes = operand_of(dm, 0, dm_exponents, D);
  const DeviceArray<e4m3> dm_there(dm_bytes), down_across(transposed(down, D, F)),
      dz_operand(hidden);
  const DeviceArray<int32_t> row_exponents(dm_exponents);
  const int64_t tiles = cuda::leaky_sq_dot_tiles(F);
  const DeviceArray<float> half_dots(tiles * T);
  cuda::mlp_e4m3_down_backward(stream, dm_there.data(), row_exponents.data(), down_across.data(),
                               exponents.data(), f_there.data(), signs.data(), T, D, F,
                               f_there.data(), dz_operand.data(), half_dots.data());
  auto dz_wanted = product(dm_bytes, transposed(down, D, F), T, F, D);
  std::vector<double> dots(static_cast<size_t>(T)), dots_wanted = dots, dots_scale = dots;
  for (size_t i = 0; i < dz_wanted.size(); ++i) {
    const size_t row = i / static_cast<size_t>(F);
    const double root = std::sqrt(value_of(f[i])), slope = z[i] > 0 ? 2 * root : -root;
    const double df = std::ldexp(dz_wanted[i], -(dm_exponents[row] + e[kE4m3Down]));
    dz_wanted[i] = df * slope;
    dots_wanted[row] += value_of(f[i]) * df;
    dots_scale[row] += std::fabs(value_of(f[i]) * df);
  }
  const auto partial = half_dots.read();
  for (size_t i = 0; i < partial.size(); ++i)
    dots[i % static_cast<size_t>(T)] += value_of(partial[i]);
  expect_close(dots, dots_wanted, dots_scale, 1, accumulation(D) + 0x1p-24 * static_cast<double>(F),
               "sums of f·df");
  const auto dz = f_there.read();
  const auto dz_bytes = dz_operand.read();
  expect_close(dz, dz_wanted, dz_wanted, F, kBf16 + accumulation(D), "dz");
  expect_same(dz_bytes, operand_of(dz, e[kE4m3Dz], dm_exponents, F), "operand of dz");

  // dn.
  const DeviceArray<e4m3> up_across(transposed(up, F, D));
  const DeviceArray<bf16> dn(T * D);
  cuda::mlp_e4m3_up_backward(stream, dz_operand.data(), row_exponents.data(), up_across.data(),
                             exponents.data(), T, D, F, dn.data());
  auto dn_wanted = product(dz_bytes, transposed(up, F, D), T, D, F);
  for (size_t i = 0; i < dn_wanted.size(); ++i)
    dn_wanted[i] = std::ldexp(
        dn_wanted[i], -(dm_exponents[i / static_cast<size_t>(D)] + e[kE4m3Dz] + e[kE4m3Up]));
  expect_close(dn.read(), dn_wanted, dn_wanted, D, kBf16 + accumulation(F), "dn");

  // dx from dm, which is about as large, and not much smaller than what lies along n.
  const double scale = 0.25;
  std::vector<float> rstd;
  for (int64_t t = 0; t < T; ++t) rstd.push_back(static_cast<float>(1 + t % 3));
  const DeviceArray<float> rstd_there(rstd);
  const DeviceArray<cuda::NormBackRow> rows_there(T);
  const cuda::NormBackScales scales{row_exponents.data(), exponents.data() + kE4m3Dz,
                                    exponents.data() + kE4m3Up};
  cuda::norm_back_rows(
      stream, {half_dots.data(), tiles, T, D, nullptr, nullptr, 0, rstd_there.data(), scale},
      &scales, rows_there.data());
  const auto rows = rows_there.read();
  std::vector<double> factors, along, factors_wanted, along_wanted, along_scale;
  for (size_t t = 0; t < rows.size(); ++t) {
    const double r = value_of(rstd[t]);
    double magnitudes = 0;
    for (size_t i = t; i < partial.size(); i += rows.size())
      magnitudes += std::fabs(value_of(partial[i]));
    factors.push_back(value_of(rows[t].factor));
    along.push_back(value_of(rows[t].along));
    factors_wanted.push_back(std::ldexp(r * scale, -(dm_exponents[t] + e[kE4m3Dz] + e[kE4m3Up])));
    along_wanted.push_back(-2 * r * dots[t] / (static_cast<double>(D) * scale));
    along_scale.push_back(2 * r * magnitudes / (static_cast<double>(D) * scale));
  }
  const double few = 0x1p-24 * static_cast<double>(tiles + 8);
  expect_close(factors, factors_wanted, factors_wanted, 1, few, "factors");
  expect_close(along, along_wanted, along_scale, 1, few, "factors of n");
  const auto n_rows = normals(T * D, 3);
  const DeviceArray<bf16> n_rows_there(n_rows), dx(dm);
  cuda::linear_norm_back<e4m3>(stream, {dz_operand.data(), up_across.data(), n_rows_there.data(),
                                        rows_there.data(), dx.data(), T, D, F});
  std::vector<double> dx_wanted, dx_scale;
  for (size_t i = 0; i < dm.size(); ++i) {
    const size_t t = i / static_cast<size_t>(D);
    const double of_dn = dn_wanted[i] * value_of(rstd[t]) * scale,
                 of_n = value_of(n_rows[i]) * along[t];
    dx_wanted.push_back(value_of(dm[i]) + of_dn + of_n);
    dx_scale.push_back(std::hypot(value_of(dm[i]), of_dn, of_n));
  }
  expect_close(dx.read(), dx_wanted, dx_scale, D, kBf16 + accumulation(F), "dx");
}

INSTANTIATE_TEST_SUITE_P(Sizes, GpuE4m3Products,
                         ::testing::Values(Sizes{1, 128, 128, 0, 0}, Sizes{127, 128, 256, 0, 0},
                                           Sizes{300, 384, 640, 0, 0}, Sizes{513, 512, 2048, 0, 0},
                                           // f and dz saturate; are subnormal or zero.
                                           Sizes{200, 256, 384, 6, 6},
                                           Sizes{200, 256, 384, -12, -10}));

// --- the op -----------------------------------------------------------------------------------

struct Mlp {
  int64_t T, D, F;
  std::vector<double> n, dm, residual, up, down;  // one layer
};

// [rows, columns] of 0, 1 and −1, at most `most` of them not 0 in a row (or `across`, in a column).
std::vector<double> few_units(int64_t rows, int64_t columns, int64_t most, uint64_t stream,
                              bool across) {
  const Philox rng(9, stream);
  std::vector<double> out(static_cast<size_t>(rows * columns));
  const int64_t lines = across ? columns : rows, length = across ? rows : columns;
  for (int64_t line = 0; line < lines; ++line)
    for (int64_t k = 0; k < most; ++k) {
      const uint64_t bits = rng.bits(static_cast<uint64_t>(line * most + k));
      const auto place = static_cast<int64_t>((bits >> 1) % static_cast<uint64_t>(length));
      out[static_cast<size_t>(across ? place * columns + line : line * columns + place)] =
          (bits & 1) != 0 ? 1 : -1;
    }
  return out;
}

// An MLP whose every number is exact on the way, but for the operands' rounding to e4m3: |z| ≤ 15
// and |df| ≤ 7 times a power of two, so that f and dz fit bf16, and sums fit the tensor cores.
Mlp exact_mlp(int64_t T, int64_t D, int64_t F) {
  Mlp p{T, D, F, {}, {}, {}, few_units(F, D, 15, 1, false), few_units(D, F, 7, 2, true)};
  const Philox rng(9, 3);
  for (int64_t i = 0; i < T * D; ++i) {
    const uint64_t bits = rng.bits(static_cast<uint64_t>(i));
    p.n.push_back(static_cast<double>(bits % 3) - 1);
    p.dm.push_back(
        std::ldexp(static_cast<double>((bits >> 20) % 3) - 1, static_cast<int>(i / D % 5) - 2));
    p.residual.push_back(static_cast<double>((bits >> 40) % 15) - 7);
  }
  return p;
}

struct Results {
  std::vector<double> y, m, dn, dwup, dwdown, dx;
};

// On any device and element type.
template <class Device, class T>
Results run(Device& device, const Mlp& p) {
  using A = Accum<T>;
  std::vector<typename Device::Buffer> memory;
  const auto place = [&]<class U>(const std::vector<double>& values, Shape shape, U) {
    std::vector<U> converted;
    for (const double v : values) {
      if constexpr (std::is_same_v<U, bf16>)
        converted.push_back(bf16(static_cast<float>(v)));
      else
        converted.push_back(static_cast<U>(v));
    }
    converted.resize(static_cast<size_t>(shape.size()));
    memory.push_back(device.allocate(converted.size() * sizeof(U)));
    device.upload(memory.back().data(), converted.data(), converted.size() * sizeof(U));
    return Tensor<U>(reinterpret_cast<U*>(memory.back().data()), shape);
  };
  const auto fetch = [&]<class U>(Tensor<U> x) {
    std::vector<U> values(static_cast<size_t>(x.size()));
    device.download(values.data(), x.data, values.size() * sizeof(U));
    std::vector<double> out;
    for (const U v : values) {
      if constexpr (std::is_same_v<U, bf16>)
        out.push_back(value_of(v));
      else
        out.push_back(static_cast<double>(v));
    }
    return out;
  };
  const Shape rows{p.T, p.D};
  const auto n = place(p.n, rows, T()), dm = place(p.dm, rows, T()),
             residual = place(p.residual, rows, T());
  const auto up = place(p.up, {1, p.F, p.D}, T()), down = place(p.down, {1, p.D, p.F}, T());
  const MlpE4m3<T> w{place({}, {1, p.F, p.D}, T()), place({}, {1, p.D, p.F}, T()),
                     place({}, {1, kE4m3Exponents}, int32_t())};
  const MlpHidden<T> hidden{place({}, {p.T, p.F}, T()),
                            place({}, {mlp_sign_words<T>(p.T, p.F)}, uint32_t())};
  const auto y = place({}, rows, T()), m = place({}, rows, T()), dn = place({}, rows, T());
  const auto dwup = place(p.up, {p.F, p.D}, A()), dwdown = place(p.down, {p.D, p.F}, A());
  const std::array<double, 1> ln{1};
  mlp_e4m3_weights<T>(device, up, down, ln, w);
  mlp_leaky_sq_e4m3<T>(device, n, w.slice(0), {}, hidden, m);
  mlp_leaky_sq_e4m3<T>(device, n, w.slice(0), residual, hidden, y);
  mlp_leaky_sq_e4m3_backward<T>(device, dm, n, hidden, w.slice(0), dn, dwup, dwdown);
  const Results r{fetch(y), fetch(m), fetch(dn), fetch(dwup), fetch(dwdown), {}};
  // Once more, into the norm; weight gradients have been seen.
  const auto rstd = place(std::vector<double>(static_cast<size_t>(p.T), 1.5), {p.T}, A());
  const auto dx = place(p.dm, rows, T());
  mlp_leaky_sq_e4m3<T>(device, n, w.slice(0), {}, hidden, m);
  mlp_leaky_sq_e4m3_backward<T>(device, dx, n, hidden, w.slice(0), dn, dwup, dwdown,
                                {rstd, 0.5, dx, {}});
  return {r.y, r.m, r.dn, r.dwup, r.dwdown, fetch(dx)};
}

// As bf16 holds them.
std::vector<double> rounded(const std::vector<double>& x) {
  std::vector<double> out;
  for (const double v : x) out.push_back(value_of(bf16(static_cast<float>(v))));
  return out;
}
void expect_equal(const std::vector<double>& got, const std::vector<double>& want,
                  const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]) << what << ", element " << i;
}

TEST_F(GpuE4m3, OpIsExactWhereNumbersAre) {
  CpuDevice cpu(2);
  for (const auto& [T, D, F] : {std::array<int64_t, 3>{1, 128, 128}, {130, 256, 384}}) {
    SCOPED_TRACE(std::to_string(T) + " x " + std::to_string(D) + " x " + std::to_string(F));
    const Mlp p = exact_mlp(T, D, F);
    const Results want = run<CpuDevice, double>(cpu, p), got = run<CudaDevice, bf16>(*gpu(), p);
    expect_equal(got.m, rounded(want.m), "m");
    expect_equal(got.y, rounded(want.y), "y");
    expect_equal(got.dwdown, want.dwdown, "dwdown");
    expect_equal(got.dwup, want.dwup, "dwup");
    expect_equal(got.dn, rounded(want.dn), "dn");
  }
}

Mlp random_mlp(int64_t T, int64_t D, int64_t F) {
  return {T,
          D,
          F,
          values_of(normals(T * D, 11)),
          values_of(normals(T * D, 12, 1e-4)),
          values_of(normals(T * D, 13)),
          values_of(normals(F * D, 14, 1 / std::sqrt(static_cast<double>(D)))),
          values_of(normals(D * F, 15, 1 / std::sqrt(static_cast<double>(F))))};
}

TEST_F(GpuE4m3, RowsHaveTheSameBitsAmongOthers) {
  const Mlp all = random_mlp(700, 256, 512);
  Mlp some = all;
  const int64_t first = 203, count = 150;
  some.T = count;
  const auto cut = [&](const std::vector<double>& x) {
    return std::vector<double>(x.begin() + first * all.D, x.begin() + (first + count) * all.D);
  };
  some.n = cut(all.n), some.dm = cut(all.dm), some.residual = cut(all.residual);
  const Results together = run<CudaDevice, bf16>(*gpu(), all),
                alone = run<CudaDevice, bf16>(*gpu(), some),
                again = run<CudaDevice, bf16>(*gpu(), all);
  EXPECT_EQ(alone.y, cut(together.y));
  EXPECT_EQ(alone.dn, cut(together.dn));
  EXPECT_EQ(alone.dx, cut(together.dx));
  EXPECT_EQ(again.y, together.y);
  EXPECT_EQ(again.dn, together.dn);
  EXPECT_EQ(again.dx, together.dx);
  EXPECT_EQ(again.dwup, together.dwup);
  EXPECT_EQ(again.dwdown, together.dwdown);
}

// dm's operand from elsewhere is what the products read: of 2·dm it brings back twice as much.
TEST_F(GpuE4m3, OperandMadeBefore) {
  const int64_t T = 300, D = 256, F = 384;
  const auto dm_values = normals(T * D, 42, 1e-4);
  std::vector<bf16> doubled;
  doubled.reserve(dm_values.size());
  for (const bf16 x : dm_values) doubled.push_back(bf16(2 * static_cast<float>(x)));
  const DeviceArray<bf16> n(normals(T * D, 41)), dm(dm_values), twice(doubled),
      up(normals(F * D, 43, 0.06)), down(normals(D * F, 44, 0.05)), up_operand(F * D),
      down_operand(D * F), f(T * F), m(T * D), dn(T * D);
  const DeviceArray<uint32_t> signs(mlp_sign_words<bf16>(T, F));
  const DeviceArray<int32_t> exponents(kE4m3Exponents);
  const DeviceArray<float> rstd(std::vector<float>(static_cast<size_t>(T), 1.5f)), dwup(F * D),
      dwdown(D * F);
  const MlpE4m3<bf16> bank{{up_operand.data(), {1, F, D}},
                           {down_operand.data(), {1, D, F}},
                           {exponents.data(), {1, kE4m3Exponents}}};
  const double ln = 1;
  mlp_e4m3_weights<bf16>(*gpu(), {up.data(), {1, F, D}}, {down.data(), {1, D, F}}, {&ln, 1}, bank);
  const Tensor<bf16> rows_of_n{n.data(), {T, D}}, rows_of_dm{dm.data(), {T, D}};
  const auto gradient = [&](const E4m3Rows& dm_rows) {
    const DeviceArray<bf16> dx(std::vector<bf16>(static_cast<size_t>(T * D)));
    const MlpHidden<bf16> hidden{{f.data(), {T, F}}, {signs.data(), {signs.count()}}};
    mlp_leaky_sq_e4m3<bf16>(*gpu(), rows_of_n, bank.slice(0), {}, hidden, {m.data(), {T, D}});
    if (dm_rows)
      cuda::mlp_e4m3_operand_dm(gpu()->stream(), twice.data(), T, D, dm_rows.x.data,
                                dm_rows.exponents.data);
    mlp_leaky_sq_e4m3_backward<bf16>(*gpu(), rows_of_dm, rows_of_n, hidden, bank.slice(0),
                                     {dn.data(), {T, D}}, {dwup.data(), {F, D}},
                                     {dwdown.data(), {D, F}},
                                     {{rstd.data(), {T}}, 1, {dx.data(), {T, D}}, {}}, dm_rows);
    return values_of(dx.read());
  };
  const E4m3Rows rows = mlp_e4m3_dm_rows<bf16>(*gpu(), T, D, F);
  ASSERT_TRUE(rows);
  std::vector<double> want = gradient({});
  for (double& x : want) x *= 2;
  EXPECT_EQ(gradient(rows), want);
}

TEST_F(GpuE4m3, NormInFrontChangesNoBit) {
  // A row in registers, in more of them, and read twice.
  for (const auto& [T, D, F] :
       {std::array<int64_t, 3>{300, 512, 640}, {37, 896, 128}, {9, 1152, 256}}) {
    SCOPED_TRACE(D);
    const DeviceArray<bf16> x(normals(T * D, 21, 3)), up(normals(F * D, 22, 0.05)),
        down(normals(D * F, 23, 0.05)), up_operand(F * D), down_operand(D * F);
    const DeviceArray<int32_t> exponents(kE4m3Exponents);
    const MlpE4m3<bf16> bank{{up_operand.data(), {1, F, D}},
                             {down_operand.data(), {1, D, F}},
                             {exponents.data(), {1, kE4m3Exponents}}};
    const double ln = 0.7, eps = 0x1p-23;
    mlp_e4m3_weights<bf16>(*gpu(), {up.data(), {1, F, D}}, {down.data(), {1, D, F}}, {&ln, 1},
                           bank);
    const auto run = [&](auto&& op) {
      const DeviceArray<float> rstd(T);
      const DeviceArray<bf16> n(T * D), f(T * F), y(T * D);
      const DeviceArray<uint32_t> signs(mlp_sign_words<bf16>(T, F));
      const Tensor<const bf16> in{x.data(), {T, D}};
      const MlpHidden<bf16> hidden{{f.data(), {T, F}}, {signs.data(), {signs.count()}}};
      op(*gpu(), in, eps, ln, Tensor<float>{rstd.data(), {T}}, Tensor<bf16>{n.data(), {T, D}},
         bank.slice(0), in, hidden, Tensor<bf16>{y.data(), {T, D}});
      const auto r = rstd.read();
      std::vector<double> all(r.begin(), r.end());
      for (const auto* one : {&n, &f, &y}) {
        const auto values = values_of(one->read());
        all.insert(all.end(), values.begin(), values.end());
      }
      return all;
    };
    EXPECT_EQ(run([](auto&&... a) { norm_mlp_leaky_sq_e4m3<bf16>(a...); }),
              run([](auto&&... a) { norm_mlp_leaky_sq_e4m3_steps<bf16>(a...); }));
  }
}

}  // namespace
}  // namespace fairway

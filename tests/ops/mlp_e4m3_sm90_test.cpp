// The e4m3 MLP on Hopper GPUs: how operands are made, bit for bit; each product by itself, against
// double sums over the very bytes that it reads; and the op where every sum is exact, against the
// CPU's.
#include "fairway/ops/mlp_e4m3_sm90.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
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
#include "fairway/ops/mlp_e4m3_weights_sm90.cuh"
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

// Such a product, and how far from it the tensor cores may be at worst. An instruction adds 32
// terms to a sum: all are aligned to the largest exponent among them, where a zero's or a
// subnormal's is that of the least normal number, and cut off 13 bits below it. So it errs by less
// than a unit there for every term that has bits below it (few have: a term has 8), and by one each
// for the sum before and behind it. `inner` is cut into slices of whole blocks of 128, whose sums
// are added as floats.
struct Sums {
  std::vector<double> sum, error;
};
Sums sums_with_error(const std::vector<e4m3>& a, const std::vector<e4m3>& b, int64_t rows,
                     int64_t columns, int64_t inner, int slices = 1,
                     int64_t span = std::numeric_limits<int64_t>::max()) {
  constexpr int64_t kTerms = 32, kBlock = 128;
  const auto exponents_of = [](const std::vector<e4m3>& x) {
    std::vector<int> out;
    out.reserve(x.size());
    for (const e4m3 one : x) out.push_back(std::max(one.bits >> 3 & 15, 1) - 7);
    return out;
  };
  const auto x = values_of(a), y = values_of(b);
  const auto of_x = exponents_of(a), of_y = exponents_of(b);
  const int64_t blocks = (inner + kBlock - 1) / kBlock;
  Sums out;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      double total = 0, error = 0, magnitudes = 0;
      int additions = 0;
      for (int64_t slice = 0; slice < slices; ++slice) {
        const int64_t begin = blocks * slice / slices * kBlock,
                      end = std::min(blocks * (slice + 1) / slices * kBlock, inner);
        double sum = 0;
        for (int64_t k = begin; k < end; k += kTerms) {
          if (k > begin && (k - begin) % span == 0) {  // goes on as a float
            total += sum;
            magnitudes += std::fabs(sum);
            ++additions;
            sum = 0;
          }
          std::array<double, kTerms> terms{};
          double after = sum;
          int largest = std::ilogb(sum);
          for (int64_t l = 0; l < std::min(kTerms, end - k); ++l) {
            const auto at_x = static_cast<size_t>(i * inner + k + l),
                       at_y = static_cast<size_t>(j * inner + k + l);
            terms[static_cast<size_t>(l)] = x[at_x] * y[at_y];
            after += terms[static_cast<size_t>(l)];
            largest = std::max(largest, of_x[at_x] + of_y[at_y]);
          }
          const double unit = std::ldexp(1.0, std::max(largest, std::ilogb(after)) - 13);
          const double whole = 0x3p51 * unit;  // what is added to it, it keeps whole units of
          int cut = 2;
          for (const double term : terms) cut += (term + whole) - whole != term ? 1 : 0;
          error += cut * unit;
          sum = after;
        }
        total += sum;
        magnitudes += std::fabs(sum);
        ++additions;
      }
      out.sum.push_back(total);
      out.error.push_back(error + 0x1p-24 * additions * magnitudes);
    }
  return out;
}

// Which values a byte may hold.
struct Range {
  double low, high;

  // Of Q(x·2^e) where x, in here, errs by so much more, relatively.
  Range rounded(int e, double error) const {
    const auto q = [&](double v, double sign) {
      return round_to_e4m3(std::ldexp(v + sign * error * std::fabs(v), e));
    };
    return {q(low, -1), q(high, 1)};
  }
  bool has(e4m3 x) const { return low <= value_of(x) && value_of(x) <= high; }
};
std::ostream& operator<<(std::ostream& out, const Range& r) {
  return out << r.low << " to " << r.high;
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
  int shift_z, shift_f, shift_dz;  // of the exponents, from where nothing saturates or underflows
};
void PrintTo(const Sizes& s, std::ostream* out) {
  *out << s.T << " rows, D " << s.D << ", F " << s.F << ", exponents of z, f and dz shifted by "
       << s.shift_z << ", " << s.shift_f << ", " << s.shift_dz;
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
    const DeviceArray<int32_t> exponents(std::vector<int32_t>{e, 9, 9, 9, 9, 9});
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
  const auto [T, D, F, shift_z, shift_f, shift_dz] = GetParam();
  const auto stream = gpu()->stream();
  // n of size 1, so z and f are too; f·2^4 < 448 for |z| < 5.
  const std::array<int32_t, kE4m3Exponents> e{6, 10, 3 + shift_z, 4 + shift_f, 11, -4 + shift_dz};
  const auto n = operand_of(normals(T * D, 3), e[kE4m3N]);
  const auto up = operand_of(normals(F * D, 4, 1 / std::sqrt(static_cast<double>(D))), e[kE4m3Up]);
  const auto down =
      operand_of(normals(D * F, 5, 1 / std::sqrt(static_cast<double>(F))), e[kE4m3Down]);
  const DeviceArray<int32_t> exponents(std::vector<int32_t>(e.begin(), e.end()));
  const int64_t hidden = T * F;

  // z, and f, whose square is rounded once before.
  const DeviceArray<e4m3> n_there(n), up_there(up), f_there(hidden), z_there(hidden);
  cuda::mlp_e4m3_up(stream, n_there.data(), up_there.data(), exponents.data(), T, D, F,
                    f_there.data(), z_there.data());
  Sums z = sums_with_error(n, up, T, F, D);
  for (auto* const values : {&z.sum, &z.error})
    for (double& one : *values) one = std::ldexp(one, -(e[kE4m3N] + e[kE4m3Up]));
  const auto f_bytes = f_there.read(), z_bytes = z_there.read();
  for (size_t i = 0; i < f_bytes.size(); ++i) {
    const Range z_wanted =
        Range{z.sum[i] - z.error[i], z.sum[i] + z.error[i]}.rounded(e[kE4m3Z], 0);
    ASSERT_TRUE(z_wanted.has(z_bytes[i]))
        << "z, element " << i << ": " << value_of(z_bytes[i]) << ", not " << z_wanted;
    const auto leaky_sq = [](double v) { return std::pow(std::max(v, v / 2), 2); };
    const double one = leaky_sq(z.sum[i] - z.error[i]), other = leaky_sq(z.sum[i] + z.error[i]);
    const bool through_zero = std::fabs(z.sum[i]) <= z.error[i];
    const Range want = Range{through_zero ? 0 : std::min(one, other), std::max(one, other)}.rounded(
        e[kE4m3F], 0x1p-24);
    ASSERT_TRUE(want.has(f_bytes[i]))
        << "f, element " << i << ": " << value_of(f_bytes[i]) << ", not " << want;
  }

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
  cuda::mlp_e4m3_down(stream, f_there.data(), down_there.data(), exponents.data(), nullptr, T, D, F,
                      m_there.data());
  cuda::mlp_e4m3_down(stream, f_there.data(), down_there.data(), exponents.data(),
                      residual_there.data(), T, D, F, y_there.data());
  cuda::mlp_e4m3_down(stream, f_there.data(), down_there.data(), exponents.data(), in_place.data(),
                      T, D, F, in_place.data());
  expect_close(m_there.read(), m, m, D, kBf16 + accumulation(F), "m");
  expect_close(y_there.read(), y_wanted, y_scale, D, kBf16 + accumulation(F), "y");
  EXPECT_EQ(values_of(in_place.read()), values_of(y_there.read()));

  // dz, and each row's Σ z·dz/2.
  const auto dm = rows_of_many_sizes(T, D, 7, 81, -50);
  const auto dm_exponents = exponents_of_rows(dm, D);
  const auto dm_bytes = operand_of(dm, 0, dm_exponents, D);
  const DeviceArray<e4m3> dm_there(dm_bytes), down_across(transposed(down, D, F)), dz_there(hidden);
  const DeviceArray<int32_t> row_exponents(dm_exponents);
  const int64_t tiles = cuda::leaky_sq_dot_tiles(F);
  const DeviceArray<float> half_dots(tiles * T);
  const auto down_backward = [&](const DeviceArray<e4m3>& to, float* dots) {
    cuda::mlp_e4m3_down_backward(stream, dm_there.data(), row_exponents.data(), down_across.data(),
                                 exponents.data(), z_there.data(), T, D, F, to.data(), dots);
    return to.read();
  };
  const auto dz_bytes = down_backward(dz_there, half_dots.data());
  expect_same(down_backward(z_there, nullptr), dz_bytes, "dz in z's place");
  Sums df = sums_with_error(dm_bytes, transposed(down, D, F), T, F, D);
  std::vector<double> dots(static_cast<size_t>(T)), dots_wanted = dots, dots_scale = dots;
  for (size_t i = 0; i < dz_bytes.size(); ++i) {
    const size_t row = i / static_cast<size_t>(F);
    for (auto* const values : {&df.sum, &df.error})
      (*values)[i] = std::ldexp((*values)[i], -(dm_exponents[row] + e[kE4m3Down]));
    const double of_z = std::ldexp(value_of(z_bytes[i]), -e[kE4m3Z]);
    const double slope = std::max(2 * of_z, of_z / 2), half_dot = of_z * slope / 2 * df.sum[i];
    dots_wanted[row] += half_dot;
    dots_scale[row] += std::fabs(half_dot);
    // The slope is exact, and its product with df rounded once before.
    const double one = (df.sum[i] - df.error[i]) * slope, other = (df.sum[i] + df.error[i]) * slope;
    const Range want = Range{std::min(one, other), std::max(one, other)}.rounded(
        dm_exponents[row] + e[kE4m3Dz], 0x1p-24);
    ASSERT_TRUE(want.has(dz_bytes[i]))
        << "dz, element " << i << ": " << value_of(dz_bytes[i]) << ", not " << want;
  }
  const auto partial = half_dots.read();
  for (size_t i = 0; i < partial.size(); ++i)
    dots[i % static_cast<size_t>(T)] += value_of(partial[i]);
  expect_close(dots, dots_wanted, dots_scale, 1, accumulation(D) + 0x1p-24 * static_cast<double>(F),
               "sums of z·dz/2");

  // dn.
  const DeviceArray<e4m3> up_across(transposed(up, F, D));
  const DeviceArray<bf16> dn(T * D);
  cuda::mlp_e4m3_up_backward(stream, dz_there.data(), row_exponents.data(), up_across.data(),
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
  cuda::linear_norm_back<e4m3>(stream, {dz_there.data(), up_across.data(), n_rows_there.data(),
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

INSTANTIATE_TEST_SUITE_P(
    Sizes, GpuE4m3Products,
    ::testing::Values(Sizes{1, 128, 128, 0, 0, 0}, Sizes{127, 128, 256, 0, 0, 0},
                      Sizes{300, 384, 640, 0, 0, 0}, Sizes{513, 512, 2048, 0, 0, 0},
                      // z, f and dz saturate; are subnormal or zero.
                      Sizes{200, 256, 384, 6, 6, 6}, Sizes{200, 256, 384, -10, -12, -10}));

// --- gradients of weights ---------------------------------------------------------------------

// Where row t of a matrix is in its columns (MlpE4m3Columns).
int64_t place_in_column(int64_t t) {
  const int64_t number = t % 16, half = number / 8, q = number % 8 / 2, e = number % 2;
  return t - number + 4 * q + 2 * half + e;
}

// Columns in device memory.
struct ColumnsThere {
  ColumnsThere(int64_t T_, int64_t D_)
      : T(T_),
        D(D_),
        width(cuda::MlpE4m3Columns::width(T)),
        dm(D * width),
        n(D * width),
        exponent(1) {}
  cuda::MlpE4m3Columns get() const { return {dm.data(), n.data(), exponent.data()}; }

  int64_t T, D, width;
  DeviceArray<e4m3> dm, n;
  DeviceArray<int32_t> exponent;
};

TEST_F(GpuE4m3, OperandColumns) {
  for (const auto& [T, D] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 128}, {15, 384}, {127, 128}, {300, 512}, {513, 384}})
    // Of rows whose exponents are 100 apart, n times 2^-kE4m3MaxExponent is read.
    for (const int sizes : {9, 101}) {
      SCOPED_TRACE(std::to_string(T) + " x " + std::to_string(D) + " of " + std::to_string(sizes) +
                   " sizes");
      const auto dm = rows_of_many_sizes(T, D, 51, sizes, -50),
                 n = rows_of_many_sizes(T, D, 52, 61, -8);
      const auto of_rows = exponents_of_rows(dm, D);
      const std::vector<int32_t> e{6, 99, 99, 99, 99, 99};
      const DeviceArray<bf16> dm_there(dm), n_there(n);
      const DeviceArray<int32_t> of_rows_there(of_rows), exponents(e);
      const ColumnsThere to(T, D);
      cuda::mlp_e4m3_operand_columns(gpu()->stream(), dm_there.data(), n_there.data(),
                                     of_rows_there.data(), exponents.data(), T, D, to.get());
      const int32_t least = *std::min_element(of_rows.begin(), of_rows.end());
      EXPECT_EQ(to.exponent.read(), std::vector<int32_t>{least});
      std::vector<e4m3> dm_wanted(static_cast<size_t>(D * to.width)), n_wanted = dm_wanted;
      for (int64_t t = 0; t < T; ++t)
        for (int64_t d = 0; d < D; ++d) {
          const auto from = static_cast<size_t>(t * D + d),
                     at = static_cast<size_t>(d * to.width + place_in_column(t));
          const int of_n =
              std::max(e[kE4m3N] + least - of_rows[static_cast<size_t>(t)], -kE4m3MaxExponent);
          dm_wanted[at] = to_e4m3(static_cast<float>(dm[from]) * power_of_two(least));
          n_wanted[at] = to_e4m3(static_cast<float>(n[from]) * power_of_two(of_n));
        }
      expect_same(to.dm.read(), dm_wanted, "columns of dm");
      expect_same(to.n.read(), n_wanted, "columns of n");
    }
}

struct WeightSizes {
  int64_t T, D, F;
  int multiprocessors, slices;
};
void PrintTo(const WeightSizes& s, std::ostream* out) {
  *out << s.T << " rows, D " << s.D << ", F " << s.F << ", " << s.slices << " slices";
}

class GpuE4m3Weights : public GpuE4m3, public ::testing::WithParamInterface<WeightSizes> {
 protected:
  // [D, width(T)] → [D, T] in the rows' order.
  static std::vector<e4m3> in_order(const std::vector<e4m3>& columns, const ColumnsThere& of) {
    std::vector<e4m3> out(static_cast<size_t>(of.D * of.T));
    for (int64_t d = 0; d < of.D; ++d)
      for (int64_t t = 0; t < of.T; ++t)
        out[static_cast<size_t>(d * of.T + t)] =
            columns[static_cast<size_t>(d * of.width + place_in_column(t))];
    return out;
  }

  // What `add` adds to a matrix: the sums times 2^-e, twice with the same bits.
  template <class Add>
  static void expect_added(Add&& add, const Sums& sums, int e, const char* what) {
    double squares = 0;
    for (const double sum : sums.sum) squares += sum * sum / static_cast<double>(sums.sum.size());
    const auto before =
        testing::random_floats(std::ssize(sums.sum), 5, 53, std::ldexp(std::sqrt(squares), -e));
    const DeviceArray<float> dw(before), dw_again(before);
    add(dw.data());
    add(dw_again.data());
    const auto got = dw.read();
    EXPECT_EQ(dw_again.read(), got) << what << ": another run gave other bits";
    for (size_t i = 0; i < got.size(); ++i) {
      const double want = value_of(before[i]) + std::ldexp(sums.sum[i], -e);
      const double error = std::ldexp(sums.error[i], -e);
      // Of the last addition, whose result may err.
      const double last = 0x1p-24 * (std::fabs(want) + error);
      ASSERT_LE(std::fabs(value_of(got[i]) - want), error + last)
          << what << ", element " << i << ": " << got[i] << " instead of " << want;
    }
  }
};

TEST_P(GpuE4m3Weights, AreSumsOfTheirOperands) {
  const auto [T, D, F, multiprocessors, slices] = GetParam();
  ASSERT_EQ(cuda::mlp_e4m3_weight_slices(T, D, F, multiprocessors), slices);
  const auto stream = gpu()->stream();
  const std::array<int32_t, kE4m3Exponents> e{6, 10, 3, 4, 11, -4};
  const auto dm = rows_of_many_sizes(T, D, 54, 3, 0), n = normals(T * D, 55);
  // f is not negative; dz, at a scale of its row, is of one size.
  std::vector<e4m3> f, dz;
  for (const float x : testing::random_floats(T * F, 5, 56)) f.push_back(to_e4m3(16 * x * x));
  for (const float x : testing::random_floats(T * F, 5, 57)) dz.push_back(to_e4m3(x));
  const DeviceArray<bf16> dm_there(dm), n_there(n);
  const DeviceArray<e4m3> f_there(f), dz_there(dz);
  const DeviceArray<int32_t> of_rows(exponents_of_rows(dm, D)),
      exponents(std::vector<int32_t>(e.begin(), e.end()));
  const ColumnsThere columns(T, D);
  cuda::mlp_e4m3_operand_columns(stream, dm_there.data(), n_there.data(), of_rows.data(),
                                 exponents.data(), T, D, columns.get());
  const int32_t of_dm = columns.exponent.read()[0];
  const DeviceArray<float> partial(
      static_cast<int64_t>(cuda::mlp_e4m3_weight_bytes(D, F, slices) / sizeof(float)));
  expect_added(
      [&, F = F, D = D, T = T, slices = slices](float* dw) {
        cuda::mlp_e4m3_down_weight(stream, columns.get(), f_there.data(), exponents.data(), T, D, F,
                                   slices, partial.data(), dw);
      },
      sums_with_error(in_order(columns.dm.read(), columns), transposed(f, T, F), D, F, T, slices,
                      cuda::kMlpE4m3SpanRows),
      of_dm + e[kE4m3F], "gradient of Wdown");
  expect_added(
      [&, F = F, D = D, T = T, slices = slices](float* dw) {
        cuda::mlp_e4m3_up_weight(stream, columns.get(), dz_there.data(), exponents.data(), T, D, F,
                                 slices, partial.data(), dw);
      },
      sums_with_error(transposed(dz, T, F), in_order(columns.n.read(), columns), F, D, T, slices,
                      cuda::kMlpE4m3SpanRows),
      of_dm + e[kE4m3Dz] + e[kE4m3N], "gradient of Wup");
  partial.read();
}

// Tiles are pairs of 128 hidden columns times 256 of D, slices whole blocks of 128 rows.
INSTANTIATE_TEST_SUITE_P(
    Sizes, GpuE4m3Weights,
    ::testing::Values(WeightSizes{1, 128, 128, 132, 1}, WeightSizes{127, 384, 256, 132, 1},
                      WeightSizes{300, 384, 640, 1, 1}, WeightSizes{300, 384, 640, 132, 3},
                      WeightSizes{513, 512, 384, 132, 5}, WeightSizes{1000, 128, 384, 20, 5},
                      WeightSizes{1000, 512, 128, 132, 8},
                      // Sums that go to memory in between: whole spans, and a block more.
                      WeightSizes{4096, 128, 128, 1, 1}, WeightSizes{4200, 128, 256, 1, 1},
                      WeightSizes{8200, 128, 256, 4, 2}));

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

// An MLP whose every sum is exact, and what is rounded to e4m3 too: of |z| ≤ 20 and |df| ≤ 7, or
// half of it, so that f and dz are exact, and sums of what they are rounded to fit the tensor
// cores. Ties are rounded as everywhere.
Mlp exact_mlp(int64_t T, int64_t D, int64_t F) {
  Mlp p{T, D, F, {}, {}, {}, few_units(F, D, 34, 1, false), few_units(D, F, 7, 2, true)};
  const Philox rng(9, 3);
  for (int64_t i = 0; i < T * D; ++i) {
    const uint64_t bits = rng.bits(static_cast<uint64_t>(i));
    p.n.push_back(static_cast<double>(bits % 3) - 1);
    p.dm.push_back(
        std::ldexp(static_cast<double>((bits >> 20) % 3) - 1, static_cast<int>(i / D % 2) - 1));
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
  MlpHidden<T> hidden;
  if constexpr (std::is_same_v<Device, CudaDevice>)
    for (Tensor<e4m3>* const bytes : {&hidden.f, &hidden.z_rounded})
      *bytes = {reinterpret_cast<e4m3*>(place({}, {p.T, p.F / 4}, uint32_t()).data), {p.T, p.F}};
  else
    hidden.z = place({}, {p.T, p.F}, T());
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
  mlp_leaky_sq_e4m3_backward<T>(device, dx, n, hidden, w.slice(0), dn, dwup, dwdown, {},
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

// The second is more tiles than multiprocessors.
TEST_F(GpuE4m3, RowsHaveTheSameBitsAmongOthers) {
  for (const Mlp& all : {random_mlp(700, 256, 512), random_mlp(6000, 384, 2048)}) {
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
}

// dm's operand from elsewhere is what the products of rows and dWup read: of 2·dm it brings back
// twice as much. dWdown reads dm itself, at half the scale, which changes no bit where no element
// is subnormal.
TEST_F(GpuE4m3, OperandMadeBefore) {
  const int64_t T = 300, D = 256, F = 384;
  std::vector<bf16> dm_values, doubled;
  for (const float x : testing::random_floats(T * D, 5, 42)) {
    const float size = std::clamp(std::fabs(x), 0x1p-4f, 0x1p2f) * 0x1p-13f;
    dm_values.push_back(bf16(std::copysign(size, x)));
    doubled.push_back(bf16(2 * static_cast<float>(dm_values.back())));
  }
  const DeviceArray<bf16> n(normals(T * D, 41)), dm(dm_values), twice(doubled),
      up(normals(F * D, 43, 0.06)), down(normals(D * F, 44, 0.05)), up_operand(F * D),
      down_operand(D * F), m(T * D), dn(T * D);
  const DeviceArray<e4m3> f(T * F), z(T * F);
  const DeviceArray<int32_t> exponents(kE4m3Exponents);
  const DeviceArray<float> rstd(std::vector<float>(static_cast<size_t>(T), 1.5f));
  const MlpE4m3<bf16> bank{{up_operand.data(), {1, F, D}},
                           {down_operand.data(), {1, D, F}},
                           {exponents.data(), {1, kE4m3Exponents}}};
  const double ln = 1;
  mlp_e4m3_weights<bf16>(*gpu(), {up.data(), {1, F, D}}, {down.data(), {1, D, F}}, {&ln, 1}, bank);
  const Tensor<bf16> rows_of_n{n.data(), {T, D}}, rows_of_dm{dm.data(), {T, D}};
  struct Gradients {
    std::vector<double> dx, dwup, dwdown;
  };
  const auto gradients = [&](const E4m3Rows& dm_rows) -> Gradients {
    const DeviceArray<bf16> dx(std::vector<bf16>(static_cast<size_t>(T * D)));
    const DeviceArray<float> dwup(std::vector<float>(static_cast<size_t>(F * D))),
        dwdown(std::vector<float>(static_cast<size_t>(D * F)));
    const MlpHidden<bf16> hidden{{}, {}, {f.data(), {T, F}}, {z.data(), {T, F}}};
    mlp_leaky_sq_e4m3<bf16>(*gpu(), rows_of_n, bank.slice(0), {}, hidden, {m.data(), {T, D}});
    if (dm_rows)
      cuda::mlp_e4m3_operand_dm(gpu()->stream(), twice.data(), T, D, dm_rows.x.data,
                                dm_rows.exponents.data);
    mlp_leaky_sq_e4m3_backward<bf16>(*gpu(), rows_of_dm, rows_of_n, hidden, bank.slice(0),
                                     {dn.data(), {T, D}}, {dwup.data(), {F, D}},
                                     {dwdown.data(), {D, F}}, {},
                                     {{rstd.data(), {T}}, 1, {dx.data(), {T, D}}, {}}, dm_rows);
    return {values_of(dx.read()), values_of(dwup.read()), values_of(dwdown.read())};
  };
  const E4m3Rows rows = mlp_e4m3_dm_rows<bf16>(*gpu(), T, D, F);
  ASSERT_TRUE(rows);
  Gradients want = gradients({});
  for (auto* const values : {&want.dx, &want.dwup})
    for (double& x : *values) x *= 2;
  const Gradients got = gradients(rows);
  EXPECT_EQ(got.dx, want.dx);
  EXPECT_EQ(got.dwup, want.dwup);
  EXPECT_EQ(got.dwdown, want.dwdown);
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
    const auto run = [&](bool operand_of_norm) {
      const DeviceArray<float> rstd(T);
      const DeviceArray<bf16> n(T * D), y(T * D);
      const DeviceArray<e4m3> f(T * F), z(T * F);
      const Tensor<const bf16> in{x.data(), {T, D}};
      const Tensor<bf16> normed{n.data(), {T, D}};
      const MlpHidden<bf16> hidden{{}, {}, {f.data(), {T, F}}, {z.data(), {T, F}}};
      Tensor<e4m3> operand;
      if (operand_of_norm) operand = mlp_e4m3_n_rows<bf16>(*gpu(), T, D, F);
      mlp_e4m3_norm<bf16>(*gpu(), in, eps, ln, bank.slice(0), Tensor<float>{rstd.data(), {T}},
                          normed, operand);
      mlp_leaky_sq_e4m3<bf16>(*gpu(), normed, bank.slice(0), in, hidden,
                              Tensor<bf16>{y.data(), {T, D}}, {}, operand);
      const auto r = rstd.read();
      std::vector<double> all(r.begin(), r.end());
      for (const auto& values :
           {values_of(n.read()), values_of(f.read()), values_of(z.read()), values_of(y.read())})
        all.insert(all.end(), values.begin(), values.end());
      return all;
    };
    EXPECT_EQ(run(true), run(false));
  }
}

TEST_F(GpuE4m3, KeepingNothingChangesNoBit) {
  const int64_t T = 300, D = 256, F = 640;
  const DeviceArray<bf16> n(normals(T * D, 61)), up(normals(F * D, 62, 0.05)),
      down(normals(D * F, 63, 0.05)), up_operand(F * D), down_operand(D * F), y(T * D), bare(T * D);
  const DeviceArray<int32_t> exponents(kE4m3Exponents);
  const MlpE4m3<bf16> bank{{up_operand.data(), {1, F, D}},
                           {down_operand.data(), {1, D, F}},
                           {exponents.data(), {1, kE4m3Exponents}}};
  const double ln = 1;
  mlp_e4m3_weights<bf16>(*gpu(), {up.data(), {1, F, D}}, {down.data(), {1, D, F}}, {&ln, 1}, bank);
  const DeviceArray<e4m3> f(T * F), z(T * F), z_alone(T * F);
  const Tensor<const bf16> in{n.data(), {T, D}};
  const auto run = [&](const MlpHidden<bf16>& hidden, const DeviceArray<bf16>& to) {
    mlp_leaky_sq_e4m3<bf16>(*gpu(), in, bank.slice(0), in, hidden, {to.data(), {T, D}});
    return values_of(to.read());
  };
  const auto want = run({{}, {}, {f.data(), {T, F}}, {z.data(), {T, F}}}, y);
  EXPECT_EQ(run({}, bare), want);
  // As in test-time training.
  EXPECT_EQ(run({{}, {}, {}, {z_alone.data(), {T, F}}}, bare), want);
  EXPECT_EQ(values_of(z_alone.read()), values_of(z.read()));
}

}  // namespace
}  // namespace fairway

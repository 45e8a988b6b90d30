#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "fairway/io/safetensors.h"
#include "fairway/quant/brotli_yardstick.h"
#include "fairway/quant/gaussian.h"
#include "fairway/quant/half_coder.h"
#include "fairway/quant/matrix_coder.h"
#include "quant/synthetic.h"

namespace fairway {
namespace {

TEST(RangeCoder, RoundTripOfExtremeFrequencies) {
  // Symbols of one part in 2^24 and of all but one, in every order: carries and long shifts.
  const Philox random(1, 1);
  std::vector<std::pair<uint32_t, uint32_t>> symbols;  // low, size
  for (uint64_t i = 0; i < 20000; ++i) {
    const uint32_t size = uint32_t{1} << random.below(3 * i, 24);
    uint32_t low = static_cast<uint32_t>(random.below(3 * i + 1, kFrequencyTotal - size + 1));
    if (random.below(3 * i + 2, 3) == 0) low = kFrequencyTotal - size;
    if (random.below(3 * i + 2, 7) == 0) low = 0;
    symbols.emplace_back(low, size);
  }
  symbols.emplace_back(0, kFrequencyTotal);
  RangeEncoder encoder;
  double bits = 0;
  for (const auto& [low, size] : symbols) {
    encoder.encode(low, size);
    bits += 24 - std::log2(size);
  }
  const std::vector<std::byte> bytes = encoder.finish();
  // 2^-24 lost a symbol, and less than a word at the end.
  EXPECT_LE(static_cast<double>(bytes.size()) * 8, bits * (1 + 1e-5) + 24);
  RangeDecoder decoder(bytes);
  for (const auto& [low, size] : symbols) {
    const uint32_t at = decoder.peek();
    ASSERT_GE(at, low);
    ASSERT_LT(at, low + size);
    decoder.take(low, size);
  }
}

TEST(Gaussian, TableIsPhi) {
  const NormalTables& tables = NormalTables::get();
  for (int64_t step = -4096; step < 4096; ++step) {  // 1/256 σ each
    const double z = static_cast<double>(step) / 256;
    // The trapezoid rule is off by h²/12 · max |φ'| = 3.1e-7 at most, roundings by 2^-24.
    ASSERT_NEAR(tables.cdf(0, step * 256) / double(kFrequencyTotal),
                0.5 * std::erfc(-z / std::numbers::sqrt2), 4e-7)
        << z;
  }
}

TEST(Gaussian, IsANormalDistribution) {
  const NormalTables& tables = NormalTables::get();
  for (double sigma : {0.2, 0.7, 2.41, 6.35, 40.0})
    for (double mean : {0.0, 0.3, -11.7}) {
      const DiscreteGaussian d(tables, -127, 127, 0, std::lround(mean * 256),
                               static_cast<uint64_t>(std::lround(sigma * sigma * 4096)));
      const double m = std::lround(mean * 256) / 256.0;
      uint32_t total = 0;
      for (int x = -127; x <= 127; ++x) {
        const uint32_t frequency = d.below(x + 1) - d.below(x);
        ASSERT_GE(frequency, 1u);
        total += frequency;
        const auto phi = [&](double edge) {
          return 0.5 * std::erfc(-(edge - m) / sigma / std::numbers::sqrt2);
        };
        const double p = (x == 127 ? 1 : phi(x + 0.5)) - (x == -127 ? 0 : phi(x - 0.5));
        // The variance's table has 8 bits: σ is right to 1/512, a share of p and a shift of the
        // tails.
        EXPECT_NEAR(frequency / double(kFrequencyTotal), p, 0.004 * p + 3e-4 * 2.5 / sigma + 2e-5);
        EXPECT_EQ(d.find(d.below(x)), x);
        EXPECT_EQ(d.find(d.below(x + 1) - 1), x);
      }
      EXPECT_EQ(total, kFrequencyTotal);
    }
}

TEST(Gaussian, EveryShapeAndVarianceGivesEachNumberAFrequency) {
  const NormalTables& tables = NormalTables::get();
  for (int shape = 0; shape < kShapes; ++shape)
    for (uint64_t variance = 1; variance < uint64_t{1} << 44; variance = variance * 5 / 4 + 1)
      for (int64_t mean : {int64_t{0}, int64_t{1} << 14, -(int64_t{1} << 20)}) {
        const DiscreteGaussian d(tables, -31, 31, shape, mean, variance);
        for (int x = -31; x <= 31; ++x) ASSERT_LT(d.below(x), d.below(x + 1));
        ASSERT_EQ(d.below(-31), 0u);
        ASSERT_EQ(d.below(32), kFrequencyTotal);
      }
}

// Codes back, and what the issue asks for: within 1% of the model's entropy.
void expect_round_trip(const QuantizedMatrix& q) {
  const CodedMatrix coded = encode_matrix(q);
  ASSERT_TRUE(coded.params.valid());
  std::vector<int8_t> codes(q.codes.size());
  decode_matrix(coded.bytes, coded.params, q.rows, q.cols, q.bits, codes.data());
  EXPECT_EQ(codes, q.codes);
  const double bits = static_cast<double>(coded.bytes.size()) * 8;
  EXPECT_LE(bits, coded.model_bits * 1.0001 + 24);
}

TEST(MatrixCoder, RoundTripAtAllBitsAndShapes) {
  uint64_t seed = 1;
  for (int bits = 2; bits <= 8; ++bits)
    for (const auto& [rows, cols] :
         {std::pair<int64_t, int64_t>{1, 1}, {1, 300}, {300, 1}, {37, 53}})
      expect_round_trip(synthetic_matrix(rows, cols, bits, bits == 8 ? 20 : 8, 0.3, ++seed));
}

TEST(MatrixCoder, RoundTripOfUnlikelyMatrices) {
  QuantizedMatrix q = synthetic_matrix(40, 60, 8, 20, 0, 5);
  std::fill(q.codes.begin(), q.codes.end(), int8_t{0});
  expect_round_trip(q);
  std::fill(q.codes.begin(), q.codes.end(), int8_t{-127});
  expect_round_trip(q);
  for (size_t i = 0; i < q.codes.size(); ++i) q.codes[i] = i % 2 ? 127 : -127;
  expect_round_trip(q);
  for (size_t i = 0; i < q.codes.size(); ++i)
    q.codes[i] = static_cast<int8_t>(i / 60 == 39 ? 127 : 0);
  expect_round_trip(q);
  const Philox random(3, 3);
  for (size_t i = 0; i < q.codes.size(); ++i)
    q.codes[i] = static_cast<int8_t>(static_cast<int>(random.below(i, 255)) - 127);
  expect_round_trip(q);
}

// Gaussian codes cannot be coded in fewer bits than their entropy (which the known energy of the
// rows lowers a little); the coder comes within 1% of it from above, prior and learning included.
TEST(MatrixCoder, ComesWithinOnePercentOfTheEntropyOfAGaussianSource) {
  const double sigma = 31 / 12.85;
  double entropy = 0;
  for (int x = -31; x <= 31; ++x) {
    const double p = 0.5 * (std::erfc((x - 0.5) / sigma / std::numbers::sqrt2) -
                            std::erfc((x + 0.5) / sigma / std::numbers::sqrt2));
    if (p > 0) entropy -= p * std::log2(p);
  }
  const QuantizedMatrix q = synthetic_matrix(512, 512, 6, 12.85, 0, 9);
  const CodedMatrix coded = encode_matrix(q);
  const double bits =
      static_cast<double>(coded.bytes.size()) * 8 / static_cast<double>(q.codes.size());
  EXPECT_LT(bits, 1.01 * entropy);
  EXPECT_GT(bits, 0.99 * entropy);
}

// Columns of different variances: near the mean of their entropies, well below that of the codes'
// own histogram.
TEST(MatrixCoder, LearnsTheVarianceOfColumns) {
  const QuantizedMatrix q = synthetic_matrix(512, 512, 6, 12.85, 0.4, 10);
  std::vector<double> histogram(64);
  for (int8_t c : q.codes) histogram[static_cast<size_t>(c + 31)] += 1;
  const auto n = static_cast<double>(q.codes.size());
  double entropy = 0;
  for (double h : histogram)
    if (h > 0) entropy -= h * std::log2(h / n);
  EXPECT_LT(static_cast<double>(encode_matrix(q).bytes.size()) * 8, 0.96 * entropy);
}

// Rows of tokens that training never saw are all alike: they must cost next to nothing.
TEST(MatrixCoder, RepeatedRowsAreCheap) {
  QuantizedMatrix q = synthetic_matrix(300, 128, 8, 20, 0.1, 11);
  const Philox random(5, 5);
  for (int64_t i = 101; i < 200; ++i)
    for (int64_t j = 0; j < 128; ++j) {
      const auto u = static_cast<size_t>(i * 128 + j);
      const int noise = random.below(u, 20) == 0 ? 1 : 0;
      q.codes[u] =
          static_cast<int8_t>(std::min(127, q.codes[100 * 128 + static_cast<size_t>(j)] + noise));
    }
  expect_round_trip(q);
  const CodedMatrix coded = encode_matrix(q);
  EXPECT_EQ(coded.params.repeats, 1);
  EXPECT_EQ(encode_matrix(synthetic_matrix(300, 128, 8, 20, 0.1, 11)).params.repeats, 0);
  // 201 rows at 4.71 bits a code; 99 at the entropy of the noise, 0.29, and something for doubt.
  EXPECT_LT(coded.model_bits, 128 * (201 * 4.75 + 99 * 0.5));
}

TEST(MatrixCoder, AnyBytesDecodeWithinRange) {
  const Philox random(4, 4);
  for (uint64_t trial = 0; trial < 200; ++trial) {
    std::vector<std::byte> bytes(random.below(9000 + trial, 60));
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = trial % 3 == 0 ? std::byte{0xFF}
                                : static_cast<std::byte>(random.below(trial * 100 + i, 256));
    MatrixParams params;
    params.mean_square = static_cast<uint32_t>(1 + random.below(7000 + trial, 1 << 20));
    params.prior = static_cast<uint8_t>(random.below(8000 + trial, 8));
    params.slack = static_cast<uint8_t>(random.below(8500 + trial, 4));
    params.shape = static_cast<uint8_t>(random.below(8700 + trial, 4));
    params.repeats = trial % 2;
    ASSERT_TRUE(params.valid());
    const int bits = 2 + static_cast<int>(trial % 7), c_max = (1 << (bits - 1)) - 1;
    std::vector<int8_t> codes(700);
    decode_matrix(bytes, params, 10, 70, bits, codes.data());
    for (int8_t c : codes) ASSERT_LE(std::abs(c), c_max);
  }
}

// Sums stay within 64 bits whatever a file says: for `make sanitize`.
TEST(MatrixCoder, ForgedParametersDoNotOverflow) {
  constexpr int64_t kCols = 1 << 18;
  MatrixParams params;
  params.mean_square = 1 << 20;
  const std::vector<std::byte> bytes(64, std::byte{0xA5});
  std::vector<int8_t> codes(kCols);
  for (params.slack = 0; params.slack < 4; ++params.slack)
    decode_matrix(bytes, params, 1, kCols, 8, codes.data());
  EXPECT_TRUE(std::all_of(codes.begin(), codes.end(), [](int8_t c) { return c >= -127; }));
}

TEST(HalfCoder, RoundTripOfAllBitPatterns) {
  std::vector<uint16_t> all(65536), ones(500, 0x3C00), previous(500), none;
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i * 40503);
  for (size_t i = 0; i < previous.size(); ++i)
    previous[i] = float_to_fp16(1.0f + 0.001f * static_cast<float>(i % 97));
  std::vector<uint16_t> again = previous;
  const std::vector<HalfSeries> series = {
      {"a", all}, {"b", ones}, {"c", previous}, {"none", none}, {"c", again}};
  std::vector<double> bits;
  const std::vector<std::byte> bytes = encode_halves(series, &bits);
  ASSERT_EQ(bits.size(), 5u);
  EXPECT_LT(bits[1], 500 * 3.0);
  EXPECT_LT(bits[4], bits[2] * 0.7);
  double total = 0;
  for (double b : bits) total += b;
  EXPECT_LE(static_cast<double>(bytes.size()) * 8, total * 1.0001 + 24);

  std::vector<uint16_t> out_all(65536), out_ones(500), out_previous(500), out_none, out_again(500);
  decode_halves(bytes, std::vector<HalfSeries>{{"a", out_all},
                                               {"b", out_ones},
                                               {"c", out_previous},
                                               {"none", out_none},
                                               {"c", out_again}});
  EXPECT_EQ(out_all, all);
  EXPECT_EQ(out_ones, ones);
  EXPECT_EQ(out_previous, previous);
  EXPECT_EQ(out_again, again);
}

// The record's container is a magic of four bytes, the stride, then the planes.
TEST(BrotliYardstick, GoldenBytePlanes) {
  const SafetensorsFile golden(FAIRWAY_TEST_DATA "/golden/a.safetensors");
  const auto in = golden.read<uint8_t>("byte_shuffle.in"),
             out = golden.read<uint8_t>("byte_shuffle.out");
  const auto planes = byte_planes(std::as_bytes(std::span(in)), out.at(4));
  ASSERT_EQ(planes.size() + 5, out.size());
  for (size_t i = 0; i < planes.size(); ++i)
    EXPECT_EQ(std::to_integer<uint8_t>(planes[i]), out[i + 5]);
}

}  // namespace
}  // namespace fairway

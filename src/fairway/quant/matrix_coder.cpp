#include "fairway/quant/matrix_coder.h"

#include <algorithm>
#include <array>
#include <bit>

#include "fairway/base/check.h"
#include "fairway/quant/adaptive_bit.h"
#include "fairway/quant/gaussian.h"

namespace fairway {

namespace {

constexpr int64_t kMaxMeanSquare = 1 << 20;
constexpr int kPriors = 8, kSlacks = 4;
constexpr std::array<int, kPriors> kPriorRows = {4, 8, 14, 24, 48, 96, 200, 1000};
constexpr std::array<int, kSlacks> kSlackFactor = {1, 2, 4, 1 << 20};

// Rounding a value of variance v to an integer adds about 1/12 to it.
constexpr int64_t kRoundingVariance = (1 << kVarianceBits) / 12, kLeastVariance = 64;

// Distributions of mean 0 for each of 32 variances an octave, made when first asked for.
class CenteredGaussians {
 public:
  struct Row {
    const uint32_t* frequencies_below;  // of lo, lo + 1, …; then kFrequencyTotal, then padding
    int lo, padded;
    uint32_t below(int x) const { return frequencies_below[x - lo]; }
    int find(uint32_t at) const {
      int n = 0;  // how many of the edges lie at or under it; a fixed count, so that it vectorises
      for (int k = 0; k < padded; ++k) n += frequencies_below[k] <= at;
      return lo + n - 1;
    }
  };

  CenteredGaussians(const NormalTables& tables, int c_max, int shape)
      : tables_(tables), c_max_(c_max), shape_(shape), padded_((2 * c_max + 2 + 15) / 16 * 16) {
    place_.fill(kNotMade);
  }

  // Good until the next call.
  Row of(uint64_t variance) {
    const int exponent = std::min<int>(std::bit_width(variance) - 1, kTopExponent);
    const uint64_t step = (variance >> (exponent - 5)) & 31;
    const auto level = static_cast<size_t>(exponent - kLowExponent) * 32 + step;
    if (place_[level] == kNotMade) {
      place_[level] = static_cast<uint32_t>(edges_.size());
      edges_.resize(edges_.size() + static_cast<size_t>(padded_));
      uint32_t* const edges = edges_.data() + place_[level];
      const uint64_t middle = ((2 * (32 + step) + 1) << (exponent - 5)) >> 1;
      const DiscreteGaussian d(tables_, -c_max_, c_max_, shape_, 0, middle);
      for (int k = 0; k < padded_; ++k)
        edges[k] = k <= 2 * c_max_ + 1 ? d.below(k - c_max_) : ~uint32_t{0};
    }
    return {edges_.data() + place_[level], -c_max_, padded_};
  }

 private:
  static constexpr int kLowExponent = 6, kTopExponent = 28;  // of Q12 variances from 64 on
  static constexpr size_t kLevels = (kTopExponent - kLowExponent + 1) * 32;
  const NormalTables& tables_;
  int c_max_, shape_, padded_;
  static constexpr uint32_t kNotMade = ~uint32_t{0};
  std::array<uint32_t, kLevels> place_;  // of each level in edges_
  std::vector<uint32_t> edges_;
};

// The model, row after row, left to right. S_j = Σ q² of column j over the i rows so far, ν the
// prior's weight, μ₂ the mean square:
//   c_j = ρ (S_j + ν μ₂) / (i + ν), with ρ such that Σ_j c_j = cols μ₂, the energy of every row;
//   to come is C = Σ_{k≥j} c_k by the columns, R by what is left of the row's energy; R − C is
//   believed in the ratio t = 2Q / (2Q + slack · cols μ₂/3), Q = Σ_{k≥j} c_k², and spread over the
//   columns to come: v = c_j (1 + t (R − C)/C) − 1/12.
// Rows that repeat the last one: mean q_{i−1,j}, one variance for all, learnt; they teach the
// columns nothing.
class MatrixModel {
 public:
  MatrixModel(const MatrixParams& params, int64_t rows, int64_t cols, int bits)
      : tables_(NormalTables::get()),
        rows_(rows),
        cols_(cols),
        c_max_((1 << (bits - 1)) - 1),
        shape_(params.shape),
        has_repeats_(params.repeats != 0),
        mean_square_(int64_t{params.mean_square} << (kVarianceBits - 6)),
        prior_(kPriorRows[params.prior]),
        energy_(mean_square_ * cols),
        slack_(energy_ / 3 * kSlackFactor[params.slack]),
        centered_(tables_, c_max_, shape_),
        column_(static_cast<size_t>(cols)),
        variance_(column_.size()),
        ahead_(column_.size() + 1),
        gain_(column_.size()),
        run_mean_(column_.size()),
        repeat_variance_(std::max(mean_square_ / 8, kLeastVariance)) {}

  template <class Codec>
  void code(const Codec& codec, int8_t* codes) {
    for (int64_t i = 0; i < rows_; ++i) {
      int8_t* row = codes + i * cols_;
      bool repeats = false;
      if (has_repeats_ && i > 0) {
        repeats = codec(repeat_bit_, nearly_repeats(row, row - cols_)) != 0;
        repeat_bit_.learn(repeats);
      }
      if (repeats)
        code_repeat(codec, row, row - cols_);
      else
        code_row(codec, row);
      run_ = repeats ? run_ + 1 : 0;
    }
  }

  bool any_repeats(const int8_t* codes) const {
    for (int64_t i = 1; i < rows_; ++i)
      if (nearly_repeats(codes + i * cols_, codes + (i - 1) * cols_)) return true;
    return false;
  }

 private:
  // The encoder's choice (a decoder's row holds nothing yet, and it ignores the answer).
  bool nearly_repeats(const int8_t* row, const int8_t* last) const {
    int64_t difference = 0, energy = 0;
    for (int64_t j = 0; j < cols_; ++j) {
      difference += (row[j] - last[j]) * (row[j] - last[j]);
      energy += row[j] * row[j];
    }
    return 2 * difference < energy;
  }

  // `last` is the row before: row run_ of a run of rows alike, whose mean is expected again.
  template <class Codec>
  void code_repeat(const Codec& codec, int8_t* row, const int8_t* last) {
    const auto variance = static_cast<uint64_t>(repeat_variance_);
    int64_t squares = 0;  // of the differences, in 1/2^16
    for (int64_t j = 0; j < cols_; ++j) {
      int64_t& mean = run_mean_[static_cast<size_t>(j)];
      const int64_t known = int64_t{last[j]} << kMeanBits;
      mean = run_ == 0 ? known : mean + (known - mean) / std::min<int64_t>(run_ + 1, 32);
      const DiscreteGaussian d(tables_, -c_max_, c_max_, shape_, mean, variance);
      row[j] = static_cast<int8_t>(codec(d, row[j]));
      const int64_t difference = (int64_t{row[j]} << kMeanBits) - mean;
      squares += difference * difference;
    }
    const int64_t seen = (squares >> (2 * kMeanBits - kVarianceBits)) / cols_ - kRoundingVariance;
    ++repeats_;
    repeat_variance_ += (seen - repeat_variance_) / std::min<int64_t>(repeats_, 16);
    repeat_variance_ = std::max(repeat_variance_, kLeastVariance);
  }

  void begin_row() {
    const auto n = static_cast<size_t>(cols_);
    const int64_t weight = learnt_ + prior_;
    const int64_t reciprocal = (int64_t{1} << 32) / weight, prior = prior_ * mean_square_;
    int64_t sum = 0;
    for (size_t j = 0; j < n; ++j) {
      variance_[j] = ((((column_[j] << kVarianceBits) + prior) >> 6) * reciprocal) >> 26;
      sum += variance_[j];
    }
    // ρ in 1/2^16.
    const int64_t ratio =
        std::clamp<int64_t>((energy_ << 16) / std::max<int64_t>(sum, 1), 1, 1 << 20);
    for (size_t j = 0; j < n; ++j) variance_[j] = (variance_[j] * ratio) >> 16;
    ahead_[n] = 0;
    int64_t squares = 0;  // Q in 1/16
    for (size_t j = n; j-- > 0;) {
      ahead_[j] = ahead_[j + 1] + variance_[j];
      const int64_t v = variance_[j] >> (kVarianceBits - 6);
      squares += (v * v) >> 8;
      // t/C changes slowly while much is still to come: every eighth column will do.
      if (n - j <= 64 || j % 8 == 7 || j + 1 == n) {
        const int64_t total = 2 * squares + (slack_ >> (kVarianceBits - 4)) + 1;
        // No model has squares that large, but a forged mean square may make them.
        const bool fits = squares < int64_t{1} << 45;
        const int64_t t = fits ? (squares << 17) / total : squares / (total >> 17);
        gain_[j] = std::min<int64_t>((t << 24) / std::max<int64_t>(ahead_[j], 1), 1 << 24);
      } else {
        gain_[j] = gain_[j + 1];
      }
    }
  }

  template <class Codec>
  void code_row(const Codec& codec, int8_t* row) {
    begin_row();
    ++learnt_;
    int64_t left = energy_;
    for (int64_t j = 0; j < cols_; ++j) {
      const auto u = static_cast<size_t>(j);
      const int64_t excess =
          std::clamp<int64_t>(left - ahead_[u], -(int64_t{1} << 38), int64_t{1} << 38);
      // At most −70% and +200%, in 1/2^16.
      const int64_t factor = std::clamp<int64_t>((excess * gain_[u]) >> 24, -45875, 131072);
      const int64_t v = variance_[u] + ((variance_[u] * factor) >> 16) - kRoundingVariance;
      row[j] = static_cast<int8_t>(
          codec(centered_.of(static_cast<uint64_t>(std::max(v, kLeastVariance))), row[j]));
      const int64_t square = int64_t{row[j]} * row[j];
      column_[u] += square;
      left -= square << kVarianceBits;
    }
  }

  const NormalTables& tables_;
  int64_t rows_, cols_;
  int c_max_, shape_;
  bool has_repeats_;
  int64_t mean_square_;  // μ₂, Q12
  int64_t prior_;        // ν, rows
  int64_t energy_;       // of a row, Q12
  int64_t slack_;        // Q12
  CenteredGaussians centered_;
  int64_t learnt_ = 0;             // rows in S_j
  std::vector<int64_t> column_;    // S_j
  std::vector<int64_t> variance_;  // c_j, Q12
  std::vector<int64_t> ahead_;     // Σ_{k≥j} c_k, Q12
  std::vector<int64_t> gain_;      // t/C, in 1/2^28 per 1/4096
  AdaptiveBit repeat_bit_;
  std::vector<int64_t> run_mean_;                    // Q8
  int64_t run_ = 0, repeats_ = 0, repeat_variance_;  // Q12
};

}  // namespace

bool MatrixParams::valid() const {
  return mean_square >= 1 && mean_square <= kMaxMeanSquare && prior < kPriors && slack < kSlacks &&
         shape < kShapes && repeats <= 1;
}

CodedMatrix encode_matrix(const QuantizedMatrix& m) {
  CodedMatrix best;
  int64_t energy = 0;
  for (int8_t q : m.codes) energy += int64_t{q} * q;
  const auto count = static_cast<int64_t>(m.codes.size());
  best.params.mean_square = static_cast<uint32_t>(
      std::clamp<int64_t>((energy * 64 + count / 2) / count, 1, kMaxMeanSquare));
  best.params.prior = 3, best.params.slack = 1;

  std::vector<int8_t> codes = m.codes;
  best.params.repeats = MatrixModel(best.params, m.rows, m.cols, m.bits).any_repeats(codes.data());
  const auto cost = [&](const MatrixParams& params) {
    BitCounter counter;
    MatrixModel(params, m.rows, m.cols, m.bits).code(Count{counter}, codes.data());
    return counter.bits();
  };
  best.model_bits = cost(best.params);
  // One parameter at a time, downhill.
  const auto improve = [&](uint8_t MatrixParams::*key, int options) {
    for (int step : {1, -1})
      for (int value = best.params.*key + step; value >= 0 && value < options; value += step) {
        MatrixParams params = best.params;
        params.*key = static_cast<uint8_t>(value);
        const double bits = cost(params);
        if (bits >= best.model_bits) break;
        best.params = params, best.model_bits = bits;
      }
  };
  improve(&MatrixParams::prior, kPriors);
  improve(&MatrixParams::slack, kSlacks);
  improve(&MatrixParams::shape, kShapes);

  RangeEncoder encoder;
  MatrixModel(best.params, m.rows, m.cols, m.bits).code(Encode{encoder}, codes.data());
  best.bytes = encoder.finish();
  return best;
}

void decode_matrix(std::span<const std::byte> bytes, const MatrixParams& params, int64_t rows,
                   int64_t cols, int bits, int8_t* codes) {
  check(params.valid(), "decode_matrix: parameters");
  RangeDecoder decoder(bytes);
  MatrixModel(params, rows, cols, bits).code(Decode{decoder}, codes);
}

}  // namespace fairway

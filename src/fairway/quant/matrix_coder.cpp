#include "fairway/quant/matrix_coder.h"

#include <algorithm>
#include <array>

#include "fairway/base/check.h"
#include "fairway/quant/gaussian.h"

namespace fairway {

namespace {

constexpr int64_t kMaxMeanSquare = 1 << 20;
constexpr int kPriors = 8, kSlacks = 4;
constexpr std::array<int, kPriors> kPriorRows = {4, 8, 14, 24, 48, 96, 200, 1000};
constexpr std::array<int, kSlacks> kSlackFactor = {1, 2, 4, 1 << 20};

// Rounding a value of variance v to an integer adds about 1/12 to it.
constexpr int64_t kRoundingVariance = (1 << kVarianceBits) / 12, kLeastVariance = 64;

// The model, row after row, left to right. S_j = Σ q² of column j over the rows coded, ν the
// prior's weight, μ₂ the mean square:
//   c_j = ρ · (S_j + ν μ₂) / (i + ν), with ρ such that Σ_j c_j = cols · μ₂ = the row's energy;
//   the energy still to come is E = Σ_{k≥j} c_k by the columns, R by what is left of the row's; R −
//   E is believed in the ratio 2 Σ_{k≥j} c_k² : that + slack · cols · μ₂/3, and spread over the
//   columns to come.
class MatrixModel {
 public:
  MatrixModel(const MatrixParams& params, int64_t rows, int64_t cols, int bits)
      : tables_(NormalTables::get()),
        rows_(rows),
        cols_(cols),
        c_max_((1 << (bits - 1)) - 1),
        shape_(params.shape),
        mean_square_(int64_t{params.mean_square} << (kVarianceBits - 6)),
        prior_(kPriorRows[params.prior]),
        energy_(mean_square_ * cols),
        slack_(energy_ / 3 * kSlackFactor[params.slack]),
        column_(static_cast<size_t>(cols)),
        variance_(column_.size()),
        ahead_(column_.size() + 1),
        trust_(column_.size()) {}

  template <class Codec>
  void code(const Codec& codec, int8_t* codes) {
    for (int64_t i = 0; i < rows_; ++i) {
      begin_row(i);
      code_row(codec, codes + i * cols_);
    }
  }

 private:
  void begin_row(int64_t i) {
    const auto n = static_cast<size_t>(cols_);
    const int64_t weight = i + prior_;
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
    int64_t squares = 0;  // Σ c² in 1/16
    for (size_t j = n; j-- > 0;) {
      ahead_[j] = ahead_[j + 1] + variance_[j];
      const int64_t v = variance_[j] >> (kVarianceBits - 6);
      squares += (v * v) >> 8;
      trust_[j] = (squares << 17) / (2 * squares + (slack_ >> (kVarianceBits - 4)) + 1);
    }
  }

  template <class Codec>
  void code_row(const Codec& codec, int8_t* codes) {
    int64_t left = energy_;
    for (int64_t j = 0; j < cols_; ++j) {
      const auto u = static_cast<size_t>(j);
      const int64_t excess = ((left - ahead_[u]) * trust_[u]) >> 16;
      const int64_t factor =
          std::clamp<int64_t>((excess << 16) / std::max<int64_t>(ahead_[u], 1), -45875, 131072);
      const int64_t v = variance_[u] + ((variance_[u] * factor) >> 16) - kRoundingVariance;
      const DiscreteGaussian d(tables_, -c_max_, c_max_, shape_, 0,
                               static_cast<uint64_t>(std::max(v, kLeastVariance)));
      codes[j] = static_cast<int8_t>(codec(d, codes[j]));
      const int64_t square = int64_t{codes[j]} * codes[j];
      column_[u] += square;
      left -= square << kVarianceBits;
    }
  }

  const NormalTables& tables_;
  int64_t rows_, cols_;
  int c_max_, shape_;
  int64_t mean_square_;            // μ₂, Q12
  int64_t prior_;                  // ν, rows
  int64_t energy_;                 // of a row, Q12
  int64_t slack_;                  // Q12
  std::vector<int64_t> column_;    // S_j
  std::vector<int64_t> variance_;  // c_j, Q12
  std::vector<int64_t> ahead_;     // Σ_{k≥j} c_k, Q12
  std::vector<int64_t> trust_;     // Q16
};

}  // namespace

bool MatrixParams::valid() const {
  return mean_square >= 1 && mean_square <= kMaxMeanSquare && prior < kPriors && slack < kSlacks &&
         shape < kShapes;
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

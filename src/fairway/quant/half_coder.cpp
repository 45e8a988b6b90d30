#include "fairway/quant/half_coder.h"

#include <algorithm>
#include <array>
#include <map>

#include "fairway/quant/adaptive_bit.h"
#include "fairway/quant/gaussian.h"

namespace fairway {

namespace {

struct Uniform {
  int bits;
  uint32_t below(int x) const { return static_cast<uint32_t>(x) << (kFrequencyBits - bits); }
  int find(uint32_t at) const { return static_cast<int>(at >> (kFrequencyBits - bits)); }
};

// Bits of a number, most significant first, each in the context of those before it.
template <int kBits>
struct AdaptiveTree {
  std::array<AdaptiveBit, 1 << kBits> node;
  template <class Codec>
  int code(const Codec& codec, int value) {
    int at = 1;
    for (int i = kBits - 1; i >= 0; --i) {
      AdaptiveBit& bit = node[static_cast<size_t>(at)];
      const int b = codec(bit, (value >> i) & 1);
      bit.learn(b);
      at = 2 * at + b;
    }
    return at - (1 << kBits);
  }
};

// Binary16 in ascending order of value as −32768 … 32767.
int16_t to_key(uint16_t half) {
  return static_cast<int16_t>(half & 0x8000 ? -1 - (half & 0x7FFF) : half);
}
uint16_t from_key(int key) {
  return static_cast<uint16_t>(key < 0 ? 0x8000 | (-1 - key) : key);
}

// What the series of one kind share. Keys are logarithm-like: within one sign, a constant ratio of
// values is nearly a constant difference of keys.
struct Kind {
  int64_t mean = 0;                     // of keys, Q8
  int64_t variance = int64_t{1} << 34;  // about the prediction, Q12
  int64_t count = 0;
  std::vector<int16_t> previous;  // keys of the last series
  int64_t previous_mean = 0;      // Q8
  // A forged file may have many kinds, so trees take memory only once a number went through them.
  std::vector<AdaptiveTree<6>> exponent;    // sign and exponent; none before the first kTree
  std::map<int, AdaptiveTree<4>> mantissa;  // its upper 4 bits, by what exponent gave
};

// How a series is predicted: from the running mean plus 0, 1/2 or all of what the last series of
// its kind had beyond its mean at that place; or through adaptive trees, for numbers of both signs.
enum Method { kMean, kHalf, kPrevious, kTree, kMethods };

template <class Codec>
void code_series(const Codec& codec, Kind& kind, int method, std::span<uint16_t> values) {
  method = codec(Uniform{2}, method);
  std::vector<int16_t> keys(values.size());
  if (kind.previous.size() != values.size()) {
    kind.previous.assign(values.size(), 0);
    kind.previous_mean = 0;
    if (method == kHalf || method == kPrevious) method = kMean;
  }
  if (method == kTree) kind.exponent.resize(1);
  int64_t sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (method == kTree) {
      const int upper = kind.exponent[0].code(codec, values[i] >> 10);
      const int middle = kind.mantissa[upper].code(codec, (values[i] >> 6) & 15);
      const int lower = codec(Uniform{6}, values[i] & 63);
      values[i] = static_cast<uint16_t>(upper << 10 | middle << 6 | lower);
      keys[i] = to_key(values[i]);
    } else {
      const int64_t known = (int64_t{kind.previous[i]} << kMeanBits) - kind.previous_mean;
      const int64_t beyond = method == kPrevious ? known : method == kHalf ? known / 2 : 0;
      constexpr int kShape = 2;
      const DiscreteGaussian d(NormalTables::get(), -32768, 32767, kShape, kind.mean + beyond,
                               static_cast<uint64_t>(kind.variance));
      keys[i] = static_cast<int16_t>(codec(d, to_key(values[i])));
      values[i] = from_key(keys[i]);
      const int64_t error = (int64_t{keys[i]} << kMeanBits) - (kind.mean + beyond);  // Q8
      ++kind.count;
      kind.mean += error / std::min<int64_t>(kind.count, 200);
      const int64_t square = std::clamp<int64_t>((error * error) >> 4, 64, int64_t{1} << 42);
      kind.variance += (square - kind.variance) / std::min<int64_t>((kind.count + 1) / 2, 100);
    }
    sum += keys[i];
  }
  if (!values.empty())
    kind.previous_mean = (sum << kMeanBits) / static_cast<int64_t>(values.size());
  kind.previous = std::move(keys);
}

}  // namespace

std::vector<std::byte> encode_halves(std::span<const HalfSeries> series,
                                     std::vector<double>* bits_out) {
  std::map<std::string, Kind> kinds;
  RangeEncoder encoder;
  if (bits_out) bits_out->clear();
  for (const HalfSeries& s : series) {
    Kind& kind = kinds[s.kind];
    int best_method = 0;
    double best_bits = 0;
    for (int method = 0; method < kMethods; ++method) {
      Kind trial = kind;
      BitCounter counter;
      code_series(Count{counter}, trial, method, s.values);
      if (method == 0 || counter.bits() < best_bits)
        best_method = method, best_bits = counter.bits();
    }
    code_series(Encode{encoder}, kind, best_method, s.values);
    if (bits_out) bits_out->push_back(best_bits);
  }
  return encoder.finish();
}

void decode_halves(std::span<const std::byte> bytes, std::span<const HalfSeries> series) {
  std::map<std::string, Kind> kinds;
  RangeDecoder decoder(bytes);
  for (const HalfSeries& s : series) code_series(Decode{decoder}, kinds[s.kind], 0, s.values);
}

}  // namespace fairway

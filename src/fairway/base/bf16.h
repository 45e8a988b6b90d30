// bfloat16 storage: the upper half of a float. Arithmetic happens in float.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace fairway {

struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  // Round to nearest, ties to even; NaN stays NaN.
  explicit bf16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const uint32_t rounded = u + 0x7FFFu + ((u >> 16) & 1u);
    const bool nan = (u & 0x7FFFFFFFu) > 0x7F800000u;
    bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : rounded >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// to[i] = from[i] rounded to nearest, ties to even.
inline void round_to_bf16(const float* from, int64_t n, bf16* to) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  static_assert(sizeof(bf16) == 2);
  for (; i + 32 <= n; i += 32) {
    const __m512bh pair =
        _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i));
    _mm512_storeu_si512(to + i, std::bit_cast<__m512i>(pair));
  }
#endif
  for (; i < n; ++i) to[i] = bf16(from[i]);
}

}  // namespace fairway

#include "fairway/quant/config.h"

#include "fairway/base/check.h"

namespace fairway {

void QuantConfig::validate() const {
  const auto between = [](const char* key, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
      usage_fail("[quant] {} = {}: must be between {} and {}", key, value, least, most);
  };
  const auto positive = [](const char* key, double value) {
    if (!(value > 0 && value < 1e6)) usage_fail("[quant] {} = {}: must be positive", key, value);
  };
  between("bits", bits, 2, 8);
  between("embed_bits", embed_bits, 2, 8);
  positive("clip_sigmas", clip_sigmas);
  positive("embed_clip_sigmas", embed_clip_sigmas);
  between("calibration_batches", calibration_batches, 1, 1 << 20);
  between("calibration_window", calibration_window, 1, 1 << 24);
  between("calibration_batch_tokens", calibration_batch_tokens, calibration_window,
          int64_t{1} << 32);
  positive("damping", damping);
  between("block", block, 1, 1 << 16);
  between("keep_float_elements", keep_float_elements, 0, int64_t{1} << 40);
}

}  // namespace fairway

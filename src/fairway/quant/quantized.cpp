#include "fairway/quant/quantized.h"

#include "fairway/base/fp16.h"
#include "fairway/model/weights.h"

namespace fairway {

void dequantize(const QuantizedMatrix& q, Tensor<float> out) {
  check(out.size() == q.rows * q.cols, "dequantize: shape");
  for (int64_t r = 0; r < q.rows; ++r) {
    const float scale = fp16_to_float(q.scales[static_cast<size_t>(r)]);
    const int8_t* codes = q.codes.data() + r * q.cols;
    float* row = out.data + r * q.cols;
    for (int64_t c = 0; c < q.cols; ++c) row[c] = scale * static_cast<float>(codes[c]);
  }
}

std::vector<float> dequantize(const QuantizedModel& model) {
  std::vector<float> flat(static_cast<size_t>(flat_size(model.config)), 0.0f);
  size_t i = 0;
  for_each_named(weights_view(model.config, flat.data()),
                 [&](const std::string& name, Tensor<float> out) {
                   check(i < model.tensors.size(), "dequantize: too few tensors");
                   const StoredTensor& stored = model.tensors[i++];
                   check(stored.name == name && stored.shape == out.shape, "dequantize: tensor");
                   if (stored.quantized()) {
                     dequantize(stored.matrix, out);
                   } else {
                     check(stored.half.size() == static_cast<size_t>(out.size()),
                           "dequantize: size of a float16 tensor");
                     for (int64_t j = 0; j < out.size(); ++j)
                       out[j] = fp16_to_float(stored.half[static_cast<size_t>(j)]);
                   }
                 });
  check(i == model.tensors.size(), "dequantize: too many tensors");
  return flat;
}

}  // namespace fairway

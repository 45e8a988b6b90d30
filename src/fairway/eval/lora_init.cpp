#include "fairway/eval/lora_init.h"

#include <algorithm>
#include <cmath>

#include "fairway/base/rng.h"
#include "fairway/io/safetensors.h"

namespace fairway {

namespace {

// Elements [begin, end) of A, begin a multiple of 4, are four to a Philox block, 24 bits each; the
// counter is the place in the document's buffer, so that no two adapters share numbers.
void fill_uniform(const Philox& random, int64_t offset, int64_t begin, int64_t end, float bound,
                  float* a) {
  for (int64_t i = begin; i < end; i += 4) {
    const auto words = random.block(static_cast<uint64_t>(offset + i));
    for (int64_t j = i; j < std::min(end, i + 4); ++j)
      a[j] = bound * (static_cast<float>(words[static_cast<size_t>(j - i)] >> 8) * 0x1p-23f - 1.0f);
  }
}

}  // namespace

void init_lora(CpuDevice& device, const LoraLayout& layout, uint64_t seed, uint64_t document,
               float* doc) {
  constexpr int64_t kBlock = 16384;
  const Philox random(seed, document);
  layout.for_each([&](const std::string&, int64_t a, int64_t in, int64_t b, int64_t out) {
    const int64_t n = layout.rank() * in, blocks = (n + kBlock - 1) / kBlock;
    const float bound = 1.0f / std::sqrt(static_cast<float>(in));
#pragma omp parallel for num_threads(device.threads()) schedule(static)
    for (int64_t i = 0; i < blocks; ++i)
      fill_uniform(random, a, i * kBlock, std::min(n, (i + 1) * kBlock), bound, doc + a);
    std::fill_n(doc + b, layout.rank() * out, 0.0f);
  });
}

std::vector<float> read_lora_init(const std::filesystem::path& path, const LoraLayout& layout) {
  const SafetensorsFile file(path);
  std::vector<float> doc(static_cast<size_t>(layout.size()), 0.0f);
  layout.for_each([&](const std::string& name, int64_t a, int64_t in, int64_t, int64_t) {
    file.read_into("ttt.init." + name + ".A", {doc.data() + a, {layout.rank(), in}});
  });
  return doc;
}

}  // namespace fairway

// Copies of adapters: each lies where its op looks for it, and a model that reads them gives the
// bits of one that makes its own.
#include "fairway/model/lora_copies.h"

#include <gtest/gtest.h>

#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/run_types.h"
#include "fairway/model/adapters.h"
#include "fairway/model/device_weights.h"
#include "fairway/model/model.h"
#include "support/model_run.h"
#include "support/random.h"

namespace fairway {
namespace {

using testing::host_values;
using testing::ModelRun;

// Heads and widths that Hopper's kernels have tiles for; lanes in the last visit.
ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 128;
  c.num_layers = 3;
  c.model_dim = 256;
  c.num_heads = 4;
  c.num_kv_heads = 4;
  c.mlp_mult = 2;
  c.max_doc_len = 512;
  c.xsa_last_n = 2;
  c.num_loops = 0;
  c.parallel_start_layer = 2;
  return c;
}

TEST(LoraCopies, LieWhereTheirOpsLook) {
  const ModelConfig config = small_config();
  const Network net(config, /*looped=*/false);
  const auto scales = testing::random_floats(2 * 3 * config.model_dim, 3, 1, 1);
  const Shape shape{config.num_layers, config.model_dim};
  const Tensor<const float> attn_scale{scales.data(), shape},
      mlp_scale{scales.data() + attn_scale.size(), shape};
  for (const LoraConfig& lora_config : {LoraConfig{.rank = 8}, LoraConfig{.rank = 24, .k = false},
                                        LoraConfig{.rank = 16, .o = false, .mlp = false}}) {
    const LoraLayout layout(config, net.slots(), lora_config);
    const LoraCopies copies(layout, net.route, attn_scale, mlp_scale);
    constexpr int64_t kDocs = 2;
    auto adapters = testing::random_floats(kDocs * layout.size(), 3, 2, 1);
    std::vector<bf16> copied(static_cast<size_t>(kDocs * copies.stride()));
    CpuDevice device(1);
    copy_adapters(device, copies.matrices(),
                  {.docs = kDocs,
                   .adapters = adapters.data(),
                   .stride = layout.size(),
                   .copies = copied.data(),
                   .copies_stride = copies.stride()});
    const std::vector<int32_t> tiles(4);
    Lora<const float> lora;
    lora.layout = &layout;
    lora.docs = adapters.data();
    lora.stride = layout.size();
    lora.count = kDocs;
    lora.copies = &copies;
    lora.copied = copied.data();
    lora.row_tiles = tiles.data();
    const int64_t R = layout.rank();
    for (int s = 0; s < net.slots(); ++s)
      for (int64_t doc = 0; doc < kDocs; ++doc) {
        for (const AdapterGroup group : {kAttnAdapters, kKeyAdapters, kMlpAdapters}) {
          const auto down = slot_down(&lora, s, group);
          if (!down) continue;
          ASSERT_TRUE(down.copies.transposed && down.copies.row_tiles == tiles.data());
          ASSERT_EQ(down.copies.stride % (64 * down.copies.pitch), 0);
          ASSERT_EQ(down.copies.stride % (64 * down.in), 0);
          ASSERT_TRUE(down.copies.matrix);
          for (int64_t j = 0; j < down.width(); ++j)
            for (int64_t i = 0; i < down.in; ++i) {
              const bf16 want(
                  down.a[static_cast<size_t>(j / R)][doc * down.stride + j % R * down.in + i]);
              const bf16* const of_doc = down.copies.transposed + doc * down.copies.stride;
              ASSERT_EQ(of_doc[i * down.copies.pitch + j].bits, want.bits);
              ASSERT_EQ(down.copies.matrix[doc * down.copies.stride + j * down.in + i].bits,
                        want.bits);
            }
        }
        // q and o do not lie together where k or v is between them.
        EXPECT_EQ(static_cast<bool>(slot_down(&lora, s, kQueryAdapters).copies.transposed),
                  !lora_config.o);
        const int64_t layer = net.route[static_cast<size_t>(s)].layer;
        const bf16* q = nullptr;
        int64_t before = 0;
        for (int i = 0; i < kAdapters; ++i) {
          const auto kind = static_cast<Adapter>(i);
          const AdapterGroup group = kind == Adapter::mlp ? kMlpAdapters : kAttnAdapters;
          const float* scale = kind == Adapter::o     ? attn_scale.slice(layer).data
                               : kind == Adapter::mlp ? mlp_scale.slice(layer).data
                                                      : nullptr;
          const auto up = slot_up(&lora, s, kind, group, scale);
          if (kind == Adapter::q) q = up.copies.matrix;
          if (up) {
            ASSERT_EQ(up.copies.stride % (64 * R), 0);
            // One matrix of q's, k's and v's, whichever there are.
            EXPECT_TRUE(kind > Adapter::v || up.copies.matrix == q + before * R);
            for (int64_t j = 0; j < up.out; ++j)
              for (int64_t r = 0; r < R; ++r)
                ASSERT_EQ(up.copies.matrix[doc * up.copies.stride + j * R + r].bits,
                          bf16(up.b[doc * up.stride + j * R + r] * (scale ? scale[j] : 1)).bits);
          }
          before += kind == Adapter::q ? config.model_dim : config.kv_dim();
        }
      }
  }
}

#if FAIRWAY_WITH_CUDA
// Documents around the tiles of the products' rows, one without.
const std::vector<int32_t> kStarts{0, 1, 129, 257, 257, 400, 912};

struct Result {
  std::vector<float> nll, gradient;
  bool operator==(const Result&) const = default;
};

enum class Read { own, copies, zeros };

Result run(CudaDevice& device, const LoraConfig& lora_config, bool pick, Read read) {
  const ModelConfig config = small_config();
  const Network net(config, /*looped=*/false);
  const int64_t docs = std::ssize(kStarts) - 1;
  std::vector<int32_t> inputs, targets, rows, head_starts{0};
  const Philox rng(9, 0);
  for (int32_t t = 0; t < kStarts.back(); ++t)
    inputs.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(t), 128)));
  for (size_t doc = 0; doc + 1 < kStarts.size(); ++doc) {
    for (int32_t t = std::max(kStarts[doc], kStarts[doc + 1] - 32); t < kStarts[doc + 1]; ++t)
      rows.push_back(t);
    head_starts.push_back(static_cast<int32_t>(rows.size()));
  }
  if (!pick) {
    rows.clear();
    head_starts = kStarts;
  }
  for (int32_t i = 0; i < head_starts.back(); ++i) targets.push_back(i % 128);
  const LoraLayout layout(config, net.slots(), lora_config);
  ModelRun<bf16, CudaDevice> model(device, config, /*looped=*/false, inputs, targets, kStarts, rows,
                                   &layout.config());
  // Scales that are not 1.
  std::vector<float> flat(static_cast<size_t>(flat_size(config)));
  CpuDevice cpu(1);
  init_weights(cpu, config, 5, flat.data());
  const auto noise = testing::random_floats(flat_size(config), 3, 1, 0.05);
  for (size_t i = 0; i < flat.size(); ++i) flat[i] += noise[i];
  const DeviceWeights<CudaDevice, bf16> weights(device, config, flat.data());
  std::vector<CudaDevice::Buffer> memory;
  const auto upload = [&]<class U>(const std::vector<U>& host) {
    memory.push_back(device.allocate(host.size() * sizeof(U)));
    device.upload(memory.back().data(), host.data(), host.size() * sizeof(U));
    return reinterpret_cast<U*>(memory.back().data());
  };
  const int64_t n = docs * layout.size();
  float* const adapters = upload(testing::random_floats(n, 3, 2, 0.05));
  bf16* const gradient = upload(std::vector<bf16>(static_cast<size_t>(n)));
  const Shape starts{docs + 1};
  const auto view = [&, doc_rows = upload(kStarts),
                     head_rows = upload(head_starts)]<class U>(U* base) {
    return Lora<U>{&layout,    base, layout.size(), docs, {doc_rows, starts}, {head_rows, starts},
                   head_starts};
  };
  auto lora = view(static_cast<const float*>(adapters));
  const auto dlora = view(gradient);
  const LoraCopies copies(layout, net.route, weights.view().attn_scale, weights.view().mlp_scale);
  if (read != Read::own) {
    bf16* const copied = upload(std::vector<bf16>(static_cast<size_t>(docs * copies.stride())));
    const AdapterBuffers buffers{.docs = docs,
                                 .adapters = adapters,
                                 .stride = layout.size(),
                                 .copies = copied,
                                 .copies_stride = copies.stride()};
    if (read == Read::copies) copy_adapters(device, copies.matrices(), buffers);
    lora.copies = &copies;
    lora.copied = copied;
    lora.row_tiles = upload(adapter_row_tiles(kStarts));
    lora.head_row_tiles = upload(adapter_row_tiles(head_starts));
  }
  model.loss(weights.view(), &lora, nullptr, &dlora);
  Result result{model.nll, {}};
  for (const bf16 x : host_values(device, Tensor<bf16>{gradient, {n}}))
    result.gradient.push_back(static_cast<float>(x));
  return result;
}

TEST(GpuLoraCopies, GiveTheBitsThatOpsGiveWithoutThem) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  CudaDevice device;
  if (!reads_adapter_copies<bf16>(device)) GTEST_SKIP() << "no op reads copies here";
  for (const LoraConfig& config : {LoraConfig{.rank = 96}, LoraConfig{.rank = 64, .k = false},
                                   LoraConfig{.rank = 96, .o = false, .mlp = false}})
    for (const bool pick : {false, true}) {
      const Result own = run(device, config, pick, Read::own);
      const Result with = run(device, config, pick, Read::copies);
      EXPECT_EQ(with.nll, own.nll) << "rank " << config.rank << ", rows picked: " << pick;
      EXPECT_TRUE(with.gradient == own.gradient)
          << "gradients, rank " << config.rank << ", rows picked: " << pick;
      // They are read at all: zeros instead change the scores.
      EXPECT_NE(run(device, config, pick, Read::zeros).nll, own.nll);
    }
}
#endif

}  // namespace
}  // namespace fairway

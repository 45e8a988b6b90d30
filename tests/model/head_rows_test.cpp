// Where only some rows reach the head, the last visit leaves out what they do not need. The same
// comes out as from all rows, where the others have no weight in the loss: scores bit for bit,
// gradients but for the order of their sums.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "fairway/base/rng.h"
#include "fairway/model/device_weights.h"
#include "fairway/model/model.h"
#include "support/model_run.h"
#include "support/random.h"
#include "support/small_model.h"

namespace fairway {
namespace {

using testing::host_values;
using testing::ModelRun;

// Documents, and how many of their last rows are scored: lone rows, all, few, more than a tile,
// one, none.
const std::vector<int32_t> kStarts{0, 1, 201, 271, 401, 461, 462, 532, 700};
const std::vector<int32_t> kScored{1, 40, 70, 90, 1, 1, 0, 166};

struct Width {
  const char* name;
  int dim, heads, kv_heads;
};
void PrintTo(const Width& w, std::ostream* out) {
  *out << w.name;
}
struct Variant {
  const char* name;
  int parallel_start_layer, xsa_last_n;
};
void PrintTo(const Variant& v, std::ostream* out) {
  *out << v.name;
}
// The record's heads; heads that do not pair, and no tiles of four; heads of width 8.
const Width kWidths[] = {
    {"record_heads", 512, 8, 4}, {"lone_heads", 192, 3, 3}, {"small", 32, 4, 2}};
const Variant kVariants[] = {{"lanes_xsa", 2, 3},
                             {"lanes", 2, 0},
                             {"fork_at_the_end", 3, 3},
                             {"serial_xsa", 0, 3},
                             {"serial", 0, 0}};

using Case = std::tuple<Width, Variant>;

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - double{b[i]}, 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

class HeadRows : public ::testing::TestWithParam<Case> {
 protected:
  HeadRows() {
    const auto& [width, variant] = GetParam();
    config = testing::small_model(/*vocab_size=*/64);
    config.model_dim = width.dim;
    config.num_heads = width.heads;
    config.num_kv_heads = width.kv_heads;
    config.mlp_mult = 2;
    config.rope_dims = width.dim / width.heads == 64 ? 16 : 4;
    config.max_doc_len = 512;
    config.num_loops = 0;
    config.parallel_start_layer = variant.parallel_start_layer;
    config.xsa_last_n = variant.xsa_last_n;
    config.validate();
    for (size_t b = 0; b + 1 < kStarts.size(); ++b) {
      for (int32_t row = kStarts[b + 1] - kScored[b]; row < kStarts[b + 1]; ++row)
        rows.push_back(row);
      head_starts.push_back(static_cast<int32_t>(rows.size()));
    }
    const Philox rng(3, 0);
    for (int32_t i = 0; i <= kStarts.back(); ++i)
      tokens.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(i), 64)));
    weights.resize(static_cast<size_t>(flat_size(config)));
    init_weights(cpu, config, 5, weights.data());
    // Nothing is left at zero or one, where gradients would vanish.
    const auto noise = testing::random_floats(std::ssize(weights), 7, 1, 0.05);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] += noise[i];
  }

  struct Result {
    std::vector<float> nll, gradient;
  };
  // Scores and the gradient of all weights, or with `layout` of all adapters.
  template <class Device, class T>
  Result run(Device& device, bool pick, const LoraLayout* layout) {
    const std::vector<int32_t> inputs(tokens.begin(), tokens.end() - 1);
    std::vector<int32_t> targets(tokens.begin() + 1, tokens.end());
    std::vector<float> row_weights(inputs.size(), 0);
    for (const int32_t row : rows) row_weights[static_cast<size_t>(row)] = 1.0f / 16;
    if (pick) {
      targets.clear();
      for (const int32_t row : rows) targets.push_back(tokens[static_cast<size_t>(row) + 1]);
      row_weights.assign(rows.size(), 1.0f / 16);
    }
    ModelRun<T, Device> model(device, config, /*looped=*/false, inputs, targets, kStarts,
                              pick ? rows : std::vector<int32_t>{},
                              layout ? &layout->config() : nullptr);
    model.weigh_rows(row_weights);
    const DeviceWeights<Device, T> w(device, config, weights.data());
    const int64_t docs = std::ssize(kStarts) - 1;
    const int64_t n = layout ? docs * layout->size() : std::ssize(weights);
    const auto memory = device.allocate(static_cast<size_t>(n) * sizeof(float));
    auto* const gradient = reinterpret_cast<float*>(memory.data());
    device.zero(gradient, memory.bytes());
    if (layout) {
      const auto upload = [&](const auto& values) {
        auto buffer = device.allocate(values.size() * sizeof(values[0]));
        device.upload(buffer.data(), values.data(), values.size() * sizeof(values[0]));
        return buffer;
      };
      const std::vector<int32_t>& head = pick ? head_starts : kStarts;
      const auto adapters = upload(testing::random_floats(n, 7, 2, 0.05)),
                 doc_rows = upload(kStarts), head_rows = upload(head);
      const auto starts = [&](const auto& buffer) {
        return Tensor<const int32_t>{reinterpret_cast<const int32_t*>(buffer.data()), {docs + 1}};
      };
      const auto view = [&]<class U>(U* base) {
        return Lora<U>{layout, base, layout->size(), docs, starts(doc_rows), starts(head_rows),
                       head};
      };
      const auto lora = view(reinterpret_cast<const float*>(adapters.data()));
      const auto dlora = view(reinterpret_cast<T*>(memory.data()));
      model.loss(w.view(), &lora, nullptr, &dlora);
    } else {
      const Weights<float> dw = weights_view(config, gradient);
      model.loss(w.view(), nullptr, &dw);
    }
    Result result{model.nll, {}};
    if (layout)
      for (const T x : host_values(device, Tensor<T>{reinterpret_cast<T*>(gradient), {n}}))
        result.gradient.push_back(static_cast<float>(x));
    else
      result.gradient = host_values(device, Tensor<float>{gradient, {n}});
    if (!pick) {
      std::vector<float> scored;
      for (const int32_t row : rows) scored.push_back(result.nll[static_cast<size_t>(row)]);
      result.nll = scored;
    }
    return result;
  }

  // Relative error of a gradient whose elements are sums of `terms` terms, `unit` being half a unit
  // in the last place: each visit rounds about eight times on the way, the way back is as long, and
  // a float32 sum errs as its own op may (device_ops_test.cpp).
  double tolerance(double unit, int64_t terms) const {
    return 2 * (std::sqrt(8.0 * config.num_layers) * unit +
                std::sqrt(static_cast<double>(terms)) * 0x1p-24);
  }
  template <class Device, class T>
  void check(Device& device, double unit) {
    const int64_t T_ = kStarts.back(), D = config.model_dim;
    {
      const Result all = run<Device, T>(device, false, nullptr);
      const Result some = run<Device, T>(device, true, nullptr);
      EXPECT_EQ(some.nll, all.nll);
      const Weights<const float> views = weights_view(config, all.gradient.data());
      for_each(views, [&](const char* name, ParamGroup, Tensor<const float> g) {
        const auto part = [&](const Result& r) {
          const auto begin = r.gradient.begin() + (g.data - all.gradient.data());
          return std::vector<float>(begin, begin + g.size());
        };
        // Numbers of a head, a layer or a lane are sums over columns, too, whose terms partly
        // cancel.
        const bool sums = g.size() < config.num_layers * D;
        EXPECT_LE(distance(part(some), part(all)),
                  sums ? 2 * tolerance(unit, T_ * D) : tolerance(unit, T_))
            << name;
      });
    }
    for (const bool with_k_and_o : {true, false}) {
      const LoraLayout layout(config, config.num_layers,
                              {.rank = 8, .k = with_k_and_o, .o = with_k_and_o});
      const Result all = run<Device, T>(device, false, &layout);
      const Result some = run<Device, T>(device, true, &layout);
      EXPECT_LE(distance(some.nll, all.nll), tolerance(unit, D));
      layout.for_each([&](const std::string& name, int64_t a, int64_t in, int64_t b, int64_t out) {
        for (const auto& [offset, size] : {std::pair{a, 8 * in}, std::pair{b, 8 * out}}) {
          std::vector<float> parts[2];
          for (int64_t doc = 0; doc + 1 < std::ssize(kStarts); ++doc)
            for (int64_t i = 0; i < size; ++i) {
              const auto at = static_cast<size_t>(doc * layout.size() + offset + i);
              parts[0].push_back(some.gradient[at]);
              parts[1].push_back(all.gradient[at]);
            }
          EXPECT_LE(distance(parts[0], parts[1]), tolerance(unit, T_))
              << name << (offset == a ? ".A" : ".B");
        }
      });
    }
  }

  CpuDevice cpu{2};
  ModelConfig config;
  std::vector<int32_t> rows, head_starts{0}, tokens;
  std::vector<float> weights;
};

TEST_P(HeadRows, CpuFloat) {
  check<CpuDevice, float>(cpu, 0x1p-24);
}

// The CPU has no way of its own for the record's heads. Whether its products give a row the same
// bits among other rows may depend on their width: one variant shows that.
const auto kCpuCases = ::testing::ValuesIn([] {
  std::vector<Case> cases{{kWidths[0], kVariants[0]}};
  for (const Width& w : {kWidths[1], kWidths[2]})
    for (const Variant& v : kVariants) cases.emplace_back(w, v);
  return cases;
}());
const auto kNames = [](const auto& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::get<1>(info.param).name;
};
INSTANTIATE_TEST_SUITE_P(Cases, HeadRows, kCpuCases, kNames);

#if FAIRWAY_WITH_CUDA
class GpuHeadRows : public HeadRows {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  }
};
TEST_P(GpuHeadRows, Float) {
  CudaDevice device;
  check<CudaDevice, float>(device, 0x1p-24);
}
TEST_P(GpuHeadRows, Bf16) {
  CudaDevice device;
  check<CudaDevice, bf16>(device, 0x1p-9);
}
INSTANTIATE_TEST_SUITE_P(Cases, GpuHeadRows,
                         ::testing::Combine(::testing::ValuesIn(kWidths),
                                            ::testing::ValuesIn(kVariants)),
                         kNames);
#endif

}  // namespace
}  // namespace fairway

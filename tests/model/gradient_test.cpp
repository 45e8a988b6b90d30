// The whole model's gradient, and every adapter's, by complex-step differentiation: for a real
// function f, Im f(x + ih)/h with h = 1e-50 is its derivative to rounding error, with no step size
// to tune.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <map>

#include "fairway/base/rng.h"
#include "fairway/model/model.h"
#include "support/model_run.h"

namespace fairway {
namespace {

using Complex = std::complex<double>;
using testing::ModelRun;

constexpr double kStep = 1e-50;
constexpr double kTolerance = 1e-10;

// Small, with everything in it: loops, skips with gates, lanes, XSA on some layers, GQA, partial
// rotary, softcap low enough to bend.
ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 11;
  c.num_layers = 5;
  c.model_dim = 16;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.mlp_mult = 2;
  c.rope_dims = 2;
  c.max_doc_len = 8;
  c.qk_gain_init = 1.5;
  c.logit_softcap = 3;
  c.xsa_last_n = 3;
  c.num_loops = 2;
  c.loop_start = 1;
  c.loop_end = 2;
  c.parallel_start_layer = 3;
  return c;
}

struct Variant {
  const char* name;
  bool looped = true;
  void (*change)(ModelConfig&) = [](ModelConfig&) {};
  void PrintTo(const Variant& v, std::ostream* out) { *out << v.name; }
};

std::vector<double> random_values(int64_t n, uint64_t stream, double size) {
  const Philox rng(7, stream);
  std::vector<double> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    out[static_cast<size_t>(i)] = size * rng.normal(static_cast<uint64_t>(i));
  return out;
}

const std::vector<int32_t> kInputs{1, 4, 9, 2, 3, 1, 10, 5, 1, 7, 7, 6};
const std::vector<int32_t> kTargets{4, 9, 2, 3, 1, 10, 5, 1, 7, 7, 6, 0};
const std::vector<int32_t> kSegments{0, 5, 8, 12, 12};

class ModelGradient : public ::testing::TestWithParam<Variant> {
 protected:
  ModelGradient() {
    config = small_config();
    GetParam().change(config);
    config.validate();
    params = random_values(flat_size(config), 0, 0.5);
  }
  // ‖error‖ ≤ tolerance·‖gradient‖ for each tensor.
  void expect_complex_steps(E4m3Mlp mlp, double tolerance) {
    ModelRun<double> run(device, config, GetParam().looped, kInputs, kTargets, kSegments, {},
                         nullptr, mlp);
    // Gradients are added to what is there.
    const std::vector<double> before = random_values(std::ssize(params), 1, 0.01);
    std::vector<double> gradient = before;
    const Weights<double> dw = weights_view(config, gradient.data());
    run.loss(weights_view(config, static_cast<const double*>(params.data())), nullptr, &dw);

    ModelRun<Complex> complex_run(device, config, GetParam().looped, kInputs, kTargets, kSegments,
                                  {}, nullptr, mlp);
    std::vector<Complex> stepped(params.begin(), params.end());
    for_each(dw, [&](const char* name, ParamGroup, Tensor<double> g) {
      double norm = 0, error = 0;
      // Every element of the small tensors, a spread of the large ones.
      const int64_t stride = g.size() <= 64 ? 1 : g.size() / 41;
      for (int64_t i = 0; i < g.size(); i += stride) {
        const auto at = static_cast<size_t>(g.data - gradient.data() + i);
        stepped[at] += Complex(0, kStep);
        const Complex loss =
            complex_run.loss(weights_view(config, static_cast<const Complex*>(stepped.data())));
        stepped[at] = params[at];
        const double want = loss.imag() / kStep;
        norm += want * want;
        error += std::pow(gradient[at] - before[at] - want, 2);
      }
      EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(norm)) << name;
    });
  }

  // The same of the adapters of two documents, each by itself, or all of a kind together: of one
  // few elements are looked at, whose errors need be no smaller than they are.
  void expect_complex_steps_of_adapters(E4m3Mlp mlp, double tolerance, bool kinds) {
    // Two documents; only some rows reach the head.
    const std::vector<int32_t> rows{3, 4, 9, 10, 11}, targets{3, 1, 7, 6, 0};
    const std::vector<int32_t> segments{0, 5, 12};
    const int slots = static_cast<int>(make_route(config, GetParam().looped).size());
    const LoraLayout layout(config, slots, {.rank = 3});
    std::vector<double> adapters = random_values(2 * layout.size(), 1, 0.3);
    std::vector<double> gradient(adapters.size(), 7.0);  // every element is written
    const std::vector<int32_t> doc_rows{0, 5, 12}, head_rows{0, 2, 5};
    const auto lora_of = [&]<class T>(T* base) {
      return Lora<T>{
          &layout,  base, layout.size(), 2, {doc_rows.data(), {3}}, {head_rows.data(), {3}},
          head_rows};
    };
    const auto w = weights_view(config, static_cast<const double*>(params.data()));
    const auto lora = lora_of(static_cast<const double*>(adapters.data()));
    const auto dlora = lora_of(gradient.data());
    ModelRun<double> run(device, config, GetParam().looped, kInputs, targets, segments, rows,
                         &layout.config(), mlp);
    run.loss(w, &lora, nullptr, &dlora);

    ModelRun<Complex> complex_run(device, config, GetParam().looped, kInputs, targets, segments,
                                  rows, &layout.config(), mlp);
    const std::vector<Complex> complex_params(params.begin(), params.end());
    const auto complex_w = weights_view(config, static_cast<const Complex*>(complex_params.data()));
    std::vector<Complex> stepped(adapters.begin(), adapters.end());
    const auto complex_lora = lora_of(static_cast<const Complex*>(stepped.data()));
    struct Squares {
      double of_gradient = 0, of_error = 0;
    };
    std::map<std::string, Squares> squares;
    for (size_t doc = 0; doc < 2; ++doc)
      layout.for_each([&](const std::string& name, int64_t a, int64_t in, int64_t b, int64_t out) {
        for (const auto& [offset, n] : {std::pair{a, 3 * in}, std::pair{b, 3 * out}}) {
          const std::string half = offset == a ? ".A" : ".B";
          Squares& sum = squares[kinds ? name.substr(0, name.find('.')) + half
                                       : name + half + " of document " + std::to_string(doc)];
          for (int64_t i = 0; i < n; i += n / (kinds ? 12 : 4) + 1) {
            const size_t at =
                doc * static_cast<size_t>(layout.size()) + static_cast<size_t>(offset + i);
            stepped[at] += Complex(0, kStep);
            const double want = complex_run.loss(complex_w, &complex_lora).imag() / kStep;
            stepped[at] = adapters[at];
            sum.of_gradient += want * want;
            sum.of_error += (gradient[at] - want) * (gradient[at] - want);
          }
        }
      });
    for (const auto& [name, sum] : squares)
      EXPECT_LE(std::sqrt(sum.of_error), tolerance * std::sqrt(sum.of_gradient)) << name;
  }

  // Complex steps go through the roundings of the forward pass to e4m3 unchanged, and come to other
  // derivatives by those of the backward pass alone: of dm, of dz, and of z in its slope. Each is
  // at most 2^-4 of an element, and they add up as independent errors do. (What the weights'
  // gradients read else are the forward pass's operands, and dm as before.)
  double e4m3_tolerance() const {
    const auto visits = static_cast<double>(make_route(config, GetParam().looped).size());
    return 0x1p-4 * std::sqrt(visits * 3);
  }

  CpuDevice device{1};  // the shapes are too small to share out
  ModelConfig config;
  std::vector<double> params;
};

TEST_P(ModelGradient, EveryParameterMatchesTheComplexStep) {
  expect_complex_steps(E4m3Mlp::off, kTolerance);
}

TEST_P(ModelGradient, EveryParameterIsAboutTheComplexStepWithE4m3Operands) {
  expect_complex_steps(E4m3Mlp::values, e4m3_tolerance());
}

TEST_P(ModelGradient, EveryAdapterMatchesTheComplexStep) {
  expect_complex_steps_of_adapters(E4m3Mlp::off, kTolerance, /*kinds=*/false);
}

// As above, and what adapters themselves read is not rounded; but a kind's gradient may be what is
// left of terms half as large again, whose errors stay.
TEST_P(ModelGradient, EveryAdapterIsAboutTheComplexStepWithE4m3Operands) {
  expect_complex_steps_of_adapters(E4m3Mlp::values, 1.5 * e4m3_tolerance(), /*kinds=*/true);
}

// Scored rows alone, and all rows where the others have no weight in the loss.
TEST_P(ModelGradient, SomeRowsAreAllRowsWithoutTheOthersLosses) {
  const std::vector<int32_t> rows{0, 4, 5, 6, 7, 11}, starts{0, 1, 5, 8, 12};
  std::vector<int32_t> targets;
  std::vector<double> row_weights(kInputs.size(), 0.0);
  for (const int32_t row : rows) {
    targets.push_back(kTargets[static_cast<size_t>(row)]);
    row_weights[static_cast<size_t>(row)] = 1.0 / static_cast<double>(rows.size());
  }
  const auto w = weights_view(config, static_cast<const double*>(params.data()));
  ModelRun<double> all(device, config, GetParam().looped, kInputs, kTargets, starts);
  all.weigh_rows(row_weights);
  ModelRun<double> some(device, config, GetParam().looped, kInputs, targets, starts, rows);
  std::vector<double> of_all(params.size()), of_some(params.size());
  const Weights<double> dw = weights_view(config, of_some.data());
  const Weights<double> dw_of_all = weights_view(config, of_all.data());
  all.loss(w, nullptr, &dw_of_all);
  some.loss(w, nullptr, &dw);
  for (size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(some.nll[i], all.nll[static_cast<size_t>(rows[i])]) << i;
  for_each(dw, [&](const char* name, ParamGroup, Tensor<double> g) {
    double norm = 0, error = 0;
    for (int64_t i = 0; i < g.size(); ++i) {
      const double want = of_all[static_cast<size_t>(g.data - of_some.data() + i)];
      norm += want * want;
      error += std::pow(g[i] - want, 2);
    }
    EXPECT_LE(std::sqrt(error), kTolerance * std::sqrt(norm)) << name;
  });
}

INSTANTIATE_TEST_SUITE_P(
    Variants, ModelGradient,
    ::testing::Values(
        Variant{"record"}, Variant{"not_looped", false},
        Variant{"no_gates_no_ln_scale", true,
                [](ModelConfig& c) {
                  c.skip_gates = false;
                  c.ln_scale = false;
                }},
        Variant{"untied_all_rotary_no_xsa", true,
                [](ModelConfig& c) {
                  c.tie_embeddings = false;
                  c.rope_dims = 0;
                  c.xsa_last_n = 0;
                }},
        Variant{"no_lanes", true, [](ModelConfig& c) { c.parallel_start_layer = 0; }},
        // The lanes fork where no skip connection ends, and where that of the visit before does.
        Variant{"lanes_at_the_end", true, [](ModelConfig& c) { c.parallel_start_layer = 4; }},
        Variant{"lanes_from_the_middle", false,
                [](ModelConfig& c) {
                  c.num_loops = 0;
                  c.parallel_start_layer = 2;
                }},
        Variant{"final_lane_mlp", true,
                [](ModelConfig& c) { c.parallel_final_lane = FinalLane::mlp; }},
        Variant{"final_lane_attn", true,
                [](ModelConfig& c) { c.parallel_final_lane = FinalLane::attn; }}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace fairway

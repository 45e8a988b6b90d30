// The shipped optimizer step against a plain statement of SPEC §4 in double, written from the spec.
#include "fairway/optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/cpu_device.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/grad_norm.h"
#include "support/golden.h"

namespace fairway {
namespace {

using Matrix = std::vector<double>;

Matrix product(const Matrix& a, const Matrix& b, size_t m, size_t k, size_t n) {
  Matrix c(m * n);
  for (size_t i = 0; i < m; ++i)
    for (size_t l = 0; l < k; ++l)
      for (size_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + l] * b[l * n + j];
  return c;
}

Matrix transposed(const Matrix& a, size_t rows, size_t cols) {
  Matrix t(a.size());
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < cols; ++j) t[j * rows + i] = a[i * cols + j];
  return t;
}

Matrix plain_newton_schulz(Matrix x, size_t rows, size_t cols) {
  const bool tall = rows > cols;
  if (tall) {
    x = transposed(x, rows, cols);
    std::swap(rows, cols);
  }
  double norm = 0;
  for (double v : x) norm += v * v;
  norm = std::sqrt(norm) + 1e-7;
  for (double& v : x) v /= norm;
  for (int step = 0; step < 5; ++step) {
    const Matrix a = product(x, transposed(x, rows, cols), rows, cols, rows);
    const Matrix aa = product(a, a, rows, rows, rows);
    Matrix b(a.size());
    for (size_t i = 0; i < b.size(); ++i) b[i] = -4.775 * a[i] + 2.0315 * aa[i];
    const Matrix bx = product(b, x, rows, rows, cols);
    for (size_t i = 0; i < x.size(); ++i) x[i] = 3.4445 * x[i] + bx[i];
  }
  return tall ? transposed(x, rows, cols) : x;
}

// One parameter tensor and what the plain optimizer remembers of it.
struct PlainTensor {
  ParamGroup group;
  size_t offset, matrices, rows, cols;
  Matrix w, m, v, e;

  void muon(const Matrix& g, double mu, double lr, double wd) {
    for (size_t i = 0; i < matrices; ++i) {
      Matrix u(rows * cols);
      for (size_t j = 0; j < u.size(); ++j) {
        double& momentum = m[i * u.size() + j];
        momentum = mu * momentum + g[i * u.size() + j];
        u[j] = g[i * u.size() + j] + mu * momentum;
      }
      for (size_t r = 0; r < rows; ++r) {
        double norm = 0;
        for (size_t j = 0; j < cols; ++j) norm += u[r * cols + j] * u[r * cols + j];
        norm = std::max(std::sqrt(norm), 1e-7);
        for (size_t j = 0; j < cols; ++j) u[r * cols + j] /= norm;
      }
      const Matrix x = plain_newton_schulz(u, rows, cols);
      const double shape = std::sqrt(std::max(1.0, double(rows) / double(cols)));
      for (size_t j = 0; j < x.size(); ++j) {
        double& weight = w[i * u.size() + j];
        weight = weight * (1 - lr * wd) - lr * shape * x[j];
      }
    }
  }

  void adam(const Matrix& g, int t, double lr, double wd) {
    for (size_t i = 0; i < w.size(); ++i) {
      m[i] = 0.9 * m[i] + 0.1 * g[i];
      v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(0.9, t)), v_hat = v[i] / (1 - std::pow(0.95, t));
      w[i] = w[i] * (1 - lr * wd) - lr * m_hat / (std::sqrt(v_hat) + 1e-8);
    }
  }
};

ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 50;
  c.num_layers = 3;
  c.model_dim = 24;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.rope_dims = 0;
  c.xsa_last_n = 3;
  c.loop_start = 1;
  c.loop_end = 1;
  c.parallel_start_layer = 2;
  c.tie_embeddings = false;
  return c;
}

// A flat buffer of the model's layout with normal values, its gaps zero.
std::vector<float> random_flat(const ModelConfig& model, uint64_t stream, double scale) {
  std::vector<float> flat(static_cast<size_t>(flat_size(model)));
  const Philox rng(11, stream);
  for_each(weights_view(model, flat.data()), [&](const char*, ParamGroup, Tensor<float> t) {
    for (int64_t i = 0; i < t.size(); ++i)
      t[i] =
          static_cast<float>(scale * rng.normal(static_cast<uint64_t>(t.data + i - flat.data())));
  });
  return flat;
}

struct Memory {
  explicit Memory(const ModelConfig& model) : sharding(model, make_single_communicator()) {
    Arena dry;
    take_optim_state(sharding.shard(), dry);
    const size_t scratch_bytes = optim_scratch_bytes(sharding.shard());
    buffer = HostBuffer(dry.used() + scratch_bytes);
    Arena arena(buffer.data(), dry.used());
    state = take_optim_state(sharding.shard(), arena);
    scratch = Arena(buffer.data() + dry.used(), scratch_bytes);
  }
  Sharding sharding;
  HostBuffer buffer;
  OptimState state;
  Arena scratch;
};

TEST(Optimizer, ThreeStepsMatchThePlainStatementInDouble) {
  const ModelConfig model = small_model();
  OptimConfig config;
  config.muon_momentum_warmup_steps = 2;
  auto weights = random_flat(model, 0, 0.3);
  Memory memory(model);
  std::copy(weights.begin(), weights.end(), memory.state.ema.data);

  std::vector<PlainTensor> plain;
  for_each(weights_view(model, weights.data()),
           [&](const char*, ParamGroup group, Tensor<float> t) {
             PlainTensor p;
             p.group = group;
             p.offset = static_cast<size_t>(t.data - weights.data());
             p.matrices = static_cast<size_t>(t.extent(0));
             p.rows = static_cast<size_t>(t.extent(1));
             p.cols = static_cast<size_t>(t.extent(2));
             p.w.assign(t.begin(), t.end());
             p.e = p.w;
             p.m.assign(p.w.size(), 0);
             p.v.assign(p.w.size(), 0);
             plain.push_back(std::move(p));
           });

  CpuDevice device(2);
  const double factors[] = {1.0, 0.7, 0.2}, mus[] = {0.92, 0.945, 0.97};
  for (int step = 0; step < 3; ++step) {
    auto gradients = random_flat(model, 1 + static_cast<uint64_t>(step), 1e-3);
    for (auto& p : plain) {
      const auto begin = gradients.begin() + static_cast<std::ptrdiff_t>(p.offset);
      const Matrix g(begin, begin + static_cast<std::ptrdiff_t>(p.w.size()));
      const double f = factors[step];
      if (p.group == ParamGroup::bank) p.muon(g, mus[step], 0.022 * f, 0.095);
      if (p.group == ParamGroup::embedding) p.adam(g, step + 1, 0.03 * f, 0.085);
      if (p.group == ParamGroup::head) p.adam(g, step + 1, 0.008 * f, 0);
      if (p.group == ParamGroup::small) p.adam(g, step + 1, 0.02 * f, 0.02);
      for (size_t i = 0; i < p.w.size(); ++i) p.e[i] = 0.9965 * p.e[i] + 0.0035 * p.w[i];
    }
    optimizer_step(device, model, config, step, factors[step], weights.data(), gradients.data(),
                   memory.state, memory.sharding, memory.scratch);
  }

  // Float against double: what one step moves a weight by (at most about lr·1.2, or lr for AdamW)
  // is known to a few hundred roundings (Newton–Schulz multiplies small errors by up to a⁵ = 485),
  // and the weight itself to one rounding a step.
  const double eps = 0x1p-24;
  for (const auto& p : plain)
    for (size_t i = 0; i < p.w.size(); ++i) {
      const double tolerance = 3 * eps * (4 + std::fabs(p.w[i])) + 3 * 0.03 * 485 * eps;
      ASSERT_NEAR(weights[p.offset + i], p.w[i], tolerance)
          << "group " << int(p.group) << " at " << i;
      ASSERT_NEAR(memory.state.ema[static_cast<int64_t>(p.offset + i)], p.e[i], tolerance);
    }
}

double norm_of(CpuDevice& device, const std::vector<float>& x) {
  double squares = 0;
  add_squares(device, std::ssize(x), x.data(), &squares);
  return std::sqrt(squares);
}

// The first golden step, from the golden gradient.
TEST(Optimizer, FirstGoldenStep) {
  const testing::Golden golden;
  const ModelConfig& model = golden.config;
  auto weights = golden.parameters("param."), gradients = golden.parameters("grad.loop.");
  const auto expected = golden.parameters("opt.step0.param.");
  const int64_t flat = flat_size(model);
  Memory memory(model);
  CpuDevice device(2);
  const double norm = norm_of(device, gradients);
  EXPECT_NEAR(norm, golden.floats("opt.step0.grad_norm")[0], 1e-4 * norm);
  clip_grad(device, flat, gradients.data(), norm, 0.3);
  const auto before = weights;
  optimizer_step(device, model, {}, 0, 1.0, weights.data(), gradients.data(), memory.state,
                 memory.sharding, memory.scratch);
  // Relative to what the step moved, tensor by tensor.
  for_each(weights_view(model, weights.data()), [&](const char* name, ParamGroup, Tensor<float> t) {
    const size_t offset = static_cast<size_t>(t.data - weights.data());
    double difference = 0, moved = 0;
    for (size_t i = offset; i < offset + static_cast<size_t>(t.size()); ++i) {
      difference += std::pow(double{weights[i]} - double{expected[i]}, 2);
      moved += std::pow(double{expected[i]} - double{before[i]}, 2);
    }
    EXPECT_LT(std::sqrt(difference), 1e-4 * std::sqrt(moved)) << name;
  });
}

TEST(Optimizer, GapsStayZeroAndThreadsDoNotMatter) {
  const ModelConfig model = small_model();
  std::vector<std::vector<float>> results;
  for (int threads : {1, 2, 3}) {
    CpuDevice device(threads);
    Memory memory(model);
    auto weights = random_flat(model, 0, 0.3), gradients = random_flat(model, 1, 1.0);
    optimizer_step(device, model, {}, 0, 1.0, weights.data(), gradients.data(), memory.state,
                   memory.sharding, memory.scratch);
    auto gaps = weights;
    for_each(weights_view(model, gaps.data()),
             [](const char*, ParamGroup, Tensor<float> t) { std::fill(t.begin(), t.end(), 0.0f); });
    EXPECT_EQ(gaps, std::vector<float>(gaps.size(), 0.0f));
    results.push_back(std::move(weights));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(Optimizer, StateVisitorCoversEveryBuffer) {
  const ModelConfig model = small_model();
  int64_t elements = 0;
  for_each(Memory(model).state, [&](const char*, Tensor<float> t) { elements += t.size(); });
  EXPECT_EQ(elements,
            bank_size(model) + 2 * (flat_size(model) - bank_size(model)) + flat_size(model));
}

// Terms of either sign and of many sizes; the sums take up where they were.
TEST(GradNorm, SumsAddUpInDouble) {
  const Philox rng(3, 5);
  for (const size_t n : {size_t{0}, size_t{1}, size_t{16'384}, size_t{100'003}}) {
    std::vector<float> x(n);
    double sum = 0, size = 0, squares = 0;
    for (size_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(rng.normal(i) * std::exp2(static_cast<double>(i % 40)));
      sum += double{x[i]};
      size += std::fabs(double{x[i]});
      squares += double{x[i]} * double{x[i]};
    }
    CpuDevice device(2);
    double total = 3, total_squares = 5;
    add_sum(device, std::ssize(x), x.data(), &total);
    add_squares(device, std::ssize(x), x.data(), &total_squares);
    // In any order n additions err by at most n roundings of the sum of the sizes.
    const double rounding = static_cast<double>(n + 1) * 0x1p-53;
    EXPECT_NEAR(total, 3 + sum, 2 * rounding * (size + 3)) << n;
    EXPECT_NEAR(total_squares, 5 + squares, 2 * rounding * (squares + 5)) << n;
  }
}

TEST(GradNorm, IsTheNormAndClippingReachesIt) {
  std::vector<float> g(100'003);
  const Philox rng(3, 4);
  double sum = 0;
  for (size_t i = 0; i < g.size(); ++i) {
    g[i] = static_cast<float>(rng.normal(i));
    sum += double{g[i]} * double{g[i]};
  }
  CpuDevice one(1), two(2);
  const int64_t n = static_cast<int64_t>(g.size());
  const double norm = norm_of(one, g);
  EXPECT_NEAR(norm, std::sqrt(sum), std::sqrt(sum) * 1e-13);
  EXPECT_EQ(norm, norm_of(two, g));

  const auto before = g;
  clip_grad(two, n, g.data(), norm, 2 * norm);
  EXPECT_EQ(g, before);  // below the limit: untouched
  clip_grad(two, n, g.data(), norm, 0.3);
  EXPECT_NEAR(norm_of(one, g), 0.3, 0.3 * 0x1p-22);
}

TEST(AdamW, WithoutFirstMomentEqualsBetaOneZero) {
  CpuDevice device(1);
  std::vector<float> a{1, -2, 3}, b = a, g{0.1f, 0.2f, -0.3f}, m(3), v(3), v2(3);
  for (int t = 1; t <= 3; ++t) {
    const AdamW step{1e-2, 0, 0.999, 1e-10, 0.5, t};
    adamw(device, 3, a.data(), g.data(), m.data(), v.data(), step);
    adamw(device, 3, b.data(), g.data(), nullptr, v2.data(), step);
  }
  EXPECT_EQ(a, b);
  EXPECT_NEAR(a[0], 1 * std::pow(1 - 0.005, 3) - 0.01 * 3, 2e-4);  // sign(g)·lr a step
}

}  // namespace
}  // namespace fairway

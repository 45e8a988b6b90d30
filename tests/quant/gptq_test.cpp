#include "fairway/quant/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fairway/base/fp16.h"
#include "fairway/base/rng.h"
#include "fairway/io/safetensors.h"
#include "fairway/quant/cholesky.h"

namespace fairway {
namespace {

// x [n, cols] with correlated columns → Σ xᵀx.
std::vector<float> random_hessian(int64_t cols, int64_t n, uint64_t seed) {
  const Philox random(seed, 7);
  std::vector<double> h(static_cast<size_t>(cols * cols)), x(static_cast<size_t>(cols));
  for (int64_t i = 0; i < n; ++i) {
    const double shared = random.normal(static_cast<uint64_t>(i * (cols + 1)));
    for (int64_t j = 0; j < cols; ++j)
      x[static_cast<size_t>(j)] = random.normal(static_cast<uint64_t>(i * (cols + 1) + j + 1)) +
                                  shared * std::sin(double(j));
    for (int64_t a = 0; a < cols; ++a)
      for (int64_t b = 0; b < cols; ++b)
        h[static_cast<size_t>(a * cols + b)] +=
            x[static_cast<size_t>(a)] * x[static_cast<size_t>(b)];
  }
  return {h.begin(), h.end()};
}

std::vector<float> random_matrix(int64_t size, uint64_t seed) {
  const Philox random(seed, 3);
  std::vector<float> w(static_cast<size_t>(size));
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(random.normal(i));
  return w;
}

struct Golden {
  SafetensorsFile file{FAIRWAY_TEST_DATA "/golden/a.safetensors"};

  // The float matrix behind a name of SPEC §7, out of the file's banks.
  std::vector<float> weight(const std::string& name) const {
    if (name == "tok_emb.weight") return file.read<float>("param.tok_emb.weight");
    const int64_t layer = std::stoll(name.substr(7)), layers = 5;
    const auto part = [&](const std::string& bank, int64_t index, int64_t size) {
      const std::vector<float> all = file.read<float>("param." + bank);
      return std::vector<float>(all.begin() + index * size, all.begin() + (index + 1) * size);
    };
    if (name.ends_with("c_q.weight")) return part("qo_bank", layer, 64 * 64);
    if (name.ends_with("attn.proj.weight")) return part("qo_bank", layers + layer, 64 * 64);
    if (name.ends_with("c_k.weight")) return part("kv_bank", layer, 32 * 64);
    if (name.ends_with("c_v.weight")) return part("kv_bank", layers + layer, 32 * 64);
    if (name.ends_with("fc.weight")) return part("mlp_up_bank", layer, 256 * 64);
    return part("mlp_down_bank", layer, 64 * 256);
  }
};

TEST(Gptq, GoldenCodesAndScales) {
  const Golden golden;
  CpuDevice device;
  int64_t matrices = 0, differing = 0, total = 0;
  for (const auto& [key, entry] : golden.file.entries()) {
    if (!key.starts_with("gptq.q.")) continue;
    const std::string name = key.substr(7);
    SCOPED_TRACE(name);
    const bool embedding = name == "tok_emb.weight";
    const std::vector<float> w = golden.weight(name);
    const std::vector<float> h = golden.file.read<float>("gptq.hessian." + name);
    const int64_t rows = entry.shape[0], cols = entry.shape[1];
    GptqOptions options;
    options.block = 16;
    if (embedding) options.bits = 8, options.clip_sigmas = 20;
    const QuantizedMatrix q =
        gptq(device, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, options);
    EXPECT_EQ(q.scales, golden.file.read<uint16_t>("gptq.scale." + name));
    const std::vector<int8_t> codes = golden.file.read<int8_t>(key);
    for (size_t i = 0; i < codes.size(); ++i) {
      differing += q.codes[i] != codes[i];
      EXPECT_LE(std::abs(q.codes[i] - codes[i]), 1);
    }
    total += rows * cols;
    ++matrices;
  }
  EXPECT_EQ(matrices, 31);
  RecordProperty("differing_codes", static_cast<int>(differing));
  EXPECT_LE(static_cast<double>(differing), 1e-4 * static_cast<double>(total));
}

TEST(Gptq, SameBitsForAnyNumberOfThreads) {
  const int64_t rows = 75, cols = 200;
  const std::vector<float> w = random_matrix(rows * cols, 1), h = random_hessian(cols, 400, 2);
  CpuDevice one(1), three(3);
  GptqOptions options;
  options.block = 48;
  EXPECT_EQ(gptq(one, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, options),
            gptq(three, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, options));
}

// Two matrices that share a factor, beside one of another width.
TEST(Gptq, SideBySideIsTheSameAsAlone) {
  const int64_t wide = 130, narrow = 48;
  const std::vector<float> a = random_matrix(70 * wide, 1), b = random_matrix(33 * wide, 2),
                           c = random_matrix(40 * narrow, 3);
  const std::vector<float> hw = random_hessian(wide, 300, 4), hn = random_hessian(narrow, 90, 5);
  CpuDevice device(3);
  const std::vector<Tensor<const float>> hessians{{hn.data(), {narrow, narrow}},
                                                  {hw.data(), {wide, wide}}};
  const std::vector<std::string> names{"c", "a"};
  const std::vector<GptqFactor> factors = gptq_factors(device, hessians, names, 0.01);
  GptqOptions coarse, fine;
  coarse.bits = 4, fine.block = 32;
  const std::vector<GptqJob> jobs{{"a", {a.data(), {70, wide}}, &factors[1], coarse},
                                  {"c", {c.data(), {40, narrow}}, &factors[0], fine},
                                  {"b", {b.data(), {33, wide}}, &factors[1], fine}};
  const std::vector<QuantizedMatrix> together = gptq(device, jobs);
  ASSERT_EQ(together.size(), 3u);
  EXPECT_EQ(together[0], gptq(device, jobs[0].w, hessians[1], coarse));
  EXPECT_EQ(together[1], gptq(device, jobs[1].w, hessians[0], fine));
  EXPECT_EQ(together[2], gptq(device, jobs[2].w, hessians[1], fine));
}

TEST(Gptq, ErrorsSayWhichMatrix) {
  std::vector<float> good(16, 0.0f), bad(16, 0.0f), w(16, 1.0f);
  for (size_t j = 0; j < 4; ++j) good[j * 5] = bad[j * 5] = 1;
  bad[1] = std::numeric_limits<float>::infinity();
  CpuDevice device;
  const std::vector<Tensor<const float>> hessians{{good.data(), {4, 4}}, {bad.data(), {4, 4}}};
  const std::vector<std::string> names{"first", "second"};
  const auto message = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(message([&] { gptq_factors(device, hessians, names, 0.01); }).find("second"),
            std::string::npos);
  const auto factors = gptq_factors(device, std::span(hessians).first(1), names, 0.01);
  w[3] = std::numeric_limits<float>::quiet_NaN();
  const GptqJob job{"third", {w.data(), {4, 4}}, &factors[0], {}};
  EXPECT_NE(message([&] { gptq(device, std::span(&job, 1)); }).find("third"), std::string::npos);
}

// The purpose of it all: a smaller error of the outputs than rounding to nearest gives.
TEST(Gptq, BeatsRoundingToNearest) {
  const int64_t rows = 40, cols = 96;
  const std::vector<float> w = random_matrix(rows * cols, 3), h = random_hessian(cols, 300, 4);
  CpuDevice device;
  GptqOptions options;
  options.bits = 4, options.clip_sigmas = 4;
  const QuantizedMatrix q =
      gptq(device, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, options);
  const auto c_max = static_cast<float>(q.c_max());
  double gptq_loss = 0, nearest_loss = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float s = fp16_to_float(q.scales[static_cast<size_t>(r)]);
    std::vector<double> e(static_cast<size_t>(cols)), n(static_cast<size_t>(cols));
    for (int64_t j = 0; j < cols; ++j) {
      const auto i = static_cast<size_t>(r * cols + j);
      e[static_cast<size_t>(j)] = w[i] - s * static_cast<float>(q.codes[i]);
      n[static_cast<size_t>(j)] = w[i] - s * std::clamp(std::nearbyint(w[i] / s), -c_max, c_max);
    }
    for (int64_t a = 0; a < cols; ++a)
      for (int64_t b = 0; b < cols; ++b) {
        const double hab = h[static_cast<size_t>(a * cols + b)];
        gptq_loss += e[static_cast<size_t>(a)] * hab * e[static_cast<size_t>(b)];
        nearest_loss += n[static_cast<size_t>(a)] * hab * n[static_cast<size_t>(b)];
      }
  }
  EXPECT_LT(gptq_loss, 0.7 * nearest_loss);
}

TEST(Gptq, DeadColumnsGetZeroCodesAndLeaveTheRestAlone) {
  const int64_t rows = 20, cols = 64, dead = 17;
  const std::vector<float> w = random_matrix(rows * cols, 5);
  std::vector<float> h = random_hessian(cols, 300, 6);
  for (int64_t j = 0; j < cols; ++j)
    h[static_cast<size_t>(dead * cols + j)] = h[static_cast<size_t>(j * cols + dead)] = 0;
  CpuDevice device;
  GptqNotes notes;
  const QuantizedMatrix q =
      gptq(device, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, {}, &notes);
  EXPECT_EQ(notes.dead_columns, 1);
  int64_t nonzero = 0;
  for (int64_t r = 0; r < rows; ++r) {
    EXPECT_EQ(q.codes[static_cast<size_t>(r * cols + dead)], 0);
    for (int64_t j = 0; j < cols; ++j) nonzero += q.codes[static_cast<size_t>(r * cols + j)] != 0;
  }
  EXPECT_GT(nonzero, rows * cols / 2);
}

TEST(Gptq, NeverFailsOnASingularHessian) {
  const int64_t rows = 8, cols = 96;
  const std::vector<float> w = random_matrix(rows * cols, 7);
  CpuDevice device;
  // Rank 3, and all zero.
  for (const std::vector<float>& h :
       {random_hessian(cols, 3, 8), std::vector<float>(static_cast<size_t>(cols * cols))}) {
    GptqNotes notes;
    const QuantizedMatrix q =
        gptq(device, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, {}, &notes);
    EXPECT_EQ(q.codes.size(), w.size());
    EXPECT_DOUBLE_EQ(notes.damping, 0.01);
  }
  // Symmetric but indefinite, as sums in float can leave it: more damping, not an error.
  std::vector<float> h(static_cast<size_t>(cols * cols), 1.5f);
  for (int64_t j = 0; j < cols; ++j) h[static_cast<size_t>(j * cols + j)] = 1;
  GptqNotes notes;
  gptq(device, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, {}, &notes);
  EXPECT_GT(notes.damping, 0.01);
}

TEST(Gptq, ZeroAndHugeRowsKeepFiniteScales) {
  const int64_t rows = 3, cols = 32;
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (int64_t j = 0; j < cols; ++j) {
    w[static_cast<size_t>(cols + j)] = j % 2 ? 1e8f : -1e8f;
    w[static_cast<size_t>(2 * cols + j)] = j % 2 ? 1e-30f : -1e-30f;
  }
  const std::vector<float> h = random_hessian(cols, 100, 9);
  CpuDevice device;
  const QuantizedMatrix q = gptq(device, {w.data(), {rows, cols}}, {h.data(), {cols, cols}}, {});
  for (uint16_t s : q.scales) {
    EXPECT_GT(fp16_to_float(s), 0.0f);
    EXPECT_TRUE(std::isfinite(fp16_to_float(s)));
  }
  for (int64_t j = 0; j < cols; ++j) EXPECT_EQ(q.codes[static_cast<size_t>(j)], 0);
}

TEST(Gptq, NonFiniteInputIsAnError) {
  std::vector<float> w(16, 1.0f), h(16, 0.0f);
  for (size_t j = 0; j < 4; ++j) h[j * 5] = 1;
  CpuDevice device;
  w[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(gptq(device, {w.data(), {4, 4}}, {h.data(), {4, 4}}, {}), Error);
  w[5] = 0, h[1] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(gptq(device, {w.data(), {4, 4}}, {h.data(), {4, 4}}, {}), Error);
}

TEST(Cholesky, FactorOfTheInverse) {
  const int64_t n = 150;
  const std::vector<float> hf = random_hessian(n, 2 * n, 10);
  std::vector<double> h(hf.begin(), hf.end()), copy = h, u;
  CpuDevice device;
  ASSERT_TRUE(inverse_cholesky_upper(device, n, copy, u));
  // UᵀU H = I, i.e. U H Uᵀ = I.
  std::vector<double> uh(static_cast<size_t>(n * n));
  double worst = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < n; ++k) {
      worst = k < i ? std::max(worst, std::abs(u[static_cast<size_t>(i * n + k)])) : worst;
      for (int64_t j = 0; j < n; ++j)
        uh[static_cast<size_t>(i * n + j)] +=
            u[static_cast<size_t>(i * n + k)] * h[static_cast<size_t>(k * n + j)];
    }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double s = 0;
      for (int64_t k = 0; k < n; ++k)
        s += uh[static_cast<size_t>(i * n + k)] * u[static_cast<size_t>(j * n + k)];
      worst = std::max(worst, std::abs(s - (i == j)));
    }
  EXPECT_LT(worst, 1e-10);
}

}  // namespace
}  // namespace fairway

#include "machine.h"

#include <omp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <oneapi/dnnl/dnnl.hpp>

#include "fairway/base/arena.h"
#include "fairway/base/bf16.h"
#include "fairway/base/rng.h"

namespace fairway::bench {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

double copy_bandwidth(int threads) {
  constexpr int64_t kFloats = int64_t{64} << 20, kChunk = 1 << 18;
  const HostBuffer from(kFloats * sizeof(float)), to(kFloats * sizeof(float));
  auto* x = reinterpret_cast<float*>(from.data());
  auto* y = reinterpret_cast<float*>(to.data());
  std::fill(x, x + kFloats, 1.0f);
  double best = 1e30;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double start = seconds_now();
#pragma omp parallel for num_threads(threads)
    for (int64_t c = 0; c < kFloats; c += kChunk) {
      // Scaled, so that the loop stays the vector loop that ops are, not a call of memcpy.
#pragma omp simd
      for (int64_t i = c; i < c + kChunk; ++i) y[i] = 0.5f * x[i];
    }
    best = std::min(best, seconds_now() - start);
  }
  return 2.0 * sizeof(float) * kFloats / best;
}

double onednn_rate(int threads, MatmulPrecision precision, int64_t m, int64_t n, int64_t k,
                   bool a_transposed, bool b_transposed) {
  using dnnl::memory;
  omp_set_num_threads(threads);
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const bool narrow = precision == MatmulPrecision::bfloat16;
  const auto type = narrow ? memory::data_type::bf16 : memory::data_type::f32;
  const auto tag = [](bool transposed) {
    return transposed ? memory::format_tag::ba : memory::format_tag::ab;
  };
  const memory::desc a({m, k}, type, tag(a_transposed)), b({k, n}, type, tag(b_transposed)),
      c({m, n}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul product(
      dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), dnnl::primitive_attr(), engine));
  memory ma(a, engine), mb(b, engine), mc(c, engine);
  const Philox rng(1, 2);
  const auto fill = [&](memory& mem, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const auto x = static_cast<float>(rng.uniform(static_cast<uint64_t>(i)) - 0.5);
      if (narrow)
        static_cast<bf16*>(mem.get_data_handle())[i] = bf16(x);
      else
        static_cast<float*>(mem.get_data_handle())[i] = x;
    }
  };
  fill(ma, m * k);
  fill(mb, k * n);
  const double flops =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  double best = 1e30;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double start = seconds_now();
    product.execute(stream, {{DNNL_ARG_SRC, ma}, {DNNL_ARG_WEIGHTS, mb}, {DNNL_ARG_DST, mc}});
    stream.wait();
    best = std::min(best, seconds_now() - start);
  }
  return flops / best;
}

}  // namespace fairway::bench

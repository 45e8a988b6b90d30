#include "fairway/device/cpu_matmul.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "fairway/base/check.h"
#include "fairway/device/cpu_matmul_cache.h"

namespace fairway {

namespace {

struct Key {
  int64_t m, n, k, lda, ldb, ldc;
  uint32_t flags;  // 1: A transposed, 2: B transposed, 4: accumulate, 8: bf16 inputs
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = key.flags;
    for (int64_t x : {key.m, key.n, key.k, key.lda, key.ldb, key.ldc})
      h = (h ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    return static_cast<size_t>(h);
  }
};

struct Primitive {
  dnnl::matmul primitive;
  dnnl::memory a, b, c, scratchpad;
  std::unordered_map<int, dnnl::memory> arguments;
};

using Clock = std::chrono::steady_clock;

// While it lives, the calling thread's products are its own: some of oneDNN's kernels ask for the
// number of threads when they are made, others when they run.
class OneThread {
 public:
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(threads_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_ = omp_get_max_threads();
};

}  // namespace

struct MatmulCache::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::unordered_map<Key, Primitive, KeyHash> primitives;
  // Shared by the thread's primitives: left to itself, oneDNN takes fresh pages for every
  // execution.
  HostBuffer scratchpad;

  Primitive& get(const Key& key) {
    auto it = primitives.find(key);
    if (it == primitives.end()) it = primitives.emplace(key, make(key)).first;
    return it->second;
  }

  // The primitive is made as a single-threaded one: its blocking depends on the shape only.
  Primitive make(const Key& key) {
    using dnnl::memory;
    const auto input = key.flags & 8 ? memory::data_type::bf16 : memory::data_type::f32;
    const auto strides = [](bool transposed, int64_t ld) {
      return transposed ? memory::dims{1, ld} : memory::dims{ld, 1};
    };
    const memory::desc a({key.m, key.k}, input, strides(key.flags & 1, key.lda));
    const memory::desc b({key.k, key.n}, input, strides(key.flags & 2, key.ldb));
    const memory::desc c({key.m, key.n}, memory::data_type::f32, memory::dims{key.ldc, 1});
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.flags & 4) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attr.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attr, engine);
    Primitive p;
    p.primitive = dnnl::matmul(description);
    p.a = memory(a, engine, nullptr);
    p.b = memory(b, engine, nullptr);
    p.c = memory(c, engine, nullptr);
    p.scratchpad = memory(description.scratchpad_desc(), engine, nullptr);
    if (scratchpad.bytes() < description.scratchpad_desc().get_size())
      scratchpad = HostBuffer(description.scratchpad_desc().get_size());
    p.arguments = {{DNNL_ARG_SRC, p.a},
                   {DNNL_ARG_WEIGHTS, p.b},
                   {DNNL_ARG_DST, p.c},
                   {DNNL_ARG_SCRATCHPAD, p.scratchpad}};
    return p;
  }
};

MatmulCache::MatmulCache() : impl_(std::make_unique<Impl>()) {}
MatmulCache::~MatmulCache() = default;

bool cpu_has_fast_bf16() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

RowTiles row_tiles() {
  using dnnl::cpu_isa;
  static const cpu_isa isa = dnnl::get_effective_cpu_isa();
  switch (isa) {
    case cpu_isa::avx512_core:
    case cpu_isa::avx512_core_vnni:
    case cpu_isa::avx512_core_bf16:
    case cpu_isa::avx512_core_amx:
      return {.most = 128, .multiple = 16};
    default:
      return {.most = 48, .multiple = 48};
  }
}

namespace {

template <class In>
void onednn_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<In> a,
                 MatrixRef<In> b, float* c, int64_t ldc, bool accumulate) {
  if (m == 0 || n == 0) return;
  const OneThread one_thread;
  MatmulCache& cache = device.matmul_cache();
  const uint32_t flags = (a.transposed ? 1u : 0u) | (b.transposed ? 2u : 0u) |
                         (accumulate ? 4u : 0u) | (std::is_same_v<In, bf16> ? 8u : 0u);
  Primitive& p = cache.impl().get({m, n, k, a.ld, b.ld, ldc, flags});
  p.a.set_data_handle(const_cast<In*>(a.data));
  p.b.set_data_handle(const_cast<In*>(b.data));
  p.c.set_data_handle(c);
  p.scratchpad.set_data_handle(cache.impl().scratchpad.data());
  const auto start = Clock::now();
  p.primitive.execute(cache.impl().stream, p.arguments);
  cache.totals.seconds += std::chrono::duration<double>(Clock::now() - start).count();
  cache.totals.flops +=
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

template <class T>
void plain_tile(int64_t m, int64_t n, int64_t k, MatrixRef<T> a, MatrixRef<T> b, T* c, int64_t ldc,
                bool accumulate) {
  for (int64_t i = 0; i < m; ++i) {
    T* row = c + i * ldc;
    if (!accumulate) std::fill(row, row + n, T{});
    for (int64_t l = 0; l < k; ++l) {
      const T x = a.transposed ? a.data[l * a.ld + i] : a.data[i * a.ld + l];
      for (int64_t j = 0; j < n; ++j)
        row[j] += x * (b.transposed ? b.data[j * b.ld + l] : b.data[l * b.ld + j]);
    }
  }
}

int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

// Extent of a tile along one side: about 16 tiles, each a multiple of 32 in [128, 512].
int64_t tile_extent(int64_t n) {
  return std::clamp<int64_t>(round_up((n + 15) / 16, 32), 128, 512);
}

template <class T>
MatrixRef<T> offset(MatrixRef<T> a, int64_t row, int64_t column) {
  a.data += a.transposed ? column * a.ld + row : row * a.ld + column;
  return a;
}

// Rounds the logical [rows, columns] block of `a` to bf16, keeping its orientation.
MatrixRef<bf16> rounded(CpuDevice& device, int slot, MatrixRef<float> a, int64_t rows,
                        int64_t columns) {
  const int64_t outer = a.transposed ? columns : rows, inner = a.transposed ? rows : columns;
  auto* out = reinterpret_cast<bf16*>(
      device.thread_scratch(slot, static_cast<size_t>(outer * inner) * sizeof(bf16)));
  for (int64_t i = 0; i < outer; ++i) round_to_bf16(a.data + i * a.ld, inner, out + i * inner);
  return {out, inner, a.transposed};
}

}  // namespace

void matmul_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<float> a,
                 MatrixRef<float> b, float* c, int64_t ldc, bool accumulate) {
  onednn_tile(device, m, n, k, a, b, c, ldc, accumulate);
}
void matmul_tile(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<bf16> a,
                 MatrixRef<bf16> b, float* c, int64_t ldc, bool accumulate) {
  onednn_tile(device, m, n, k, a, b, c, ldc, accumulate);
}
void matmul_tile(CpuDevice&, int64_t m, int64_t n, int64_t k, MatrixRef<double> a,
                 MatrixRef<double> b, double* c, int64_t ldc, bool accumulate) {
  plain_tile(m, n, k, a, b, c, ldc, accumulate);
}
void matmul_tile(CpuDevice&, int64_t m, int64_t n, int64_t k, MatrixRef<std::complex<double>> a,
                 MatrixRef<std::complex<double>> b, std::complex<double>* c, int64_t ldc,
                 bool accumulate) {
  plain_tile(m, n, k, a, b, c, ldc, accumulate);
}

template <class T>
void matmul_batched(CpuDevice& device, int64_t batch, int64_t m, int64_t n, int64_t k,
                    MatrixRef<T> a, int64_t stride_a, MatrixRef<T> b, int64_t stride_b, T* c,
                    int64_t ldc, int64_t stride_c, bool accumulate, bool exact) {
  const bool narrow =
      std::is_same_v<T, float> && device.precision() == MatmulPrecision::bfloat16 && !exact;
  const int64_t tile_m = tile_extent(m), tile_n = std::max<int64_t>(512, tile_extent(n));
  const int64_t tiles_m = (m + tile_m - 1) / tile_m, tiles_n = (n + tile_n - 1) / tile_n;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t t = 0; t < batch * tiles_m * tiles_n; ++t) {
    const int64_t i = t / (tiles_m * tiles_n);
    const int64_t row = t / tiles_n % tiles_m * tile_m, column = t % tiles_n * tile_n;
    const int64_t rows = std::min(tile_m, m - row), columns = std::min(tile_n, n - column);
    MatrixRef<T> at = offset(a, row, 0), bt = offset(b, 0, column);
    at.data += i * stride_a;
    bt.data += i * stride_b;
    T* ct = c + i * stride_c + row * ldc + column;
    if constexpr (std::is_same_v<T, float>) {
      if (narrow) {
        const auto a16 = rounded(device, 0, at, rows, k);
        const auto b16 = rounded(device, 1, bt, k, columns);
        matmul_tile(device, rows, columns, k, a16, b16, ct, ldc, accumulate);
        continue;
      }
    }
    matmul_tile(device, rows, columns, k, at, bt, ct, ldc, accumulate);
  }
}

template <class T>
void matmul(CpuDevice& device, int64_t m, int64_t n, int64_t k, MatrixRef<T> a, MatrixRef<T> b,
            T* c, int64_t ldc, bool accumulate, bool exact) {
  matmul_batched(device, 1, m, n, k, a, 0, b, 0, c, ldc, 0, accumulate, exact);
}

#define FAIRWAY_INSTANTIATE(T)                                                                \
  template void matmul(CpuDevice&, int64_t, int64_t, int64_t, MatrixRef<T>, MatrixRef<T>, T*, \
                       int64_t, bool, bool);                                                  \
  template void matmul_batched(CpuDevice&, int64_t, int64_t, int64_t, int64_t, MatrixRef<T>,  \
                               int64_t, MatrixRef<T>, int64_t, T*, int64_t, int64_t, bool, bool);
FAIRWAY_INSTANTIATE(float)
FAIRWAY_INSTANTIATE(double)
FAIRWAY_INSTANTIATE(std::complex<double>)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

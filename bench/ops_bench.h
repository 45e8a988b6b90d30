// What the measurements of `fairway bench ops` share: sizes, arrays of random numbers, the clock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

#include "documents.h"
#include "fairway/base/accum.h"
#include "fairway/base/rng.h"
#include "fairway/base/tensor.h"
#include "fairway/device/run_types.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/rope_gain.h"
#include "ops.h"
#include "timer.h"

namespace fairway::bench {

// The arrays lie in memory that this owns; measurements overwrite them.
template <class Device, class E>
struct OpsBench {
  // The measurements go to `to`, which has the ceilings.
  OpsBench(Device& on, const OpsOptions& o, OpsFigures& to)
      : device(on),
        figures(to),
        c(o.model),
        T(o.tokens),
        batch(random_documents(T, c.vocab_size, c.max_doc_len, 1)) {
    rope_table<E>(device, cu_seqlens, c.rotary_dims(), c.rope_base, cosine, sine);
  }
  OpsBench(const OpsBench&) = delete;
  OpsBench& operator=(const OpsBench&) = delete;

  void model();      // ops of the model's layers, its embedding and its head
  void mlp_e4m3();   // the MLP with e4m3 operands
  void adapters();   // low-rank adapters, alone and beside the maps that they belong to
  void optimizer();  // on the whole model's parameters

  using A = Accum<E>;
  using F = Tensor<E>;
  using V = Tensor<A>;

  static double n(int64_t a, int64_t b) { return static_cast<double>(a * b); }

  Tensor<const int32_t> ints(const std::vector<int32_t>& values, int64_t count) {
    memory.push_back(device.allocate(values.size() * sizeof(int32_t)));
    device.upload(memory.back().data(), values.data(), values.size() * sizeof(int32_t));
    return Tensor<const int32_t>(reinterpret_cast<const int32_t*>(memory.back().data()), {count});
  }
  template <class U>
  Tensor<U> take_as(U, Shape shape) {
    std::vector<U> values(static_cast<size_t>(shape.size()));
    const Philox rng(3, stream++);
    for (size_t i = 0; i < values.size(); i += 4) {
      const auto words = rng.block(i);
      for (size_t j = 0; j < std::min<size_t>(4, values.size() - i); ++j)
        values[i + j] = static_cast<U>(static_cast<float>(words[j] >> 8) * 0x1p-24f - 0.5f);
    }
    memory.push_back(device.allocate(values.size() * sizeof(U)));
    device.upload(memory.back().data(), values.data(), values.size() * sizeof(U));
    return Tensor<U>(reinterpret_cast<U*>(memory.back().data()), shape);
  }
  F take(Shape shape) { return take_as(E(0.0f), shape); }
  V vec(Shape shape) { return take_as(A(0.0f), shape); }

  void measure_bytes(const char* name, double bytes, double flops,
                     const std::function<void()>& work) {
    const double seconds = device_seconds(device, work);
    figures.ops.push_back(
        {name, seconds, bytes, flops, std::max(bytes / figures.bandwidth, flops / figures.rate)});
  }
  // `elements` of activations or matrices.
  void measure(const char* name, double elements, double flops, const std::function<void()>& work) {
    measure_bytes(name, sizeof(E) * elements, flops, work);
  }

  // One layer's, of random matrices.
  MlpE4m3<E> take_mlp_e4m3() {
    const MlpE4m3<E> bank{take({1, hidden, D}), take({1, D, hidden}),
                          take_as(int32_t{}, {1, kE4m3Exponents})};
    const std::vector<double> ln{1};
    mlp_e4m3_weights<E>(device, {wup.data, {1, hidden, D}}, {wdown.data, {1, D, hidden}}, ln, bank);
    return bank.slice(0);
  }
  // What is kept of e4m3 hidden rows, in zf's place.
  MlpHidden<E> take_e4m3_hidden() {
    if (!mlp_e4m3_keeps_bytes<E>(device, D, hidden)) return {zf, {}};
    auto* const bytes = reinterpret_cast<e4m3*>(zf.data);
    return {{}, {}, {bytes, {T, hidden}}, {bytes + T * hidden, {T, hidden}}};
  }

  Device& device;
  OpsFigures& figures;
  const ModelConfig& c;
  const int64_t T, D = c.model_dim, H = c.num_heads, K = c.num_kv_heads, d = c.head_dim(),
                   kv = c.kv_dim(), hidden = c.mlp_dim(), vocab = c.vocab_size;
  const int64_t head_rows = std::min<int64_t>(T, std::is_same_v<Device, CpuDevice> ? 1024 : 8192),
                half = c.rotary_dims() / 2;
  const PackedBatch batch;
  uint64_t stream = 0;
  std::vector<typename Device::Buffer> memory;

  const Tensor<const int32_t> tokens = ints(batch.inputs, T),
                              targets = ints(batch.targets, head_rows),
                              cu_seqlens = ints(batch.cu_seqlens, std::ssize(batch.cu_seqlens));
  const F x = take({T, D}), y = take({T, D}), z = take({T, D}), lane = take({T, D});
  const F yh = take({T, H, d}), dyh = take({T, H, d});
  const F q = take({T, H, d}), k = take({T, K, d}), v = take({T, K, d});
  const F dq = take({T, H, d}), dk = take({T, K, d}), dv = take({T, K, d});
  const V rstd = vec({T}), lse = vec({H, T}), delta = vec({H, T}), ydv = vec({T, H}),
          rstd_q = vec({T, H}), rstd_k = vec({T, K});
  const V cosine = vec({T, half}), sine = vec({T, half}), gain = vec({H}), dgain = vec({H});
  const V mix = vec({2, D}), dmix = vec({2, D}), skip = vec({2, D}), dskip = vec({2, D});
  const V pl = vec({2, 2}), rl = vec({2}), dpl = vec({2, 2}), drl = vec({2});
  const F table = take({vocab, D}), wq = take({D, D}), wk = take({kv, D}), wv = take({kv, D}),
          wup = take({hidden, D}), wdown = take({D, hidden});
  const V dtable = vec({vocab, D}), dwq = vec({D, D}), dwk = vec({kv, D}), dwv = vec({kv, D}),
          dwup = vec({hidden, D}), dwdown = vec({D, hidden});
  const F zf = take({T, hidden});
  const F logits = take({head_rows, vocab});
  const V nll = vec({head_rows}), weight = vec({head_rows});

  const double TD = n(T, D), TK = n(T, kv), TF = n(T, hidden), DF = n(D, hidden);
};

}  // namespace fairway::bench

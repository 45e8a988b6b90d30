// The MLP with e4m3 operands: the whole op, and on Hopper each of its kernels.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "fairway/ops/mix_norm.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/rms_norm.h"
#include "ops_bench.h"
#if FAIRWAY_WITH_CUDA
#include "fairway/ops/linear_norm_back_sm90.cuh"
#include "fairway/ops/mlp_e4m3_sm90.cuh"
#include "fairway/ops/mlp_e4m3_weights_sm90.cuh"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#endif

namespace fairway::bench {

namespace {

#if FAIRWAY_WITH_CUDA
// Each kernel by itself, on the operands of the op. A product of e4m3 operands may take half as
// long as one of bf16.
void measure_kernels(OpsBench<CudaDevice, bf16>& b, const MlpE4m3<bf16>& w, Tensor<const bf16> n,
                     Tensor<const bf16> dm, const MlpHidden<bf16>& hidden, Tensor<bf16> y) {
  if (!hidden.f) return;  // no e4m3 products here
  const auto stream = b.device.stream();
  const int64_t T = b.T, D = b.D, F = b.hidden;
  const auto* const up = reinterpret_cast<const e4m3*>(w.wup.data);
  const auto* const down = reinterpret_cast<const e4m3*>(w.wdown.data);
  const int32_t* const e = w.exponents.data;
  const auto bytes = [&](int64_t count) {
    b.memory.push_back(b.device.allocate(static_cast<size_t>(count)));
    return b.memory.back().data();
  };
  const auto operand = [&](int64_t count) { return reinterpret_cast<e4m3*>(bytes(count)); };
  e4m3 *const n8 = operand(T * D), *const dm8 = operand(T * D), *const f = hidden.f.data,
              *const z = hidden.z_rounded.data, *const dz = operand(T * F);
  auto* const rows = reinterpret_cast<int32_t*>(bytes(T * 4));
  const double flops = 2 * b.TF * static_cast<double>(D);
  const auto measure = [&](const char* name, double moved, double operations, auto&& work) {
    b.measure_bytes(name, moved, operations, work);
    auto& figure = b.figures.ops.back();
    figure.floor = std::max(moved / b.figures.bandwidth, operations / (2 * b.figures.rate));
  };
  measure("e4m3 operand of n", 3 * b.TD, 0,
          [&] { cuda::mlp_e4m3_operand_n(stream, n.data, e, T, D, n8); });
  measure("e4m3 operand of dm", 3 * b.TD, 0,
          [&] { cuda::mlp_e4m3_operand_dm(stream, dm.data, T, D, dm8, rows); });
  measure("e4m3 up", b.TD + b.DF + 2 * b.TF, flops,
          [&] { cuda::mlp_e4m3_up(stream, n8, up, e, T, D, F, f, z); });
  measure("e4m3 down", b.TF + b.DF + 4 * b.TD, flops,
          [&] { cuda::mlp_e4m3_down(stream, f, down, e, dm.data, T, D, F, y.data); });
  const int64_t tiles = cuda::leaky_sq_dot_tiles(F);
  auto* const half_dots = reinterpret_cast<float*>(bytes(tiles * T * 4));
  measure("e4m3 down backward", b.TD + b.DF + 2 * b.TF, flops, [&] {
    cuda::mlp_e4m3_down_backward(stream, dm8, rows, down + D * F, e, z, T, D, F, dz, half_dots);
  });
  measure("e4m3 up backward", b.TF + b.DF + 2 * b.TD, flops,
          [&] { cuda::mlp_e4m3_up_backward(stream, dz, rows, up + F * D, e, T, D, F, y.data); });
  auto* const row = reinterpret_cast<cuda::NormBackRow*>(bytes(T * 8));
  const cuda::NormBackScales scales{rows, e + kE4m3Dz, e + kE4m3Up};
  measure("e4m3 up backward into the norm", b.TF + b.DF + 6 * b.TD, flops, [&] {
    cuda::norm_back_rows(stream, {half_dots, tiles, T, D, nullptr, nullptr, 0, b.rstd.data, 1},
                         &scales, row);
    cuda::linear_norm_back<e4m3>(stream, {dz, up + F * D, n.data, row, y.data, T, D, F});
  });
  const int64_t column = cuda::MlpE4m3Columns::width(T);
  const cuda::MlpE4m3Columns columns{operand(D * column), operand(D * column),
                                     reinterpret_cast<int32_t*>(bytes(4))};
  measure("e4m3 columns of n and dm", 6 * b.TD, 0,
          [&] { cuda::mlp_e4m3_operand_columns(stream, dm.data, n.data, rows, e, T, D, columns); });
  const int slices = cuda::mlp_e4m3_weight_slices(T, D, F, b.device.multiprocessors());
  auto* const partial = reinterpret_cast<float*>(
      bytes(static_cast<int64_t>(cuda::mlp_e4m3_weight_bytes(D, F, slices))));
  // Slices' sums are written and read, and so is the gradient.
  const double weight_bytes = b.TF + b.TD + (2 * slices + 2) * 4 * b.DF;
  measure("e4m3 down weight", weight_bytes, flops, [&] {
    cuda::mlp_e4m3_down_weight(stream, columns, f, e, T, D, F, slices, partial, b.dwdown.data);
  });
  measure("e4m3 up weight", weight_bytes, flops, [&] {
    cuda::mlp_e4m3_up_weight(stream, columns, dz, e, T, D, F, slices, partial, b.dwup.data);
  });
  const Tensor<bf16> stream_gradient = b.take({T, D}), dx0 = b.take({T, D});
  const MixNormBackward<bf16> from{n, n,     b.rstd,          1,  {dm, {}, {}},
                                   y, b.mix, stream_gradient, {}, {}};
  const MixNormGradients<bf16> to{stream_gradient, {}, dx0,
                                  b.dmix,          {}, {{dm8, {T, D}}, {rows, {T}}}};
  measure("mix_norm backward with e4m3 operand of dm", 15 * b.TD, 0,
          [&] { mix_norm_backward<bf16>(b.device, from, to); });
}
#endif
template <class Device, class E>
void measure_kernels(OpsBench<Device, E>&, const MlpE4m3<E>&, Tensor<const E>, Tensor<const E>,
                     const MlpHidden<E>&, Tensor<E>) {}

}  // namespace

template <class Device, class E>
void OpsBench<Device, E>::mlp_e4m3() {
  // Of their own: what other measurements leave may be no numbers.
  const F input = take({T, D}), normed = take({T, D}), residual = take({T, D}), out = take({T, D}),
          dm = take({T, D});
  const F up = take({1, hidden, D}), down = take({1, D, hidden});
  const MlpE4m3<E> bank{take({1, hidden, D}), take({1, D, hidden}),
                        take_as(int32_t{}, {1, kE4m3Exponents})};
  const std::vector<double> ln{1};
  measure("mlp_e4m3_weights", 4 * DF, 0, [&] { mlp_e4m3_weights<E>(device, up, down, ln, bank); });
  const MlpE4m3<E> w = bank.slice(0);
  const MlpHidden<E> kept = take_e4m3_hidden();
  // What the forward pass writes, and the backward pass reads and writes, in elements of E.
  const double written = kept.f ? 2 * TF / sizeof(E) : TF;
  const double changed = kept.f ? 3 * TF / sizeof(E) : 2 * TF;
  measure("mlp_e4m3_norm, mlp_leaky_sq_e4m3", 4 * TD + written + 2 * DF,
          4 * TF * static_cast<double>(D), [&] {
            const auto operand = mlp_e4m3_n_rows<E>(device, T, D, hidden);
            mlp_e4m3_norm<E>(device, input, c.norm_eps, 1, w, rstd, normed, operand);
            mlp_leaky_sq_e4m3<E>(device, normed, w, residual, kept, out, {}, operand);
          });
  const auto forward = [&] { mlp_leaky_sq_e4m3<E>(device, normed, w, residual, kept, out); };
  const double flops = 2 * TF * static_cast<double>(D);
  measure("mlp_leaky_sq_e4m3", 3 * TD + written + 2 * DF, 2 * flops, forward);
  // Together: by itself the backward pass would find dz where it left it instead of z.
  measure("mlp_leaky_sq_e4m3 and its backward", 6 * TD + written + changed + 6 * DF, 6 * flops,
          [&] {
            forward();
            mlp_leaky_sq_e4m3_backward<E>(device, dm, normed, kept, w, out, dwup, dwdown);
          });
  measure("mlp_leaky_sq_e4m3 and its backward into its norm", 7 * TD + written + changed + 6 * DF,
          6 * flops, [&] {
            forward();
            mlp_leaky_sq_e4m3_backward<E>(device, dm, normed, kept, w, out, dwup, dwdown, {},
                                          {rstd, 1, residual, {}});
          });
  forward();
  measure_kernels(*this, w, Tensor<const E>(normed), Tensor<const E>(dm), kept, out);
}

#define FAIRWAY_INSTANTIATE(Device, E) template void OpsBench<Device, E>::mlp_e4m3();
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::bench

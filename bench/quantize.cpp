#include "quantize.h"

#include "fairway/base/rng.h"
#include "fairway/model/device_weights.h"
#include "fairway/quant/artifact.h"
#include "fairway/quant/calibrate.h"
#include "fairway/quant/quantize.h"
#include "machine.h"

namespace fairway::bench {

namespace {

template <class Device, class T>
Hessians sum_hessians(Device& device, const QuantizeOptions& o, const float* flat,
                      QuantizeFigures& f) {
  const DeviceWeights<Device, T> weights(device, o.model, flat);
  const int64_t window = std::min<int64_t>(o.quant.calibration_window, o.tokens);
  const int64_t tokens = o.tokens / window * window;
  Calibration<Device, T> calibration(device, o.model, weights.view(), tokens, window);
  std::vector<int32_t> inputs(static_cast<size_t>(tokens));
  const Philox rng(5, 0);
  uint64_t drawn = 0;
  const auto add = [&] {
    for (int32_t& id : inputs)
      id = static_cast<int32_t>(rng.below(drawn++, static_cast<uint64_t>(o.model.vocab_size)));
    const double start = seconds_now();
    calibration.add(inputs);
    device.synchronize();
    return seconds_now() - start;
  };
  add();  // makes kernels and touches pages
  for (int i = 0; i < o.batches; ++i) f.hessian_seconds += add();
  const double start = seconds_now();
  Hessians hessians = calibration.sums();
  f.hessian_seconds += seconds_now() - start;

  const Network net(o.model, /*looped=*/true);
  const double D = o.model.model_dim, F = o.model.mlp_dim();
  f.tokens = static_cast<double>(tokens * o.batches);
  f.hessian_flops = 2 * f.tokens * (net.slots() * (3 * D * D + F * F) + D * D);
  f.device = device.name();
  return hessians;
}

}  // namespace

QuantizeFigures bench_quantize(const QuantizeOptions& o) {
  o.quant.validate();
  QuantizeFigures f;
  CpuDevice cpu(o.device.threads);
  f.threads = cpu.threads();
  std::vector<float> flat(static_cast<size_t>(flat_size(o.model)));
  init_weights(cpu, o.model, 1, flat.data());
  // Some matrices start at zero: noise gives all of them codes that cost what a trained model's do.
  const Philox noise(6, 0);
#pragma omp parallel for num_threads(cpu.threads())
  for (int64_t i = 0; i < matrices_size(o.model); ++i)
    flat[static_cast<size_t>(i)] +=
        0.02f * static_cast<float>(noise.normal(static_cast<uint64_t>(i)));

  const Hessians hessians =
      with_device(o.device, [&]<class Device, class T>(Device& device, std::type_identity<T>) {
        return sum_hessians<Device, T>(device, o, flat.data(), f);
      });
  const double start = seconds_now();
  const QuantizedModel model =
      quantize_model(cpu, o.model, flat.data(), hessians, o.quant, *make_single_process());
  const double coding = seconds_now();
  f.artifact_bytes = static_cast<double>(pack_artifact(model).size());
  f.gptq_seconds = coding - start;
  f.coding_seconds = seconds_now() - coding;
  return f;
}

}  // namespace fairway::bench

#include "step_gpu.h"

#include "documents.h"
#include "fairway/ops/round_to.h"
#include "fairway/plan/flops.h"
#include "fairway/train/trainer.h"
#include "machine.h"
#include "timer.h"

namespace fairway::bench {

GpuStepFigures bench_step_gpu(const GpuStepOptions& o) {
  GpuStepFigures f;
  const double begin = seconds_now();
  const auto alone = make_single_process();
  ProcessGroup& group = o.group ? *o.group : *alone;
  CudaDevice device(group.local_rank());
  device.use_graphs(o.graphs);
  TrainConfig train;
  train.batch_tokens = o.tokens * group.size();
  train.micro_steps = group.size();
  train.matmul_precision = o.precision;
  Trainer<CudaDevice, bf16> trainer(device, o.model, OptimConfig{}, train, &group);
  trainer.init();
  const PackedBatch batch = random_documents(o.tokens, o.model.vocab_size, o.model.max_doc_len,
                                             1 + static_cast<uint64_t>(group.rank()));
  std::vector<double> steps;
  for (int i = 0; i < o.steps + 3; ++i) {
    const double start = seconds_now();
    const auto result = trainer.step({.step = i, .lr_factor = 1, .looped = o.looped},
                                     [&] { return PackedBatch(batch); });
    f.loss = result->loss;
    if (i == 0) f.start_seconds = seconds_now() - begin;
    if (i >= 3) steps.push_back(seconds_now() - start);
  }
  f.optimizer_seconds = device_seconds(
      device, [&] { trainer.update({.step = 100, .lr_factor = 1}); }, group.size() > 1 ? 30 : 0);
  const Network net(o.model, o.looped);
  f.device = device.name();
  f.visits = net.slots();
  f.step_seconds = median(steps);
  f.tokens_per_second = static_cast<double>(train.batch_tokens) / f.step_seconds;
  const Flops flops = training_flops(net, static_cast<double>(o.tokens), attention_pairs(batch));
  f.product_flops = flops.products;
  f.attention_flops = flops.attention;
  f.memory = memory_in_use(device);
  f.matmul_rate = matmul_rate(device);
  f.bandwidth = copy_bandwidth(device);
  f.memory_report = trainer.memory_report();
  return f;
}

}  // namespace fairway::bench

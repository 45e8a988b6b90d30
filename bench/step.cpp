#include "step.h"

#include <vector>

#include "documents.h"
#include "fairway/train/trainer.h"
#include "machine.h"
#include "timer.h"

namespace fairway::bench {

namespace {

struct Products {
  double flops = 0, seconds = 0;  // seconds: of all threads together
};

// A micro-batch's products, and the time they would take as whole oneDNN calls.
Products onednn_products(const StepOptions& o, const Network& net, int threads, double pairs) {
  const ModelConfig& c = o.model;
  const int64_t T = o.tokens, D = c.model_dim, kv = c.kv_dim(), F = c.mlp_dim(), V = c.vocab_size;
  Products sum;
  const auto add = [&](double flops, double rate) {
    sum.flops += flops;
    sum.seconds += flops / rate;
  };
  // y = x Wᵀ, dx = dy W, dW = dyᵀ x, each `count` times.
  const auto linear = [&](double count, int64_t out, int64_t in) {
    const double flops = count * 2.0 * static_cast<double>(T * out * in);
    add(flops, onednn_rate(threads, o.precision, T, out, in, false, true));
    add(flops, onednn_rate(threads, o.precision, T, in, out, false, false));
    add(flops, onednn_rate(threads, o.precision, out, in, T, true, false));
  };
  const double visits = net.slots();
  linear(2 * visits, D, D);   // q, o
  linear(2 * visits, kv, D);  // k, v
  linear(visits, F, D);
  linear(visits, D, F);
  linear(1, V, D);
  // Attention: 2 products forward, 5 backward; a query meets half of the keys of its square.
  add(visits * 7 * 2.0 * pairs * static_cast<double>(D),
      onednn_rate(threads, o.precision, 1024, 1024, c.head_dim(), false, true));
  sum.seconds *= threads;
  return sum;
}

}  // namespace

StepFigures bench_step(const StepOptions& o) {
  CpuDevice device(o.threads, o.precision);
  TrainConfig train;
  train.batch_tokens = o.tokens;
  train.micro_steps = 1;
  train.matmul_precision = o.precision;
  Trainer<CpuDevice> trainer(device, o.model, OptimConfig{}, train);
  trainer.init();
  const PackedBatch batch = random_documents(o.tokens, o.model.vocab_size, o.model.max_doc_len, 1);

  std::vector<double> micro, update;
  double micro_total = 0, in_products = 0;
  for (int i = 0; i <= o.steps; ++i) {
    const StepPlan plan{.step = i, .lr_factor = 1, .looped = o.looped};
    const double t0 = seconds_now(), m0 = device.matmul_totals().seconds;
    trainer.step(plan, [&] { return PackedBatch(batch); });
    // The optimizer alone, once more on the same gradients, so that it can be told apart.
    const double t1 = seconds_now(), m1 = device.matmul_totals().seconds;
    trainer.update(plan);
    const double t2 = seconds_now(), m2 = device.matmul_totals().seconds;
    if (i == 0) continue;  // the first one makes kernels and touches pages
    update.push_back(t2 - t1);
    micro.push_back(t1 - t0 - update.back());
    micro_total += micro.back();
    in_products += m1 - m0 - (m2 - m1);
  }

  const Network net(o.model, o.looped);
  const int threads = device.threads();
  const Products reference = onednn_products(o, net, threads, attention_pairs(batch));
  const double per_step = in_products / static_cast<double>(micro.size());
  StepFigures f;
  f.threads = threads;
  f.visits = net.slots();
  f.micro_seconds = median(micro);
  f.optimizer_seconds = median(update);
  f.tokens_per_second = static_cast<double>(o.tokens) / f.micro_seconds;
  f.product_share = in_products / (threads * micro_total);
  f.product_rate = reference.flops / per_step * threads;
  f.onednn_rate = reference.flops / reference.seconds * threads;
  f.buffers = static_cast<double>(trainer.memory_bytes());
  f.peak_memory = peak_memory();
  f.memory_report = trainer.memory_report();
  return f;
}

}  // namespace fairway::bench

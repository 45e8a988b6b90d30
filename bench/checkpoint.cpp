#include "checkpoint.h"

#include <sys/resource.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "documents.h"
#include "fairway/io/write_error.h"
#include "fairway/train/checkpoint_writer.h"
#include "fairway/train/trainer.h"
#include "machine.h"
#include "timer.h"

namespace fairway::bench {

namespace {

double process_cpu() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](timeval t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <class Device, class T>
CheckpointFigures run(Device& device, const CheckpointOptions& o) {
  const auto alone = make_single_process();
  ProcessGroup& group = o.group ? *o.group : *alone;
  TrainConfig train;
  train.batch_tokens = o.tokens * group.size();
  train.micro_steps = group.size();
  Trainer<Device, T> trainer(device, o.model, {}, train, &group);
  trainer.init();
  const PackedBatch batch = random_documents(o.tokens, o.model.vocab_size, o.model.max_doc_len,
                                             1 + static_cast<uint64_t>(group.rank()));

  int64_t steps = 0;
  const auto timed = [](auto&& work) {
    const double start = seconds_now();
    work();
    return seconds_now() - start;
  };
  const auto step = [&] {
    return timed([&] { trainer.step({steps++, 1, true}, [&] { return PackedBatch(batch); }); });
  };
  // Rank 0 writes, as in a run; each of the others brings its part of the state.
  std::optional<CheckpointWriter> writer;
  if (group.root()) {
    make_directories(o.directory);
    writer.emplace(o.directory, RunIdentity{}, 1, trainer.state_sizes());
  }
  const auto save = [&] {
    return timed([&] {
      if (!writer) {
        for (const auto& [name, size] : trainer.state_sizes()) trainer.download_state(name, {});
        return;
      }
      writer->write({steps, 0, {}}, [&](const std::string& name, std::span<float> values) {
        trainer.download_state(name, values);
      });
    });
  };
  const auto finish = [&] {
    if (writer) writer->finish();
    group.broadcast(true);
  };

  CheckpointFigures f;
  f.bytes = writer ? static_cast<double>(writer->memory_bytes()) : 0;
  step();  // makes kernels and touches pages
  f.first_seconds = save();
  finish();
  const double cpu = process_cpu();
  ++steps;
  const double held = save();
  f.write_seconds = timed(finish);
  f.write_cpu = process_cpu() - cpu - held;

  // Quiet and disturbed steps in turn, so that whatever else the machine does meets both.
  std::vector<double> holds, quiet, slowed;
  const int beside = group.broadcast(static_cast<int>(std::ceil(2 * f.write_seconds / step())) + 1);
  for (int i = 0; i < o.checkpoints; ++i) {
    for (int j = 0; j < beside; ++j) quiet.push_back(step());
    holds.push_back(save());
    double sum = 0;
    for (int j = 0; j < beside; ++j) sum += step();
    slowed.push_back(sum - beside * median(quiet));
    finish();
  }
  f.held_seconds = median(holds);
  f.step_seconds = median(quiet);
  f.slowed_seconds = median(slowed);
  if (writer)
    for (const auto& path : find_checkpoints(o.directory)) delete_all(path);
  return f;
}

}  // namespace

CheckpointFigures bench_checkpoint(const CheckpointOptions& o) {
  return with_device(o.device, [&]<class Device, class T>(Device& device, std::type_identity<T>) {
    return run<Device, T>(device, o);
  });
}

}  // namespace fairway::bench

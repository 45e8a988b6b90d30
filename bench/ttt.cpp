#include "ttt.h"

#include <unistd.h>

#include <filesystem>

#include "documents.h"
#include "fairway/base/rng.h"
#include "fairway/data/shard.h"
#include "fairway/eval/ttt.h"
#include "fairway/model/device_weights.h"
#include "machine.h"

namespace fairway::bench {

namespace {

// A directory that goes when the measurement ends.
struct TemporaryDirectory {
  TemporaryDirectory()
      : path(std::filesystem::temp_directory_path() / fmt::format("fairway-bench-{}", ::getpid())) {
    std::filesystem::create_directories(path);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path path;
};

template <class Device, class T>
TttFigures run(Device& device, const TttOptions& o) {
  if constexpr (!std::is_same_v<Device, CpuDevice>) device.use_graphs(o.graphs);
  const Network net(o.model, /*looped=*/true);
  std::vector<float> flat(static_cast<size_t>(flat_size(o.model)));
  CpuDevice cpu;
  init_weights(cpu, o.model, 1, flat.data());
  const DeviceWeights<Device, T> weights(device, o.model, flat.data());

  constexpr uint16_t kBos = 1;
  const Philox rng(4, 0);
  const TemporaryDirectory directory;
  ShardWriter writer(directory.path, "bench_val");
  std::vector<Document> documents;
  uint64_t drawn = 0;
  for (int64_t i = 0; i < o.documents; ++i) {
    std::vector<uint16_t> tokens{kBos};
    while (std::ssize(tokens) < o.doc_tokens)
      tokens.push_back(static_cast<uint16_t>(
          rng.below(drawn++, static_cast<uint64_t>(o.model.vocab_size - 2)) + 2));
    documents.push_back({i * o.doc_tokens, o.doc_tokens});
    writer.append(tokens);
  }
  std::vector<std::filesystem::path> shards;
  for (const auto& name : writer.commit()) shards.push_back(directory.path / name);
  const TokenStream stream(shards);

  std::vector<float> nll(static_cast<size_t>(stream.size()));
  TttFigures f;
  f.device = device.name();
  for (const Document& document : documents)
    for (int64_t c = 0; c < num_chunks(document, o.ttt.chunk_size); ++c)
      f.window_tokens +=
          static_cast<double>(chunk_window(document, c, o.ttt.chunk_size, o.ttt.window).rows());
  const auto in_products = [&] {
    if constexpr (std::is_same_v<Device, CpuDevice>) return device.matmul_totals().seconds;
    return 0.0;
  };
  const E4m3Mlp mlp = e4m3_mlp<T>(device, o.model, o.device.precision);
  const double start = seconds_now(), before = in_products();
  score_ttt(device, net, weights.view(), stream, documents, o.ttt, o.pass_tokens, mlp,
            *make_single_process(), nll,
            [&](int64_t targets, double) { f.scored += static_cast<double>(targets); });
  f.seconds = seconds_now() - start;
  if constexpr (std::is_same_v<Device, CpuDevice>)
    f.product_share = (in_products() - before) / (device.threads() * f.seconds);
  return f;
}

}  // namespace

TttFigures bench_ttt(const TttOptions& o) {
  return with_device(o.device, [&]<class Device, class T>(Device& device, std::type_identity<T>) {
    return run<Device, T>(device, o);
  });
}

}  // namespace fairway::bench

// The golden model, and token streams made on the spot.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "fairway/data/stream.h"
#include "fairway/device/cpu_device.h"
#include "fairway/eval/evaluate.h"
#include "support/golden.h"

namespace fairway::eval_test {

inline constexpr uint16_t kBos = 1;

// The model of tests/golden/README.md with its parameters.
struct GoldenModel {
  testing::Golden file;
  ModelConfig config = file.config;
  std::vector<float> flat = file.parameters("param.");
  Weights<const float> weights() const { return weights_view<const float>(config, flat.data()); }
};
inline const GoldenModel& golden_model() {
  static const GoldenModel model;
  return model;
}
inline const SafetensorsFile& golden() {
  return golden_model().file.file();
}

inline std::vector<uint16_t> golden_tokens() {
  const auto wide = golden().read<int32_t>("tokens");
  return {wide.begin(), wide.end()};
}

// A stream over tokens in memory, through shards of a temporary directory.
class StreamOf {
 public:
  explicit StreamOf(const std::vector<uint16_t>& tokens, size_t shards = 1) {
    static int made = 0;
    directory_ = std::filesystem::temp_directory_path() /
                 ("fairway_eval_test_" + std::to_string(getpid()) + "_" + std::to_string(made++));
    std::filesystem::create_directories(directory_);
    std::vector<std::filesystem::path> paths;
    for (size_t i = 0; i < shards; ++i) {
      const size_t begin = tokens.size() * i / shards, end = tokens.size() * (i + 1) / shards;
      std::vector<int32_t> header(256, 0);
      header[0] = 20240520;
      header[1] = 1;
      header[2] = static_cast<int32_t>(end - begin);
      paths.push_back(directory_ / ("t_" + std::to_string(i) + ".bin"));
      std::ofstream file(paths.back(), std::ios::binary);
      file.write(reinterpret_cast<const char*>(header.data()), 1024);
      file.write(reinterpret_cast<const char*>(tokens.data() + begin),
                 static_cast<std::streamsize>((end - begin) * 2));
    }
    stream_ = std::make_unique<TokenStream>(paths);
  }
  ~StreamOf() { std::filesystem::remove_all(directory_); }
  StreamOf(const StreamOf&) = delete;
  StreamOf& operator=(const StreamOf&) = delete;
  operator const TokenStream&() const { return *stream_; }

 private:
  std::filesystem::path directory_;
  std::unique_ptr<TokenStream> stream_;
};

// The settings of the golden evaluations.
inline EvalConfig golden_eval(EvalMode mode) {
  EvalConfig c;
  c.mode = mode;
  c.batch_tokens = 32;
  c.window = 32;
  c.stride = 8;
  return c;
}
inline TttConfig golden_ttt() {
  TttConfig c;
  c.rank = 4;
  c.lr = 0.01;
  c.chunk_size = 8;
  c.batch_docs = 4;
  c.window = 32;
  return c;
}

inline std::vector<float> nll_of(const std::vector<uint16_t>& tokens, const EvalConfig& eval,
                                 const TttConfig& ttt, int threads = 1) {
  CpuDevice device(threads);
  const GoldenModel& model = golden_model();
  return evaluate(device, model.config, model.weights(), StreamOf(tokens), kBos, nullptr, eval, ttt,
                  *make_single_process(), {})
      .nll;
}

}  // namespace fairway::eval_test

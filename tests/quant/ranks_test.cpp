// Run by mpirun at several numbers of ranks, and alone: every rank runs every test.
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "fairway/data/shard.h"
#include "fairway/data/stream.h"
#include "fairway/model/device_weights.h"
#include "fairway/quant/quantize.h"
#include "support/golden.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using testing::group;

struct GoldenModel {
  testing::Golden golden;
  std::vector<float> flat = golden.parameters("param.");
  CpuDevice device{1};
  const ModelConfig& config() const { return golden.config; }

  // On 12 windows of 32 tokens, in three batches.
  static QuantConfig quant() {
    QuantConfig quant;
    quant.calibration_batches = 3;
    quant.calibration_window = 32;
    quant.calibration_batch_tokens = 128;
    quant.block = 16, quant.keep_float_elements = 1000;
    return quant;
  }
  Hessians hessians(ProcessGroup& ranks) {
    const TempDir dir;
    ShardWriter writer(dir.path(), "text");
    const auto tokens = golden.ints("gptq.calib_tokens");
    writer.append(std::vector<uint16_t>(tokens.begin(), tokens.end()));
    const std::vector<std::filesystem::path> shards{dir / writer.commit().front()};
    const TokenStream text(shards);
    const DeviceWeights<CpuDevice, float> weights(device, config(), flat.data());
    std::pair<int64_t, int64_t> last;
    Hessians sums = calibrate(device, config(), weights.view(), text, quant(), ranks,
                              [&](int64_t done, int64_t of) {
                                last = {done, of};
                              });
    const std::pair<int64_t, int64_t> own{12 / ranks.size(), 12 / ranks.size()};
    EXPECT_EQ(last, own);
    return sums;
  }
};

// float32 sums over 384 rows in another order.
TEST(QuantRanks, HessiansAreSumsOverAllOfTheText) {
  GoldenModel s;
  Hessians shared = s.hessians(*group), alone = s.hessians(*make_single_process());
  const auto got = shared.flat(), want = alone.flat();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(double{got[i]} - double{want[i]}, 2);
    norm += std::pow(double{want[i]}, 2);
  }
  EXPECT_GT(norm, 0);
  EXPECT_LE(std::sqrt(difference / norm), 384 * double{std::numeric_limits<float>::epsilon()});
}

TEST(QuantRanks, CodesAndNotesDoNotDependOnTheirNumber) {
  GoldenModel s;
  Hessians hessians = s.hessians(*make_single_process());
  // An input that was always zero, for the notes.
  const Tensor<float> h =
      Hessians::layer(s.config(), hessians.flat().data(), 1, Hessians::mlp_hidden);
  const int64_t n = h.extent(0), dead = 5;
  for (int64_t j = 0; j < n; ++j) h[dead * n + j] = h[j * n + dead] = 0;

  using Notes = std::vector<std::tuple<std::string, int64_t, double>>;
  const auto quantize = [&](ProcessGroup& ranks, Notes& notes) {
    return quantize_model(s.device, s.config(), s.flat.data(), hessians, GoldenModel::quant(),
                          ranks, [&](const std::string& name, const GptqNotes& note) {
                            notes.emplace_back(name, note.dead_columns, note.damping);
                          });
  };
  Notes want_notes, notes;
  const QuantizedModel want = quantize(*make_single_process(), want_notes);
  const QuantizedModel got = quantize(*group, notes);
  if (!group->root()) {
    EXPECT_EQ(got, QuantizedModel());
    EXPECT_TRUE(notes.empty());
    return;
  }
  EXPECT_TRUE(got == want);
  EXPECT_EQ(notes, want_notes);
  EXPECT_EQ(notes.size(), 31u);
  int64_t dead_columns = 0;
  for (const auto& [name, columns, damping] : notes) dead_columns += columns;
  EXPECT_EQ(dead_columns, 1);
}

}  // namespace
}  // namespace fairway

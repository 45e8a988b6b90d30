#include "fairway/recipe/recipe.h"

#include <gtest/gtest.h>

#include <fstream>

#include "fairway/base/check.h"

namespace fairway {
namespace {

// The message of the UsageError that `f` throws.
template <class F>
std::string usage_error(F&& f) {
  try {
    f();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "(no error)";
}

std::string parse_error(std::string_view text) {
  return usage_error([&] { parse_recipe(text, "r.toml"); });
}

std::string override_error(std::vector<std::string> words) {
  Recipe recipe;
  return usage_error([&] { apply_overrides(recipe, words); });
}

TEST(Recipe, EmptyTextIsTheDefaults) {
  EXPECT_EQ(parse_recipe("", "r.toml"), Recipe{});
}

TEST(Recipe, ReadsEveryKindOfValue) {
  const Recipe r = parse_recipe(
      "[model]\nvocab_size = 1024\nmlp_mult = 3\nnorm_eps = 1e-6\ntie_embeddings = false\n"
      "parallel_final_lane = \"attn\"\n",
      "r.toml");
  EXPECT_EQ(r.model.vocab_size, 1024);
  EXPECT_EQ(r.model.mlp_mult, 3.0);
  EXPECT_EQ(r.model.norm_eps, 1e-6);
  EXPECT_FALSE(r.model.tie_embeddings);
  EXPECT_EQ(r.model.parallel_final_lane, FinalLane::attn);
  EXPECT_EQ(r.model.num_layers, ModelConfig{}.num_layers);
}

TEST(Recipe, PrintedRecipeReadsBackTheSame) {
  Recipe r;
  r.model.rope_base = 1.0 / 3.0 + 10.0;
  r.model.norm_eps = 0x1.23456789abcdep-30;
  r.model.parallel_final_lane = FinalLane::mlp;
  r.model.num_heads = 16;
  r.data.train = {"a \"quoted\" name", "back\\slash", "line\nbreak \x7F\t", "日本", ""};
  EXPECT_EQ(parse_recipe(to_toml(r), "printed"), r);
}

// A run scores as it trained, but in float8 only where it is told to.
TEST(Recipe, ScoresInFloat8OnlyWhereItSaysSo) {
  using enum MatmulPrecision;
  const auto precision = [](MatmulPrecision train, MatmulPrecision eval) {
    Recipe r;
    r.train.matmul_precision = train;
    r.eval.matmul_precision = eval;
    return eval_precision(r);
  };
  for (const auto train : {automatic, float32, bfloat16, float8}) {
    EXPECT_EQ(precision(train, automatic), train == float8 ? automatic : train);
    for (const auto eval : {float32, bfloat16, float8}) EXPECT_EQ(precision(train, eval), eval);
  }
}

TEST(Recipe, UnknownKeyNamesLineAndNeighbour) {
  EXPECT_EQ(parse_error("[model]\n\nnum_layer = 3\n"),
            "r.toml:3: no key 'num_layer' in [model]; did you mean 'num_layers'?");
  EXPECT_EQ(parse_error("[modle]\nnum_layers = 3\n"),
            "r.toml:1: no section [modle]; did you mean 'model'?");
  EXPECT_EQ(parse_error("[train]\nnum_layers = 3\n"),
            "r.toml:2: no key 'num_layers' in [train]; it belongs to [model]");
  // The modes of a run are a key of [run].
  EXPECT_EQ(parse_error("[eval]\nmode = \"ttt\"\n").rfind("r.toml:2: no key 'mode' in [eval]", 0),
            0u);
  EXPECT_NE(parse_error("num_layers = 3\n").find("r.toml:1: 'num_layers' stands outside a section"),
            std::string::npos);
}

TEST(Recipe, WrongTypeNamesLineAndType) {
  EXPECT_EQ(parse_error("[model]\nnum_layers = \"3\"\n"),
            "r.toml:2: [model] num_layers: must be an integer");
  EXPECT_EQ(parse_error("[model]\nnum_layers = 3.0\n"),
            "r.toml:2: [model] num_layers: must be an integer");
  EXPECT_EQ(parse_error("[model]\nmlp_mult = \"big\"\n"),
            "r.toml:2: [model] mlp_mult: must be a number");
  EXPECT_EQ(parse_error("[model]\nskip_gates = 1\n"),
            "r.toml:2: [model] skip_gates: must be true or false");
  EXPECT_EQ(parse_error("[model]\nmlp_mult = nan\n"),
            "r.toml:2: [model] mlp_mult: 'nan' is not a finite number");
  EXPECT_EQ(parse_error("[model]\nparallel_final_lane = \"both\"\n"),
            "r.toml:2: [model] parallel_final_lane: 'both' is not one of mean, mlp, attn");
  EXPECT_EQ(parse_error("[model]\nnum_layers = 99999999999\n"),
            "r.toml:2: [model] num_layers: 99999999999 is out of range");
}

TEST(Recipe, BrokenTomlNamesTheLine) {
  EXPECT_EQ(parse_error("[model]\nnum_layers = \n").rfind("r.toml:2: not TOML: ", 0), 0u);
  EXPECT_EQ(
      parse_error("[model]\nnum_layers = 3\nnum_layers = 4\n").rfind("r.toml:3: not TOML: ", 0),
      0u);
}

// What toml++ 3.3 aborts at, takes for impossible, or runs out of stack over.
TEST(Recipe, HostileTomlIsAnError) {
  EXPECT_EQ(parse_error("d = 1979-05-27T:32:00Z\n").rfind("r.toml: not TOML", 0), 0u);
  EXPECT_NE(parse_error("[data]\ntrain = [\u045E]\n"), "");
  std::string deep;
  for (int i = 0; i < 200'000; ++i) deep += "a.";
  EXPECT_EQ(parse_error(deep + "a = 1\n"), "r.toml: 400006 bytes; a recipe has at most 65536");
  deep.resize(60'000);
  EXPECT_EQ(parse_error("\n" + deep + "a = 1\n"),
            "r.toml:2: more than 256 dots; cut the line in two");
  deep.resize(510);
  EXPECT_EQ(parse_error(deep + "a = 1\n"), "r.toml:1: no section [a]; did you mean 'data'?");
}

TEST(Recipe, OverridesTakeBothForms) {
  Recipe r;
  const std::vector<std::string> words{"--model.num_layers", "5", "--model.rope_base=500",
                                       "--model.skip_gates", "false"};
  apply_overrides(r, words);
  EXPECT_EQ(r.model.num_layers, 5);
  EXPECT_EQ(r.model.rope_base, 500);
  EXPECT_FALSE(r.model.skip_gates);
}

TEST(Recipe, OverrideErrors) {
  EXPECT_EQ(override_error({"--model.num_layer", "5"}),
            "--model.num_layer: no key 'num_layer' in [model]; did you mean 'num_layers'?");
  EXPECT_EQ(override_error({"--model.num_layers"}), "--model.num_layers: a value must follow");
  EXPECT_EQ(override_error({"--model.num_layers", "five"}),
            "--model.num_layers: 'five' is not an integer");
  EXPECT_EQ(
      override_error({"--layers", "5"}),
      "'--layers' is neither an option nor a recipe key; keys are written --section.key value");
}

TEST(Recipe, ImpossibleValuesNameTheFile) {
  const std::string path = testing::TempDir() + "/impossible.toml";
  std::ofstream(path) << "[model]\nnum_heads = 7\n";
  EXPECT_EQ(usage_error([&] { read_recipe(path, {}); }),
            path + ": [model] num_heads = 7: must divide model_dim = 512");
  std::ofstream(path) << "[model]\nqk_gain_init = 0\n";
  EXPECT_EQ(usage_error([&] { read_recipe(path, {}); }),
            path + ": [model] qk_gain_init = 0: must be finite and not 0");
  std::ofstream(path) << "[run]\nmodes = []\n";
  EXPECT_EQ(usage_error([&] { read_recipe(path, {}); }),
            path + ": [run] modes: must name at least one of chunked, sliding, ttt");
  std::ofstream(path) << "[run]\nmodes = [\"ttt\", \"best\"]\n";
  EXPECT_EQ(usage_error([&] { read_recipe(path, {}); }),
            path + ": [run] modes: 'best' is not one of chunked, sliding, ttt");
}

TEST(Recipe, FirstDifferenceNamesTheKey) {
  Recipe was, is;
  EXPECT_FALSE(first_difference(was, is));
  is.model.num_layers = 12;
  EXPECT_EQ(first_difference(was, is), "--model.num_layers was 11, is 12");
  EXPECT_EQ(first_difference(was, is, {"model.model_dim"}), "--model.num_layers was 11, is 12");
  EXPECT_FALSE(first_difference(was, is, {"model.num_layers"}));
}

TEST(Recipe, Float8IsAMatmulPrecision) {
  const Recipe r = parse_recipe("[train]\nmatmul_precision = \"float8\"\n", "r.toml");
  EXPECT_EQ(r.train.matmul_precision, MatmulPrecision::float8);
  EXPECT_EQ(parse_recipe(to_toml(r), "r.toml"), r);
  Recipe overridden;
  apply_overrides(overridden, std::vector<std::string>{"--train.matmul_precision", "float8"});
  EXPECT_EQ(overridden, r);
  EXPECT_EQ(override_error({"--train.matmul_precision", "fp8"}),
            "--train.matmul_precision: 'fp8' is not one of auto, float32, bfloat16, float8");
}

// The record is the default: the file and the code cannot drift apart.
TEST(Recipe, RecordIsTheDefaults) {
  Recipe r = read_recipe(FAIRWAY_TEST_DATA "/../recipes/record.toml", {});
  EXPECT_FALSE(r.data.train.empty());
  r.data = DataConfig{};
  r.train.matmul_precision = MatmulPrecision::automatic;
  EXPECT_EQ(first_difference(Recipe{}, r), std::nullopt);
}

// One rank takes all eight micro-steps itself; nothing else differs.
TEST(Recipe, OneH100TrainsTheRecord) {
  const Recipe record = read_recipe(FAIRWAY_TEST_DATA "/../recipes/record.toml", {});
  const Recipe single = read_recipe(FAIRWAY_TEST_DATA "/../recipes/h100_single.toml", {});
  EXPECT_EQ(first_difference(record, single), std::nullopt);
  EXPECT_EQ(single.train.micro_batch_tokens(), 98304);
}

TEST(Recipe, EveryRecipeIsValid) {
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(FAIRWAY_TEST_DATA "/../recipes")) {
    EXPECT_NO_THROW(read_recipe(file.path(), {})) << file.path();
    ++count;
  }
  EXPECT_GE(count, 4);
}

}  // namespace
}  // namespace fairway

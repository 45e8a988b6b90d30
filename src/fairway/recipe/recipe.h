// A recipe: everything that defines a run, as one TOML file with a table per part of the system.
// The `visit_fields` of each configuration struct is the only list of its keys; reading,
// overriding, printing and comparing recipes all go by it.
//
// Relative paths inside a recipe are relative to the directory the program is started in, like the
// paths on its command line.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "fairway/data/config.h"
#include "fairway/eval/config.h"
#include "fairway/model/config.h"
#include "fairway/optim/config.h"
#include "fairway/quant/config.h"
#include "fairway/recipe/run_config.h"
#include "fairway/train/config.h"

namespace fairway {

struct Recipe {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimConfig optim;
  QuantConfig quant;
  EvalConfig eval;
  TttConfig ttt;
  RunConfig run;

  bool operator==(const Recipe&) const = default;

  template <class Self, class F>
  static void visit_sections(Self& r, F&& f) {
    f("model", r.model, "the network");
    f("data", r.data, "what it reads");
    f("train", r.train, "batch, length, schedule, checkpoints, compute");
    f("optim", r.optim, "the optimizer");
    f("quant", r.quant, "the artifact");
    f("eval", r.eval, "scoring");
    f("ttt", r.ttt, "test-time training");
    f("run", r.run, "what `fairway run` does after training");
  }
};

// In what precision `fairway run` scores: as it trained, but float8 only where [eval] itself says
// so.
MatmulPrecision eval_precision(const Recipe& recipe);

// The recipe in `path` with `overrides` applied, validated. Overrides are command-line words:
// "--train.steps" "600", or "--train.steps=600"; lists are comma separated. Keys that the file
// leaves out keep their defaults, which are the record's. Throws Error if the file cannot be read,
// UsageError (file:line, and the closest existing key) for unknown keys, wrong types and impossible
// values.
Recipe read_recipe(const std::filesystem::path& path, std::span<const std::string> overrides);

// The same from text; `name` stands for the file in errors. Not validated.
Recipe parse_recipe(std::string_view text, const std::string& name);
void apply_overrides(Recipe& recipe, std::span<const std::string> overrides);

// Every key as TOML, each with its meaning as a comment; parse_recipe reads it back to an equal
// recipe.
std::string to_toml(const Recipe& recipe);

// The keys as options, with their meaning and default: the tail of `--help`.
std::string describe_overrides();

// The first key in which two recipes differ, as "--train.steps was 600, is 700"; nothing if equal.
// Keys in `but`, as "train.threads", do not count.
std::optional<std::string> first_difference(const Recipe& was, const Recipe& is,
                                            const std::set<std::string>& but = {});

}  // namespace fairway

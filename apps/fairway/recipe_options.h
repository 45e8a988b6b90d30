// `--recipe FILE` and `--section.key value …`, for the commands that take a recipe, and what they
// check before they begin.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <span>
#include <string>

#include "fairway/base/check.h"
#include "fairway/data/manifest.h"
#include "fairway/recipe/recipe.h"

namespace fairway {

// Registers the options; the help lists every key. `path` must live as long as the command.
inline void add_recipe_options(CLI::App& command, std::string& path) {
  command.add_option("--recipe", path, "the recipe: a TOML file such as recipes/demo.toml")
      ->required()
      ->type_name("R.toml");
  command.allow_extras();
  command.footer([] {
    return describe_overrides() +
           "\nKeys are written --section.key value or --section.key=value. Relative paths start "
           "at\n"
           "the current directory, in the recipe too.";
  });
}

// Inside the command's callback: the recipe as the command line has it.
inline Recipe chosen_recipe(const CLI::App& command, const std::string& path) {
  return read_recipe(path, command.remaining());
}

// Tokenizer, model and shards of a recipe must speak of the same tokens. Throws Error if not.
inline void check_tokenizer(const Recipe& recipe, std::span<const std::filesystem::path> shards) {
  if (recipe.data.tokenizer.empty()) return;
  const Tokenizer tokenizer = Tokenizer::load(recipe.data.tokenizer);
  require(tokenizer.vocab_size() == recipe.model.vocab_size,
          "{}: has {} pieces; set [model] vocab_size (now {}) to that", recipe.data.tokenizer,
          tokenizer.vocab_size(), recipe.model.vocab_size);
  check_tokenizer_matches(shards, tokenizer);
}

}  // namespace fairway

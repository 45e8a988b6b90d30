// `--recipe FILE` and `--section.key value …`, for the commands that take a recipe.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

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

}  // namespace fairway

// Recipes: recipe/recipe.h.
#include "fairway/recipe/recipe.h"

#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The tree of a TOML text; parse_recipe refuses long ones.
  read_within(data, size, {.one = 16, .all = 96, .fixed = 65536},
              [](std::span<const std::byte> file) {
                const Recipe recipe = parse_recipe(as_text(file), "x.toml");
                Recipe::visit_sections(recipe, [](const char*, const auto& config, const char*) {
                  if constexpr (requires { config.validate(); }) config.validate();
                });
              });
  return 0;
}

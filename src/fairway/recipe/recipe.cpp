#include "fairway/recipe/recipe.h"

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <algorithm>
#include <map>
#include <type_traits>
#include <vector>

#include "fairway/base/check.h"
#include "fairway/base/fields.h"
#include "fairway/io/atomic_file.h"

namespace fairway {

namespace {

template <class T>
constexpr bool is_list = std::is_same_v<T, std::vector<std::string>>;

// A run evaluates in several modes, [run] modes; the one of EvalConfig is `fairway eval`'s.
bool is_recipe_key(std::string_view section, std::string_view key) {
  return !(section == "eval" && key == "mode");
}

// f(section, key, value, meaning) for every key of a recipe.
template <class R, class F>
void visit_keys(R& recipe, F&& f) {
  Recipe::visit_sections(recipe, [&](const char* section, auto& config, const char*) {
    std::remove_cvref_t<decltype(config)>::visit_fields(
        config, [&](const char* key, auto& value, const char* meaning) {
          if (is_recipe_key(section, key))
            f(std::string_view(section), std::string_view(key), value, meaning);
        });
  });
}

std::vector<std::string> section_names() {
  std::vector<std::string> out;
  const Recipe recipe;
  Recipe::visit_sections(recipe,
                         [&](const char* name, auto&, const char*) { out.emplace_back(name); });
  return out;
}

std::vector<std::string> key_names(std::string_view section) {
  std::vector<std::string> out;
  const Recipe recipe;
  visit_keys(recipe, [&](auto s, auto key, auto&, auto) {
    if (s == section) out.emplace_back(key);
  });
  return out;
}

bool contains(std::span<const std::string> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string suggestion(std::string_view word, std::span<const std::string> candidates) {
  const std::string near = closest(word, candidates);
  return near.empty() ? fmt::format("there are: {}", fmt::join(candidates, ", "))
                      : fmt::format("did you mean '{}'?", near);
}

// Throws the error for a section or key that does not exist. `where` is "file:line" or the option.
void require_known(const std::string& where, std::string_view section, std::string_view key) {
  const auto sections = section_names();
  if (!contains(sections, section))
    usage_fail("{}: no section [{}]; {}", where, section, suggestion(section, sections));
  const auto keys = key_names(section);
  if (contains(keys, key)) return;
  for (const auto& other : sections)
    if (contains(key_names(other), key))
      usage_fail("{}: no key '{}' in [{}]; it belongs to [{}]", where, key, section, other);
  usage_fail("{}: no key '{}' in [{}]; {}", where, key, section, suggestion(key, keys));
}

template <class T>
constexpr const char* expected_type() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_integral_v<T>)
    return "an integer";
  else if constexpr (std::is_floating_point_v<T>)
    return "a number";
  else if constexpr (is_list<T>)
    return "a list of strings";
  else
    return "a string";  // strings and enums
}

// TOML node → field. Type errors name what the key takes.
template <class T>
void read_node(const std::string& where, const toml::node& node, T& out) {
  const auto mistyped = [&] { usage_fail("{}: must be {}", where, expected_type<T>()); };
  if constexpr (is_list<T>) {
    const auto* array = node.as_array();
    if (!array) mistyped();
    out.clear();
    for (const auto& element : *array) {
      const auto text = element.value_exact<std::string>();
      if (!text) mistyped();
      out.push_back(*text);
    }
  } else if constexpr (std::is_same_v<T, bool>) {
    const auto value = node.value_exact<bool>();
    if (!value) mistyped();
    out = *value;
  } else if constexpr (std::is_floating_point_v<T> ||
                       (std::is_integral_v<T> && !std::is_enum_v<T>)) {
    if (node.is_integer())
      parse_field(where, fmt::format("{}", *node.value_exact<int64_t>()), out);
    else if (std::is_floating_point_v<T> && node.is_floating_point())
      parse_field(where, fmt::format("{}", *node.value_exact<double>()), out);
    else
      mistyped();
  } else {
    const auto value = node.value_exact<std::string>();
    if (!value) mistyped();
    parse_field(where, *value, out);
  }
}

std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      out += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + '"';
}

template <class T>
std::string to_toml_value(const T& value) {
  if constexpr (is_list<T>) {
    std::vector<std::string> elements;
    elements.reserve(value.size());
    for (const auto& v : value) elements.push_back(toml_string(v));
    return fmt::format("[{}]", fmt::join(elements, ", "));
  } else if constexpr (std::is_enum_v<T> || std::is_same_v<T, std::string>) {
    return toml_string(format_field(value));
  } else {
    return format_field(value);
  }
}

}  // namespace

Recipe parse_recipe(std::string_view text, const std::string& name) {
  Recipe recipe;
  toml::table root;
  try {
    root = toml::parse(text, name);
  } catch (const toml::parse_error& e) {
    usage_fail("{}:{}: not TOML: {}", name, e.source().begin.line, e.description());
  }
  for (const auto& [section_key, section_node] : root) {
    const std::string_view section = section_key.str();
    const std::string section_at = fmt::format("{}:{}", name, section_key.source().begin.line);
    const auto* table = section_node.as_table();
    if (!table)
      usage_fail("{}: '{}' stands outside a section; sections are: {}", section_at, section,
                 fmt::join(section_names(), ", "));
    if (!contains(section_names(), section))
      usage_fail("{}: no section [{}]; {}", section_at, section,
                 suggestion(section, section_names()));
    for (const auto& entry : *table) {
      const toml::key& key = entry.first;
      const toml::node& node = entry.second;
      const std::string at = fmt::format("{}:{}", name, key.source().begin.line);
      require_known(at, section, key.str());
      visit_keys(recipe, [&](auto s, auto k, auto& value, auto) {
        if (s == section && k == key.str())
          read_node(fmt::format("{}: [{}] {}", at, s, k), node, value);
      });
    }
  }
  return recipe;
}

void apply_overrides(Recipe& recipe, std::span<const std::string> overrides) {
  for (size_t i = 0; i < overrides.size(); ++i) {
    const std::string_view word = overrides[i];
    const size_t equals = word.find('=');
    const std::string_view option = word.substr(0, equals);
    const size_t dot = option.find('.');
    if (!option.starts_with("--") || dot == std::string_view::npos)
      usage_fail("'{}' is neither an option nor a recipe key; keys are written --section.key value",
                 word);
    const std::string_view section = option.substr(2, dot - 2), key = option.substr(dot + 1);
    require_known(std::string(option), section, key);
    if (equals == std::string_view::npos && i + 1 == overrides.size())
      usage_fail("{}: a value must follow", option);
    const std::string_view text = equals == std::string_view::npos
                                      ? std::string_view(overrides[++i])
                                      : word.substr(equals + 1);
    visit_keys(recipe, [&](auto s, auto k, auto& value, auto) {
      if (s == section && k == key) parse_field(option, text, value);
    });
  }
}

Recipe read_recipe(const std::filesystem::path& path, std::span<const std::string> overrides) {
  Recipe recipe = parse_recipe(read_file(path), path.string());
  apply_overrides(recipe, overrides);
  Recipe::visit_sections(recipe, [&](const char*, const auto& config, const char*) {
    try {
      if constexpr (requires { config.validate(); }) config.validate();
    } catch (const UsageError& e) {
      usage_fail("{}: {}", path.string(), e.what());
    }
  });
  return recipe;
}

std::string to_toml(const Recipe& recipe) {
  std::map<std::string_view, std::string> tables;
  visit_keys(recipe, [&](auto section, auto key, const auto& value, const char* meaning) {
    tables[section] +=
        fmt::format("{:<44}  # {}\n", fmt::format("{} = {}", key, to_toml_value(value)), meaning);
  });
  std::string out;
  Recipe::visit_sections(recipe, [&](const char* section, const auto&, const char* meaning) {
    out +=
        fmt::format("{}[{}]  # {}\n{}", out.empty() ? "" : "\n", section, meaning, tables[section]);
  });
  return out;
}

std::string describe_overrides() {
  std::string out = "Every key of the recipe can be overridden (lists: comma separated):\n";
  const Recipe defaults;
  visit_keys(defaults, [&](auto section, auto key, const auto& value, const char* meaning) {
    const std::string shown = format_field(value);
    out += fmt::format("  {:<34}  {}{}\n", fmt::format("--{}.{}", section, key), meaning,
                       shown.empty() ? "" : fmt::format(" [{}]", shown));
  });
  return out;
}

std::optional<std::string> first_difference(const Recipe& was, const Recipe& is) {
  std::vector<std::string> before;
  visit_keys(was,
             [&](auto, auto, const auto& value, auto) { before.push_back(format_field(value)); });
  std::optional<std::string> out;
  size_t i = 0;
  visit_keys(is, [&](auto section, auto key, const auto& value, auto) {
    const std::string now = format_field(value);
    if (!out && now != before[i])
      out = fmt::format("--{}.{} was {}, is {}", section, key, before[i], now);
    ++i;
  });
  return out;
}

}  // namespace fairway

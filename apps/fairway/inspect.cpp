// `fairway inspect`: what a file holds.

#include <cstring>
#include <memory>

#include "commands.h"
#include "fairway/base/check.h"
#include "fairway/data/describe.h"
#include "fairway/io/describe.h"
#include "fairway/io/mapped_file.h"
#include "fairway/quant/describe.h"

namespace fairway {

namespace {

std::string describe(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  const auto starts_with = [&](std::string_view magic, size_t at = 0) {
    return bytes.size() >= at + magic.size() &&
           std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0;
  };
  // By content, not by name.
  if (starts_with("\x88\xd8\x34\x01")) return describe_shard(path);  // 20240520
  if (starts_with("{", 8)) return describe_safetensors(path);
  if (starts_with("\x89"
                  "FAIRWAY"))
    return describe_artifact(path);
  try {
    return describe_tokenizer(path);
  } catch (const Error&) {
    fail("{}: no kind of file that fairway makes; see 'fairway inspect --help'", path.string());
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Say what a file holds");
  command->footer(
      "Knows token shards (.bin), tokenizers (.model), models and checkpoints (.safetensors) and\n"
      "artifacts (.fairway), whatever their names are.");
  auto path = std::make_shared<std::string>();
  command->add_option("FILE", *path, "the file to look at")->required();
  command->callback([path] { fmt::print("{}", describe(*path)); });
}

}  // namespace fairway

// Manifests of shards: data/manifest.h.
#include "fairway/data/manifest.h"

#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The tree of a JSON text; read_manifest refuses texts of more than 1 MiB.
  read_within(data, size, {.one = 16, .all = 48, .fixed = 4096},
              [](std::span<const std::byte> file) { parse_manifest(as_text(file), "x.json"); });
  return 0;
}

// Token shards: data/shard.h.
#include "fairway/data/shard.h"

#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Tokens are read where they lie: nothing is allocated but an error's text.
  read_within(data, size, {.one = 0, .all = 0, .fixed = 4096}, [](std::span<const std::byte> file) {
    for (const int vocab_size : {0, 260}) shard_tokens(file, "x.bin", vocab_size);
  });
  return 0;
}

// Text to tokenize, JSON lines and plain: data/text_input.h.
#include "fairway/data/text_input.h"
#include "memory_source.h"
#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // simdjson's parser, and three bytes for one where invalid UTF-8 is replaced.
  read_within(
      data, size, {.one = 32, .all = 64, .fixed = 24576}, [](std::span<const std::byte> file) {
        for (const char* name : {"x.jsonl", "x.txt"}) {
          constexpr size_t kBlockBytes = 64;  // small, so that a short text has many
          TextBlocks blocks(name, std::make_unique<MemorySource>(file), kBlockBytes);
          TextOptions options;
          options.invalid_utf8 = file.size() % 2 ? InvalidUtf8::replace : InvalidUtf8::error;
          for (TextBlock block; blocks.next(block);) parse_documents(block, options);
        }
      });
  return 0;
}

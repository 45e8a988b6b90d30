// Tokenizers: data/tokenizer.h, on top of the SentencePiece library.
#include "fairway/data/tokenizer.h"

#include "fairway/data/token_bytes.h"
#include "protobuf_mutator.h"
#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read_within(
      data, size, {.one = 16, .all = 128, .fixed = 1 << 18}, [](std::span<const std::byte> file) {
        const Tokenizer tokenizer = Tokenizer::from_bytes(as_text(file), "x.model");
        WordCache cache;
        std::vector<uint16_t> tokens;
        for (const char* text : {"ab a\u2581 \xFF", " \t\n0aaa \uFB01\u00C5"}) {
          tokens.clear();
          tokenizer.encode(text, tokens, &cache);
          const std::string decoded = tokenizer.decode(tokens);
          check(!tokenizer.lossless() || decoded == text, "a lossless tokenizer changed a text");
        }
        const TokenBytes table(tokenizer);
      });
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return mutate_protobuf(data, size, max_size, seed);
}

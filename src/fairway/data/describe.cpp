#include "fairway/data/describe.h"

#include <algorithm>

#include "fairway/base/check.h"
#include "fairway/data/manifest.h"
#include "fairway/data/shard.h"
#include "fairway/data/token_bytes.h"
#include "fairway/data/tokenizer.h"

namespace fairway {

std::string describe_shard(const std::filesystem::path& path) {
  const ShardFile shard(path);
  const auto tokens = shard.tokens();
  const auto manifest = find_manifest(path);
  const int bos = manifest ? manifest->bos : 1;
  uint16_t largest = 0;
  for (const uint16_t t : tokens) largest = std::max(largest, t);
  std::string out = fmt::format("{}: token shard\n", path.string());
  out += fmt::format("  tokens           {}\n", tokens.size());
  out += fmt::format("  largest token    {}\n", largest);
  out += fmt::format("  documents begun  {} (token {}, bos)\n",
                     std::count(tokens.begin(), tokens.end(), static_cast<uint16_t>(bos)), bos);
  if (!manifest) return out + "  manifest         none beside it\n";
  out += fmt::format(
      "  set              {}: train {} documents, {} tokens; val {} documents, {} tokens\n",
      manifest->set, manifest->train.documents, manifest->train.tokens, manifest->val.documents,
      manifest->val.tokens);
  out += fmt::format("  tokenizer        hash {:016x}, {} pieces\n", manifest->tokenizer_hash,
                     manifest->vocab_size);
  return out;
}

std::string describe_tokenizer(const std::filesystem::path& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  int64_t count[3] = {};
  size_t longest = 0;
  for (int i = 0; i < tokenizer.vocab_size(); ++i) {
    ++count[static_cast<size_t>(tokenizer.kind(i))];
    if (tokenizer.kind(i) == PieceKind::text)
      longest = std::max(longest, tokenizer.piece(i).size());
  }
  std::string spaces = "counted";
  try {
    const TokenBytes table(tokenizer);
  } catch (const Error& e) {
    spaces = e.what();
  }
  std::string out = fmt::format("{}: {} tokenizer\n", path.string(),
                                tokenizer.is_byte_tokenizer() ? "byte" : "SentencePiece");
  out += fmt::format("  pieces         {}: {} of text (longest {} bytes), {} bytes, {} control\n",
                     tokenizer.vocab_size(), count[0], longest, count[1], count[2]);
  out += fmt::format("  bos            {}\n", tokenizer.bos());
  out += fmt::format("  hash           {:016x}\n", tokenizer.hash());
  out += fmt::format("  lossless       {}\n", tokenizer.lossless() ? "yes" : "no");
  out += fmt::format("  bytes a token  {}\n", spaces);
  return out;
}

}  // namespace fairway

// Small well-formed files of every kind, the corpora's first: `fuzz_seeds DIRECTORY` writes
// DIRECTORY/artifact/…, DIRECTORY/shard/… and so on.
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <bit>
#include <filesystem>
#include <string>

#include "fairway/base/check.h"
#include "fairway/data/manifest.h"
#include "fairway/data/shard.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/safetensors.h"
#include "fairway/quant/artifact.h"
#include "fairway/recipe/recipe.h"
#include "fairway/train/checkpoint.h"
#include "quant/synthetic.h"

using namespace fairway;
namespace fs = std::filesystem;

namespace {

fs::path root;

fs::path place(const std::string& target, const std::string& name) {
  fs::create_directories(root / target);
  return root / target / name;
}

void seed(const std::string& target, const std::string& name, std::string_view bytes) {
  write_file(place(target, name), bytes);
}

ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 3, c.num_layers = 1, c.model_dim = 4, c.num_heads = 2, c.num_kv_heads = 1;
  c.mlp_mult = 2, c.rope_dims = 2, c.xsa_last_n = 1, c.num_loops = 0, c.parallel_start_layer = 0;
  return c;
}

void artifacts() {
  ModelConfig untied = tiny_config();
  untied.tie_embeddings = false, untied.num_layers = 2, untied.num_loops = 1;
  untied.loop_start = untied.loop_end = 1;
  uint64_t key = 1;
  for (const ModelConfig& config : {tiny_config(), untied})
    for (const int64_t keep : {0, 20, 1000}) {
      const auto bytes = pack_artifact(synthetic_model(config, keep, ++key));
      seed("artifact", fmt::format("synthetic_{}", key),
           {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
  // Rows that repeat.
  QuantizedModel model = synthetic_model(tiny_config(), 20, 9);
  for (StoredTensor& t : model.tensors)
    for (size_t i = static_cast<size_t>(t.matrix.cols); i < t.matrix.codes.size(); ++i)
      t.matrix.codes[i] = t.matrix.codes[i - static_cast<size_t>(t.matrix.cols)];
  const auto bytes = pack_artifact(model);
  seed("artifact", "repeats", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

void models() {
  for (const bool tied : {true, false}) {
    ModelConfig config = tiny_config();
    config.tie_embeddings = tied;
    std::vector<float> flat(static_cast<size_t>(flat_size(config)), 0.5f);
    const auto path = place("model", tied ? "tied" : "untied");
    save_model(path, config, flat.data());
    const SafetensorsFile file(path);
    std::vector<SafetensorsTensor> tensors;
    std::vector<std::vector<uint16_t>> halves;
    for (const auto& [name, entry] : file.entries())
      halves.emplace_back(entry.bytes.size() / 4, 0x3C00);
    size_t i = 0;
    for (const auto& [name, entry] : file.entries()) {
      const Dtype dtype = i % 2 ? Dtype::f16 : Dtype::bf16;
      tensors.push_back({name, dtype, entry.shape, std::as_bytes(std::span(halves[i++]))});
    }
    auto metadata = file.metadata();
    metadata["tokenizer_hash"] = "0123456789abcdef";
    write_safetensors(place("model", tied ? "tied_half" : "untied_half"), tensors, metadata);
  }
}

void containers() {
  const std::vector<uint8_t> bytes(24, 1);
  const auto first = [&](size_t n) { return std::as_bytes(std::span(bytes)).first(n); };
  const std::vector<SafetensorsTensor> tensors = {{"a", Dtype::f32, {2, 3}, first(24)},
                                                  {"b", Dtype::u8, {0, 7}, {}},
                                                  {"c", Dtype::bf16, {1}, first(2)}};
  write_safetensors(place("safetensors", "three"), tensors, {{"k", "v"}});
  write_safetensors(place("safetensors", "one"), std::span(tensors).last(1), {});
  write_safetensors(place("safetensors", "none"), {}, {{"config", "{}"}});
}

void checkpoints() {
  const std::vector<float> weights = {1, 2, 3}, ema = {-1, 0.5f};
  const std::vector<CheckpointTensor> tensors = {{"weights", weights}, {"ema", ema}};
  save_checkpoint(place("checkpoint", "two_tensors"), {57, 0.25, {2, 1, 12345}},
                  {{"model.num_layers", "3"}, {"optim.matrix_lr", "0.022"}}, tensors);
}

void shards() {
  const fs::path directory = place("shard", "").parent_path();
  for (const uint16_t tokens : {0, 1, 40}) {
    ShardWriter writer(directory, fmt::format("tokens_{}", tokens));
    for (uint16_t t = 0; t < tokens; ++t) writer.append(std::span(&t, 1));
    writer.commit();
  }
  std::string empty(1024, '\0');
  const int32_t head[2] = {20240520, 1};
  empty.replace(0, 8, reinterpret_cast<const char*>(head), 8);
  seed("shard", "no_tokens", empty);

  ShardManifest m;
  m.set = "demo", m.tokenizer_hash = 0xa0cab43b4ab202be, m.vocab_size = 1024;
  m.train = {4900, 7661145, 18844884, {"demo_train_000000.bin", "demo_train_000001.bin"}};
  m.val = {100, 152238, 380702, {"demo_val_000000.bin"}};
  write_manifest(place("manifest", "demo"), m);
}

void recipes() {
  // One section a file: mutations of one are tried sooner.
  const std::string all = to_toml(Recipe{});
  for (size_t begin = 0, i = 0; begin < all.size(); ++i) {
    const size_t end = std::min(all.find("\n[", begin), all.size() - 1) + 1;
    std::string section;
    for (size_t at = begin; at < end;) {  // without the comments
      const size_t line = std::min(all.find('\n', at), end - 1);
      const std::string_view text(all.data() + at, line - at);
      section += text.substr(0, text.find("  ")), section += '\n', at = line + 1;
    }
    seed("recipe", fmt::format("section_{}", i), section);
    begin = end;
  }
  seed("recipe", "values",
       "data.train = ['a', \"b\\u00e9\\n\", '''c''', \"\"\"d\\\n e\"\"\"]\n[optim]\nmatrix_lr = "
       "1e-3\n"
       "beta1 = inf\n[train]\nseed = 0x2A\nsteps = 1_000\n[eval]\nwindow = {a = 1}\nd = "
       "1979-05-27T07:32:00Z\n");
}

void texts() {
  seed(
      "text", "lines",
      "\uFEFF{\"text\": \"a\"}\n\n {\"x\": [1, 2.5e3, null, true], \"text\": \"b\\n\\u00e9\"}\r\n");
  seed("text", "surrogates", "{\"text\": \"\\ud83d\\ude00 \\ud800 \xC3\xA9 \xFF\"}\n");
  seed("text", "long", "{\"text\": \"" + std::string(150, 'x') + "\"}\n{\"text\": \"y\"}");
  const std::string text = "the fair way, the fair way, the fair way\n";
  std::string out(1000, '\0');
  size_t size = 0;
  if (lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, nullptr,
                              reinterpret_cast<const uint8_t*>(text.data()), text.size(),
                              reinterpret_cast<uint8_t*>(out.data()), &size, out.size()) != LZMA_OK)
    fail("cannot make an xz file");
  // A dictionary of 4 KiB, so that the window stays within the target's bound: byte 15 of the
  // block's header.
  seed("compressed", "xz", out.substr(0, size) + '\0');
  size = ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1);
  seed("compressed", "zst", out.substr(0, size) + '\1');
  z_stream z{};
  if (deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    fail("cannot make a gzip file");
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data())),
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data()), z.avail_out = static_cast<uInt>(out.size());
  if (deflate(&z, Z_FINISH) != Z_STREAM_END) fail("cannot make a gzip file");
  seed("compressed", "gz", out.substr(0, z.total_out) + '\2');
  deflateEnd(&z);
}

// Protocol buffers by hand: sentencepiece_model.proto.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string number(int field, uint64_t value) {
  return varint(static_cast<uint64_t>(field) << 3) + varint(value);
}
std::string bytes_field(int field, const std::string& bytes) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string piece(const std::string& text, float score, int type) {
  const auto bits = std::bit_cast<uint32_t>(score);
  const std::string value(reinterpret_cast<const char*>(&bits), 4);
  return bytes_field(1, bytes_field(1, text) + varint(2 << 3 | 5) + value +
                            (type == 1 ? "" : number(3, static_cast<uint64_t>(type))));
}

// Normalization rules with one rule: `key` becomes "A" (a double array of one path).
std::string one_rule(const std::string& key) {
  std::vector<uint32_t> units(256 * (key.size() + 2));
  const auto offset = [](uint32_t from, uint32_t to) {
    return ((from ^ to) & 0xFF) << 10 | ((from ^ to) >> 8) << 18;
  };
  uint32_t at = 0, label = 0;
  for (size_t i = 0; i <= key.size(); ++i) {
    const auto base = static_cast<uint32_t>(256 * (i + 1));
    units[at] = offset(at, base) | label | (i == key.size() ? 0x100u : 0u);
    if (i == key.size()) {
      units[base] = 0x80000000;  // the replacement at byte 0
      break;
    }
    label = static_cast<unsigned char>(key[i]);
    at = base ^ label;
  }
  const auto trie_bytes = static_cast<uint32_t>(units.size() * 4);
  return std::string(reinterpret_cast<const char*>(&trie_bytes), 4) +
         std::string(reinterpret_cast<const char*>(units.data()), trie_bytes) +
         std::string("A\0", 2);
}

void tokenizers() {
  const std::string reserved = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  const std::string text = piece("\u2581", -1, 1) + piece("a", -2, 1) + piece("b", -3, 1) +
                           piece("ab", -4, 1) + piece("\u2581a", -5, 1) + piece("0", -6, 5) +
                           piece("aa", -6, 5);
  const std::string symbols = piece("a\u2581", 0, 4) + piece("aaa", 0, 4);
  const std::string identity =
      bytes_field(3, bytes_field(1, "identity") + number(3, 0) + number(4, 0));
  for (int type = 1; type <= 4; ++type)
    seed("tokenizer", fmt::format("type_{}", type),
         reserved + text + (type == 2 ? symbols : "") +
             bytes_field(2, number(3, static_cast<uint64_t>(type)) +
                                number(24, static_cast<uint64_t>(type == 3))) +
             (type % 2 ? "" : identity));
  seed("tokenizer", "rule",
       reserved + text + bytes_field(2, number(3, 2)) +
           bytes_field(3, bytes_field(2, one_rule("b"))));
  std::string all_bytes;
  for (int b = 0; b < 256; ++b) all_bytes += piece(fmt::format("<0x{:02X}>", b), 0, 6);
  seed("tokenizer", "bytes",
       reserved + all_bytes + text + bytes_field(2, number(3, 2) + number(35, 1)) + identity);
  seed("tokenizer", "samples",
       reserved + text + bytes_field(2, number(3, 2)) +
           bytes_field(4, bytes_field(1, bytes_field(1, "ab") + bytes_field(2, "\u2581 ab"))));
  seed("tokenizer", "byte_tokenizer", "fairway byte tokenizer, version 1\n");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) usage_fail("usage: fuzz_seeds DIRECTORY");
  root = argv[1];
  artifacts();
  models();
  containers();
  checkpoints();
  shards();
  recipes();
  texts();
  tokenizers();
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "fuzz_seeds: {}\n", e.what());
  return 1;
}

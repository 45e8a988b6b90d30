#include "fairway/quant/artifact.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <filesystem>

#include "fairway/base/check.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/safetensors.h"
#include "fairway/quant/half_coder.h"
#include "fairway/quant/model_file.h"
#include "quant/synthetic.h"

namespace fairway {
namespace {

// Writes section sizes and all checksums anew, so that only the checks behind them can object.
std::vector<std::byte> forge(std::span<const std::string> sections) {
  std::vector<std::byte> file;
  const auto put = [&](const void* data, size_t size) {
    const auto* p = static_cast<const std::byte*>(data);
    file.insert(file.end(), p, p + size);
  };
  put("\x89"
      "FAIRWAY",
      8);
  const uint32_t version = 1, count = static_cast<uint32_t>(sections.size());
  put(&version, 4), put(&count, 4);
  for (const std::string& s : sections) {
    const uint64_t size = s.size(), hash = XXH3_64bits(s.data(), s.size());
    put(&size, 8), put(&hash, 8);
  }
  for (const std::string& s : sections) put(s.data(), s.size());
  const uint64_t hash = XXH3_64bits(file.data(), file.size());
  put(&hash, 8);
  return file;
}
std::vector<std::string> sections_of(std::span<const std::byte> file) {
  std::vector<std::string> sections;
  size_t at = 16 + 16 * 5;
  for (size_t s = 0; s < 5; ++s) {
    uint64_t size;
    std::memcpy(&size, file.data() + 16 + 16 * s, 8);
    sections.emplace_back(reinterpret_cast<const char*>(file.data() + at), size);
    at += size;
  }
  return sections;
}

std::string error_of(const std::vector<std::byte>& file) {
  try {
    unpack_artifact(file, "x");
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Artifact, RoundTrip) {
  ModelConfig untied = small_config();
  untied.tie_embeddings = false, untied.skip_gates = false;
  for (const ModelConfig& config : {small_config(), untied})
    for (int64_t keep : {int64_t{0}, int64_t{300}, int64_t{1} << 30}) {
      QuantizedModel model = synthetic_model(config, keep, 1);
      EXPECT_EQ(unpack_artifact(pack_artifact(model), "x"), model);
      model.tokenizer_hash.reset();
      EXPECT_EQ(unpack_artifact(pack_artifact(model), "x"), model);
    }
}

TEST(Artifact, BytesAddUp) {
  ArtifactBytes bytes;
  const QuantizedModel model = synthetic_model(small_config(), 300, 2);
  const auto file = pack_artifact(model, &bytes);
  uint64_t sum = bytes.container, scales = 0, halves = 0, codes = 0;
  for (const TensorBytes& t : bytes.tensors) {
    sum += t.codes + t.scales + t.half;
    EXPECT_EQ(t.codes > 0, t.bits > 0);
    EXPECT_EQ(t.half > 0, t.bits == 0) << t.name;
    scales += t.scales, halves += t.half, codes += t.codes;
  }
  const std::vector<std::string> sections = sections_of(file);
  EXPECT_EQ(scales, sections[2].size());
  EXPECT_EQ(halves, sections[3].size());
  EXPECT_EQ(codes, sections[4].size());
  EXPECT_EQ(sum, file.size());
  EXPECT_EQ(bytes.total, file.size());
  EXPECT_EQ(bytes.tensors.size(), model.tensors.size());
  EXPECT_LT(bytes.container, 1500u);
}

TEST(Artifact, EveryFlippedByteIsAnError) {
  ModelConfig config = small_config();
  config.num_layers = 1, config.num_loops = 0, config.parallel_start_layer = 0,
  config.xsa_last_n = 1;
  auto file = pack_artifact(synthetic_model(config, 300, 3));
  unpack_artifact(file, "x");
  for (size_t i = 0; i < file.size(); ++i)
    for (int flip : {0x01, 0x80, 0xFF}) {
      file[i] ^= static_cast<std::byte>(flip);
      EXPECT_THROW(unpack_artifact(file, "x"), Error) << "byte " << i;
      file[i] ^= static_cast<std::byte>(flip);
    }
}

TEST(Artifact, EveryTruncationIsAnError) {
  ModelConfig config = small_config();
  config.num_layers = 1, config.num_loops = 0, config.parallel_start_layer = 0,
  config.xsa_last_n = 1;
  const auto file = pack_artifact(synthetic_model(config, 300, 4));
  for (size_t n = 0; n < file.size(); ++n)
    EXPECT_THROW(unpack_artifact(std::span(file).first(n), "x"), Error) << n;
  auto longer = file;
  longer.push_back(std::byte{0});
  EXPECT_THROW(unpack_artifact(longer, "x"), Error);
}

// Files with right checksums and wrong content: errors, no crash, no memory beyond the file's
// means.
TEST(Artifact, ForgedFilesAreErrors) {
  const auto file = pack_artifact(synthetic_model(small_config(), 300, 5));
  const std::vector<std::string> good = sections_of(file);
  EXPECT_EQ(forge(good), file);

  const auto refused = [&](size_t section, const std::string& content) {
    std::vector<std::string> bad = good;
    bad[section] = content;
    EXPECT_THROW(unpack_artifact(forge(bad), "x"), Error);
  };
  refused(0, "");
  refused(0, "{}");
  refused(0, "[1]");
  refused(0, "{\"model\":3}");
  refused(0, good[0].substr(0, good[0].size() - 1) + ",\"extra\":1}");
  refused(0, good[0].substr(0, good[0].size() - 1) + ",\"tokenizer_hash\":\"nonsense\"}");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good[0];
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  // Terabytes, were the configuration believed.
  refused(0, with("\"model_dim\":16", "\"model_dim\":65536"));
  refused(0, with("\"num_layers\":3", "\"num_layers\":1024"));
  refused(0, with("\"vocab_size\":48", "\"vocab_size\":65536"));
  refused(0, with("\"mlp_mult\":2.0", "\"mlp_mult\":1024.0"));
  refused(1, "");
  refused(1, good[1] + std::string(1, '\0'));
  refused(1, good[1].substr(0, good[1].size() - 1));
  for (size_t i = 0; i < good[1].size(); ++i) {  // each field of the table, at extreme values
    for (char c : {'\x01', '\x07', '\x09', '\xFF'}) {
      std::vector<std::string> bad = good;
      if (bad[1][i] == c) continue;
      bad[1][i] = c;
      try {  // some changes merely decode to other numbers
        unpack_artifact(forge(bad), "x");
      } catch (const Error&) {
      }
    }
  }
  for (const size_t section : {2, 3}) {  // 64 numbers a byte at most
    std::vector<std::string> bad = good;
    bad[section] = "";
    EXPECT_NE(error_of(forge(bad)).find(" scales and "), std::string::npos) << error_of(forge(bad));
  }
  refused(4, "");
  refused(4, good[4] + "x");
  // 48 · 16 codes need at least 12 bytes; here the embedding's stream has 11.
  {
    std::vector<std::string> bad = good;
    uint64_t size;
    std::memcpy(&size, bad[1].data() + 9, 8);
    bad[4].erase(11, size - 11);
    size = 11;
    std::memcpy(bad[1].data() + 9, &size, 8);
    EXPECT_THROW(unpack_artifact(forge(bad), "x"), Error);
  }
  for (char c : {'\x00', '\xFF', '\x55'}) {  // whatever the bytes decode to
    std::vector<std::string> bad = good;
    bad[2].assign(good[2].size(), c);
    bad[3].assign(good[3].size(), c);
    try {
      unpack_artifact(forge(bad), "x");
    } catch (const Error&) {
    }
  }
}

// Each row of a float16 matrix is a kind of its own to the coder, with a state that is larger than
// the row: narrow matrices would cost hundreds of kilobytes a byte.
TEST(Artifact, AStreamPaysForTheCodersState) {
  ModelConfig config = small_config();
  config.model_dim = 4, config.mlp_mult = 1024, config.rope_dims = 2;
  std::vector<std::string> sections =
      sections_of(pack_artifact(synthetic_model(config, 1 << 30, 10)));
  const uint64_t numbers = static_cast<uint64_t>(num_params(config));
  ASSERT_GT(sections[3].size(), numbers);
  sections[3].resize((numbers + 63) / 64);
  EXPECT_NE(error_of(forge(sections)).find(" scales and "), std::string::npos)
      << error_of(forge(sections));
}

// The stream of a model all of whose numbers are alike is as short as streams get.
TEST(Artifact, RoundTripOfConstantNumbers) {
  for (const uint16_t number : {0x0000, 0x8000, 0x3C00, 0xFBFF}) {
    QuantizedModel model = synthetic_model(small_config(), 1 << 30, 11);
    for (StoredTensor& t : model.tensors) std::fill(t.half.begin(), t.half.end(), number);
    EXPECT_EQ(unpack_artifact(pack_artifact(model), "x"), model) << number;
  }
}

TEST(Artifact, NonFiniteNumbersAreNotRead) {
  QuantizedModel model = synthetic_model(small_config(), 300, 9);
  const std::vector<std::string> good = sections_of(pack_artifact(model));
  // The scales once more, as the format says: a series a matrix, named by its kind.
  for (const uint16_t bad_number : {0x3C00, 0x7C00, 0xFE00}) {  // 1, infinity, NaN
    std::vector<HalfSeries> scales;
    for (StoredTensor& t : model.tensors)
      if (t.quantized()) {
        const bool block = t.name.starts_with("blocks.");
        scales.push_back(
            {block ? t.name.substr(t.name.find('.', 7) + 1) : t.name, t.matrix.scales});
      }
    scales.back().values.back() = bad_number;
    std::vector<std::string> forged = good;
    const std::vector<std::byte> stream = encode_halves(scales);
    forged[2].assign(reinterpret_cast<const char*>(stream.data()), stream.size());
    if (bad_number == 0x3C00)
      EXPECT_EQ(unpack_artifact(forge(forged), "x"), model);
    else
      EXPECT_NE(error_of(forge(forged)).find("not finite"), std::string::npos);
  }
}

TEST(Artifact, NonFiniteNumbersAreNotWritten) {
  QuantizedModel model = synthetic_model(small_config(), 300, 6);
  for (StoredTensor& t : model.tensors)
    if (!t.quantized()) {
      t.half[0] = 0x7C00;
      break;
    }
  EXPECT_THROW(pack_artifact(model), Error);
}

class ModelFileTest : public testing::Test {
 protected:
  ModelFileTest() {
    directory = std::filesystem::temp_directory_path() /
                ("fairway_model_file_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory);
  }
  ~ModelFileTest() override { std::filesystem::remove_all(directory); }
  std::filesystem::path directory;
};

TEST_F(ModelFileTest, OpensBothKinds) {
  const QuantizedModel quantized = synthetic_model(small_config(), 300, 7);
  const std::vector<float> flat = dequantize(quantized);
  // Told apart by content: the names say the opposite.
  write_artifact(directory / "a.safetensors", quantized);
  save_model(directory / "b.fairway", quantized.config, flat.data());
  const ModelFile a = load_any_model(directory / "a.safetensors");
  const ModelFile b = load_any_model(directory / "b.fairway");
  EXPECT_EQ(a.config, quantized.config);
  EXPECT_EQ(b.config, quantized.config);
  EXPECT_EQ(a.flat, flat);
  EXPECT_EQ(b.flat, flat);
  EXPECT_EQ(a.tokenizer_hash, quantized.tokenizer_hash);
  EXPECT_FALSE(b.tokenizer_hash.has_value());
}

TEST_F(ModelFileTest, ErrorsNameTheFile) {
  write_file(directory / "c.fairway", "not a model");
  write_artifact(directory / "d.fairway", synthetic_model(small_config(), 300, 7));
  const std::string artifact = read_file(directory / "d.fairway");
  write_file(directory / "d.fairway", artifact.substr(0, artifact.size() - 1));
  for (const char* name : {"c.fairway", "absent.fairway", "d.fairway"}) {
    try {
      load_any_model(directory / name);
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(directory / name), std::string::npos) << e.what();
    }
  }
}

// Weights take four bytes a number in memory: a file that has one must not get that far.
TEST_F(ModelFileTest, AFloatModelHasTwoBytesANumber) {
  const ModelConfig config = small_config();
  const std::vector<uint8_t> bytes(static_cast<size_t>(num_params(config)));
  const std::vector<SafetensorsTensor> tensors = {
      {"a", Dtype::u8, {num_params(config)}, std::as_bytes(std::span(bytes))}};
  write_safetensors(directory / "a.safetensors", tensors, {{"config", to_json(config)}});
  try {
    load_any_model(directory / "a.safetensors");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("bytes of tensors"), std::string::npos) << e.what();
  }
}

TEST_F(ModelFileTest, AFloatModelMayNameItsTokenizer) {
  const QuantizedModel quantized = synthetic_model(small_config(), 300, 7);
  save_model(directory / "a.safetensors", quantized.config, dequantize(quantized).data());
  const SafetensorsFile file(directory / "a.safetensors");
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, entry] : file.entries())
    tensors.push_back({name, entry.dtype, entry.shape, entry.bytes});
  const auto with_hash = [&](const std::string& hash) {
    auto metadata = file.metadata();
    metadata["tokenizer_hash"] = hash;
    write_safetensors(directory / "b.safetensors", tensors, metadata);
    return load_any_model(directory / "b.safetensors");
  };
  EXPECT_EQ(with_hash("0123456789abcdef").tokenizer_hash, 0x0123456789abcdefu);
  for (const char* nonsense : {"", "12", "0123456789ABCDEF", "0123456789abcdefg"}) {
    try {
      with_hash(nonsense);
      ADD_FAILURE() << nonsense;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("b.safetensors"), std::string::npos) << e.what();
    }
  }
}

TEST(Dequantize, IsScaleTimesCode) {
  const QuantizedModel model = synthetic_model(small_config(), 300, 8);
  const std::vector<float> flat = dequantize(model);
  size_t i = 0;
  for_each_named(weights_view<const float>(model.config, flat.data()), [&](const std::string&,
                                                                           Tensor<const float> t) {
    const StoredTensor& stored = model.tensors[i++];
    for (int64_t j = 0; j < t.size(); ++j) {
      const auto u = static_cast<size_t>(j);
      EXPECT_EQ(t[j], stored.quantized()
                          ? fp16_to_float(
                                stored.matrix.scales[static_cast<size_t>(j / stored.matrix.cols)]) *
                                static_cast<float>(stored.matrix.codes[u])
                          : fp16_to_float(stored.half[u]));
    }
  });
}

}  // namespace
}  // namespace fairway

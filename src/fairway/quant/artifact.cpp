#include "fairway/quant/artifact.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "fairway/io/atomic_file.h"
#include "fairway/io/mapped_file.h"
#include "fairway/model/weights.h"
#include "fairway/quant/half_coder.h"
#include "fairway/quant/matrix_coder.h"

namespace fairway {

static_assert(std::endian::native == std::endian::little, "the artifact is written as it lies");

namespace {

constexpr std::array<unsigned char, 8> kMagic = {0x89, 'F', 'A', 'I', 'R', 'W', 'A', 'Y'};
constexpr uint32_t kVersion = 1;
enum Section { kConfig, kTable, kScales, kHalves, kCodes, kSections };
constexpr std::array<const char*, kSections> kSectionNames = {"configuration", "tensor table",
                                                              "scales", "float16 tensors", "codes"};
// magic, version, section count, then {size, checksum} of each section.
constexpr size_t kHeaderBytes = 16 + 16 * kSections, kTrailerBytes = 8;
// No stream may stand for more than this many numbers a byte, so that a small file cannot ask for a
// lot of memory. (Six-bit codes come at about 2.4 a byte; only a constant matrix needs padding.)
constexpr uint64_t kMostPerByte = 64;

uint64_t least_bytes(uint64_t numbers) {
  return (numbers + kMostPerByte - 1) / kMostPerByte;
}

uint64_t checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

template <class T>
void put(std::vector<std::byte>& out, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// Reads little-endian numbers; the caller has checked the size.
template <class T>
T get(std::span<const std::byte> bytes, size_t at) {
  check(at + sizeof(T) <= bytes.size(), "artifact: read past the end");
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

// "blocks.3.attn_scale" → "attn_scale".
std::string kind_of(const std::string& name) {
  if (!name.starts_with("blocks.")) return name;
  return name.substr(name.find('.', 7) + 1);
}

// What the float16 tensors' stream has at least: its numbers at 64 a byte; and 2 bits for each
// series, which name its method, with 8 for the first number of each kind, which nothing predicts.
// (Half of what it does take; so that the coder's own memory, too, is paid for by the file.)
uint64_t least_half_bytes(std::span<const StoredTensor> tensors) {
  uint64_t numbers = 0, bits = 0;
  std::set<std::string> kinds;
  for (const StoredTensor& t : tensors) {
    if (t.quantized()) continue;
    const std::string kind = kind_of(t.name);
    const auto series = static_cast<uint64_t>(t.shape.rank == 2 ? t.shape[0] : 1);
    numbers += static_cast<uint64_t>(t.shape.size());
    bits += 2 * series;
    if (kinds.insert(kind).second) bits += 8 * (kind == t.name ? 1 : series);
  }
  // A stream ends in zeros that are not written.
  return std::max(least_bytes(numbers), bits / 8 - std::min<uint64_t>(bits / 8, 8));
}

// The numbers of all float16 tensors, or all scales, as series. Tensors of two extents go row by
// row; the rows of one inside a block are of different kinds (resid_mix: 1 and 0), others
// (skip_weights) alike.
std::vector<HalfSeries> half_series(std::span<StoredTensor> tensors) {
  size_t count = 0;
  for (const StoredTensor& t : tensors)
    if (!t.quantized()) count += static_cast<size_t>(t.shape.rank == 2 ? t.shape[0] : 1);
  std::vector<HalfSeries> series;
  series.reserve(count);
  for (StoredTensor& t : tensors) {
    if (t.quantized()) continue;
    const std::string kind = kind_of(t.name);
    if (t.shape.rank != 2) {
      series.push_back({kind, t.half});
      continue;
    }
    const auto cols = static_cast<size_t>(t.shape[1]);
    for (size_t row = 0; row < static_cast<size_t>(t.shape[0]); ++row)
      series.push_back({kind == t.name ? kind : kind + "." + std::to_string(row),
                        std::span(t.half).subspan(row * cols, cols)});
  }
  return series;
}
std::vector<HalfSeries> scale_series(std::span<StoredTensor> tensors) {
  std::vector<HalfSeries> series;
  for (StoredTensor& t : tensors)
    if (t.quantized()) series.push_back({kind_of(t.name), t.matrix.scales});
  return series;
}

bool finite_half(uint16_t h) {
  return (h & 0x7C00) != 0x7C00;
}

// Splits `total` bytes in the ratio of `bits`.
class Shares {
 public:
  Shares(uint64_t total, std::span<const double> bits) : total_(static_cast<double>(total)) {
    for (double b : bits) sum_ += b;
  }
  uint64_t next(double bits) {
    done_ += bits;
    const auto upto = static_cast<uint64_t>(sum_ > 0 ? total_ * (done_ / sum_) + 0.5 : 0.0);
    return upto - std::exchange(given_, upto);
  }

 private:
  double total_, sum_ = 0, done_ = 0;
  uint64_t given_ = 0;
};

void append_padded(std::vector<std::byte>& out, std::vector<std::byte> stream, uint64_t least) {
  stream.resize(std::max<size_t>(stream.size(), least));
  out.insert(out.end(), stream.begin(), stream.end());
}

uint64_t total_values(std::span<const HalfSeries> series) {
  uint64_t n = 0;
  for (const HalfSeries& s : series) n += s.values.size();
  return n;
}

constexpr size_t kTableEntryHalf = 1, kTableEntryMatrix = 1 + 4 + 4 + 8;

}  // namespace

std::vector<std::byte> pack_artifact(const QuantizedModel& model, ArtifactBytes* bytes) {
  QuantizedModel copy =
      model;  // the coders take mutable numbers, to share their code with decoding
  for (const StoredTensor& t : copy.tensors) {
    require(std::all_of(t.half.begin(), t.half.end(), finite_half) &&
                std::all_of(t.matrix.scales.begin(), t.matrix.scales.end(), finite_half),
            "tensor '{}' holds a number that float16 cannot", t.name);
  }
  std::array<std::vector<std::byte>, kSections> sections;

  nlohmann::ordered_json json;
  json["model"] = nlohmann::ordered_json::parse(to_json(copy.config));
  if (copy.tokenizer_hash) json["tokenizer_hash"] = fmt::format("{:016x}", *copy.tokenizer_hash);
  const std::string text = json.dump();
  const auto text_bytes = std::as_bytes(std::span(text));
  sections[kConfig].assign(text_bytes.begin(), text_bytes.end());

  std::vector<CodedMatrix> coded(copy.tensors.size());
#pragma omp parallel for schedule(dynamic, 1)
  for (size_t i = 0; i < copy.tensors.size(); ++i)
    if (copy.tensors[i].quantized()) coded[i] = encode_matrix(copy.tensors[i].matrix);

  const auto scales = scale_series(copy.tensors), halves = half_series(copy.tensors);
  std::vector<double> scale_bits, half_bits;
  append_padded(sections[kScales], encode_halves(scales, &scale_bits),
                least_bytes(total_values(scales)));
  append_padded(sections[kHalves], encode_halves(halves, &half_bits),
                least_half_bytes(copy.tensors));

  for (size_t i = 0; i < copy.tensors.size(); ++i) {
    const StoredTensor& t = copy.tensors[i];
    put(sections[kTable], static_cast<uint8_t>(t.matrix.bits));
    if (!t.quantized()) continue;
    const size_t before = sections[kCodes].size();
    append_padded(sections[kCodes], std::move(coded[i].bytes), least_bytes(t.matrix.codes.size()));
    put(sections[kTable], coded[i].params.prior);
    put(sections[kTable], coded[i].params.slack);
    put(sections[kTable], coded[i].params.shape);
    put(sections[kTable], coded[i].params.repeats);
    put(sections[kTable], coded[i].params.mean_square);
    put(sections[kTable], static_cast<uint64_t>(sections[kCodes].size() - before));
  }

  std::vector<std::byte> file;
  for (unsigned char c : kMagic) put(file, c);
  put(file, kVersion);
  put(file, uint32_t{kSections});
  for (const auto& section : sections) {
    put(file, uint64_t{section.size()});
    put(file, checksum(section));
  }
  for (const auto& section : sections) file.insert(file.end(), section.begin(), section.end());
  put(file, checksum(file));

  if (bytes) {
    *bytes = {};
    bytes->total = bytes->container = file.size();
    Shares scale_shares(sections[kScales].size(), scale_bits);
    Shares half_shares(sections[kHalves].size(), half_bits);
    size_t next_scale = 0, next_half = 0, table = 0;
    for (size_t i = 0; i < copy.tensors.size(); ++i) {
      const StoredTensor& t = copy.tensors[i];
      TensorBytes b{t.name, t.matrix.bits, t.shape.size(), 0, 0, 0, coded[i].model_bits};
      if (t.quantized()) {
        b.codes = get<uint64_t>(sections[kTable], table + 9);
        b.scales = scale_shares.next(scale_bits[next_scale++]);
        table += kTableEntryMatrix;
      } else {
        for (int64_t row = 0; row < (t.shape.rank == 2 ? t.shape[0] : 1); ++row)
          b.half += half_shares.next(half_bits[next_half++]);
        table += kTableEntryHalf;
      }
      bytes->container -= b.codes + b.scales + b.half;
      bytes->tensors.push_back(std::move(b));
    }
  }
  return file;
}

bool looks_like_artifact(std::span<const std::byte> file) {
  return file.size() >= kMagic.size() &&
         std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
}

QuantizedModel unpack_artifact(std::span<const std::byte> file, const std::string& where) {
  const auto damaged = [&](const char* part) {
    fail("{}: the artifact's {} is damaged; copy or make the file again", where, part);
  };
  require(looks_like_artifact(file), "{}: not a Fairway artifact (wrong magic at byte 0)", where);
  require(file.size() >= kHeaderBytes + kTrailerBytes,
          "{}: truncated: {} bytes are less than an artifact's header", where, file.size());
  const auto version = get<uint32_t>(file, 8), count = get<uint32_t>(file, 12);
  require(version == kVersion, "{}: artifact version {} (this program reads version {})", where,
          version, kVersion);
  if (count != kSections) damaged("header");
  std::array<std::span<const std::byte>, kSections> sections;
  size_t at = kHeaderBytes;
  const size_t end = file.size() - kTrailerBytes;
  for (size_t s = 0; s < kSections; ++s) {
    const auto size = get<uint64_t>(file, 16 + 16 * s);
    require(size <= end - at,
            "{}: truncated, or its header is damaged: {} of {} bytes at {} do not fit", where,
            kSectionNames[s], size, at);
    sections[s] = file.subspan(at, size);
    at += size;
  }
  require(at == end, "{}: {} bytes too many after the codes, or the header is damaged", where,
          end - at);
  for (size_t s = 0; s < kSections; ++s)
    if (checksum(sections[s]) != get<uint64_t>(file, 24 + 16 * s)) damaged(kSectionNames[s]);
  if (checksum(file.first(end)) != get<uint64_t>(file, end)) damaged("header or trailer");

  // From here on the file is as it was written; but it may have been written to deceive.
  QuantizedModel model;
  const std::string_view text(reinterpret_cast<const char*>(sections[kConfig].data()),
                              sections[kConfig].size());
  require(text.size() <= 65536, "{}: the configuration takes {} bytes", where, text.size());
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  require(json.is_object() && json.contains("model") && json["model"].is_object(),
          "{}: the configuration is not a JSON object with the key 'model'", where);
  for (const auto& [key, value] : json.items())
    require(key == "model" || key == "tokenizer_hash", "{}: unknown configuration key '{}'", where,
            key);
  model.config = model_config_from_json(json["model"].dump(), where);
  if (json.contains("tokenizer_hash")) {
    const auto& hash = json["tokenizer_hash"];
    const std::string hex = hash.is_string() ? hash.get<std::string>() : "";
    require(hex.size() == 16 && hex.find_first_not_of("0123456789abcdef") == std::string::npos,
            "{}: 'tokenizer_hash' is not 16 hexadecimal digits", where);
    model.tokenizer_hash = std::stoull(hex, nullptr, 16);
  }

  // First pass: every tensor's entry against its shape, before memory is taken for any.
  struct Entry {
    MatrixParams params;
    std::span<const std::byte> codes;
  };
  std::vector<Entry> entries;
  const std::span<const std::byte> table = sections[kTable];
  size_t row = 0, codes_at = 0;
  uint64_t scale_count = 0, half_count = 0;
  for_each_named(weights_view<const float>(model.config, nullptr), [&](const std::string& name,
                                                                       Tensor<const float> t) {
    require(row + kTableEntryHalf <= table.size(), "{}: the tensor table ends before '{}'", where,
            name);
    StoredTensor stored;
    stored.name = name;
    stored.shape = t.shape;
    Entry entry;
    const int bits = get<uint8_t>(table, row);
    const auto numbers = static_cast<uint64_t>(t.size());
    if (bits == 0) {
      row += kTableEntryHalf;
      half_count += numbers;
    } else {
      require(row + kTableEntryMatrix <= table.size(), "{}: the tensor table ends inside '{}'",
              where, name);
      require(t.shape.rank == 2 && bits >= 2 && bits <= 8, "{}: '{}' cannot have codes of {} bits",
              where, name, bits);
      stored.matrix.bits = bits;
      stored.matrix.rows = t.extent(0);
      stored.matrix.cols = t.extent(1);
      entry.params.prior = get<uint8_t>(table, row + 1);
      entry.params.slack = get<uint8_t>(table, row + 2);
      entry.params.shape = get<uint8_t>(table, row + 3);
      entry.params.repeats = get<uint8_t>(table, row + 4);
      entry.params.mean_square = get<uint32_t>(table, row + 5);
      const auto size = get<uint64_t>(table, row + 9);
      require(entry.params.valid(), "{}: the coder's parameters of '{}' are out of range", where,
              name);
      require(size <= sections[kCodes].size() - codes_at && size >= least_bytes(numbers),
              "{}: '{}' has {} bytes for {} codes", where, name, size, numbers);
      entry.codes = sections[kCodes].subspan(codes_at, size);
      codes_at += size;
      row += kTableEntryMatrix;
      scale_count += static_cast<uint64_t>(t.extent(0));
    }
    model.tensors.push_back(std::move(stored));
    entries.push_back(entry);
  });
  require(row == table.size() && codes_at == sections[kCodes].size(),
          "{}: the tensor table does not match the configuration", where);
  require(sections[kScales].size() >= least_bytes(scale_count) &&
              sections[kHalves].size() >= least_half_bytes(model.tensors),
          "{}: {} + {} bytes for {} scales and {} float16 numbers", where, sections[kScales].size(),
          sections[kHalves].size(), scale_count, half_count);

  for (StoredTensor& t : model.tensors) {
    if (t.quantized()) {
      t.matrix.codes.resize(static_cast<size_t>(t.shape.size()));
      t.matrix.scales.resize(static_cast<size_t>(t.matrix.rows));
    } else {
      t.half.resize(static_cast<size_t>(t.shape.size()));
    }
  }
  decode_halves(sections[kScales], scale_series(model.tensors));
  decode_halves(sections[kHalves], half_series(model.tensors));
  for (const StoredTensor& t : model.tensors)
    require(std::all_of(t.half.begin(), t.half.end(), finite_half) &&
                std::all_of(t.matrix.scales.begin(), t.matrix.scales.end(), finite_half),
            "{}: '{}' holds a number that is not finite", where, t.name);
#pragma omp parallel for schedule(dynamic, 1)
  for (size_t i = 0; i < entries.size(); ++i) {
    QuantizedMatrix& m = model.tensors[i].matrix;
    if (m.bits != 0)
      decode_matrix(entries[i].codes, entries[i].params, m.rows, m.cols, m.bits, m.codes.data());
  }
  return model;
}

void write_artifact(const std::filesystem::path& path, const QuantizedModel& model,
                    ArtifactBytes* bytes) {
  const auto artifact = pack_artifact(model, bytes);
  AtomicFile file(path);
  file.write(artifact);
  file.commit();
}

QuantizedModel read_artifact(const std::filesystem::path& path) {
  const MappedFile file(path);
  return unpack_artifact(file.bytes(), path.string());
}

}  // namespace fairway

#include "fairway/io/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "fairway/base/check.h"
#include "fairway/base/fp16.h"
#include "fairway/io/atomic_file.h"

namespace fairway {

namespace {

using Json = nlohmann::json;

struct DtypeInfo {
  std::string_view name;
  size_t bytes;
};
constexpr std::array<DtypeInfo, 10> kDtypes{{{"F64", 8},
                                             {"F32", 4},
                                             {"F16", 2},
                                             {"BF16", 2},
                                             {"I64", 8},
                                             {"I32", 4},
                                             {"I16", 2},
                                             {"I8", 1},
                                             {"U8", 1},
                                             {"BOOL", 1}}};

// A parsed header takes about thirty times the memory of its text; this is room for 30,000 tensors.
constexpr uint64_t kMaxHeader = uint64_t{1} << 22;

// dtype bytes × shape, or nothing on overflow past 2^62.
uint64_t tensor_bytes(const std::string& where, size_t element, const std::vector<int64_t>& shape) {
  uint64_t n = element;
  for (int64_t e : shape) {
    require(e >= 0 && (e == 0 || n <= (uint64_t{1} << 62) / static_cast<uint64_t>(e)),
            "{}: impossible shape", where);
    n *= static_cast<uint64_t>(e);
  }
  return n;
}

}  // namespace

size_t dtype_bytes(Dtype dtype) {
  return kDtypes[static_cast<size_t>(dtype)].bytes;
}
std::string_view dtype_name(Dtype dtype) {
  return kDtypes[static_cast<size_t>(dtype)].name;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path), path_(path) {
  parse(file_->bytes());
}

SafetensorsFile::SafetensorsFile(std::span<const std::byte> bytes, std::filesystem::path path)
    : path_(std::move(path)) {
  parse(bytes);
}

void SafetensorsFile::parse(std::span<const std::byte> bytes) {
  const std::string where = path_.string();
  require(bytes.size() >= 8, "{}: not a safetensors file: only {} bytes", where, bytes.size());
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  require(header_size <= kMaxHeader && header_size <= bytes.size() - 8,
          "{}: not a safetensors file: header of {} bytes in a file of {}", where, header_size,
          bytes.size());
  const char* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  const auto data = bytes.subspan(8 + header_size);

  // JSON lets a name stand twice and the last one win; nesting could be as deep as the header is
  // long.
  std::set<std::string> names;
  const auto inspect = [&](int depth, Json::parse_event_t event, Json& parsed) {
    require(depth <= 8, "{}: safetensors header is nested too deeply", where);
    if (depth == 1 && event == Json::parse_event_t::key)
      require(names.insert(parsed.get<std::string>()).second,
              "{}: safetensors header names '{}' twice", where, parsed.get<std::string>());
    return true;
  };
  Json header = Json::parse(text, text + header_size, inspect, /*allow_exceptions=*/false);
  require(header.is_object(), "{}: safetensors header is not a JSON object", where);

  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      require(value.is_object(), "{}: __metadata__ is not an object", where);
      for (auto& [k, v] : value.items()) {
        require(v.is_string(), "{}: __metadata__ '{}' is not a string", where, k);
        metadata_[k] = v.get<std::string>();
      }
      continue;
    }
    const std::string here = where + ": tensor '" + name + "'";
    require(value.is_object() && value.contains("dtype") && value["dtype"].is_string() &&
                value.contains("shape") && value["shape"].is_array() &&
                value.contains("data_offsets") && value["data_offsets"].is_array() &&
                value["data_offsets"].size() == 2,
            "{}: malformed header entry", here);
    const auto dtype_text = value["dtype"].get<std::string>();
    const auto dtype = std::find_if(kDtypes.begin(), kDtypes.end(),
                                    [&](const DtypeInfo& d) { return d.name == dtype_text; });
    require(dtype != kDtypes.end(), "{}: unknown dtype '{}'", here, dtype_text);
    SafetensorsEntry entry;
    entry.dtype = static_cast<Dtype>(dtype - kDtypes.begin());
    for (auto& e : value["shape"]) {
      require(e.is_number_unsigned(), "{}: shape is not a list of sizes", here);
      entry.shape.push_back(e.get<int64_t>());
    }
    const auto &lo = value["data_offsets"][0], &hi = value["data_offsets"][1];
    require(lo.is_number_unsigned() && hi.is_number_unsigned(), "{}: offsets are not sizes", here);
    const uint64_t begin = lo.get<uint64_t>(), end = hi.get<uint64_t>();
    require(begin <= end && end <= data.size(), "{}: offsets [{}, {}) outside {} bytes of data",
            here, begin, end, data.size());
    require(end - begin == tensor_bytes(here, dtype->bytes, entry.shape),
            "{}: {} bytes do not fit its shape", here, end - begin);
    entry.bytes = data.subspan(begin, end - begin);
    if (end > begin) spans.emplace_back(begin, end);
    entries_.emplace(name, std::move(entry));
  }
  std::sort(spans.begin(), spans.end());
  uint64_t cursor = 0;
  for (auto [begin, end] : spans) {
    require(begin == cursor, "{}: tensors {} at byte {} of the data", where,
            begin < cursor ? "overlap" : "leave a gap", begin);
    cursor = end;
  }
  require(cursor == data.size(), "{}: {} bytes after the last tensor", where, data.size() - cursor);
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto it = entries_.find(name);
  require(it != entries_.end(), "{}: no tensor '{}'", path().string(), name);
  return it->second;
}

int64_t SafetensorsFile::count(const std::string& name, Dtype expected) const {
  const auto& e = entry(name);
  require(e.dtype == expected, "{}: tensor '{}' is {}, expected {}", path().string(), name,
          dtype_name(e.dtype), dtype_name(expected));
  return static_cast<int64_t>(e.bytes.size() / dtype_bytes(e.dtype));
}

void SafetensorsFile::copy(const std::string& name, std::span<std::byte> out) const {
  const auto bytes = entry(name).bytes;
  if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
}

void SafetensorsFile::read_into(const std::string& name, Tensor<float> out) const {
  const auto& e = entry(name);
  const std::vector<int64_t> expected(out.shape.extent.begin(),
                                      out.shape.extent.begin() + out.shape.rank);
  require(e.shape == expected, "{}: tensor '{}' has shape [{}], expected [{}]", path().string(),
          name, fmt::join(e.shape, ", "), fmt::join(expected, ", "));
  const auto n = static_cast<size_t>(out.size());
  switch (e.dtype) {
    case Dtype::f32:
      if (n) std::memcpy(out.data, e.bytes.data(), n * 4);
      return;
    case Dtype::f16:
    case Dtype::bf16:
      for (size_t i = 0; i < n; ++i) {
        uint16_t bits = 0;
        std::memcpy(&bits, e.bytes.data() + 2 * i, 2);
        out.data[i] = e.dtype == Dtype::f16 ? fp16_to_float(bits)
                                            : std::bit_cast<float>(uint32_t{bits} << 16);
      }
      return;
    default:
      fail("{}: tensor '{}' is {}, expected F32, F16 or BF16", path().string(), name,
           dtype_name(e.dtype));
  }
}

void write_safetensors(const std::filesystem::path& path,
                       std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata, Cached cached) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& t : tensors) {
    header[t.name] = {{"dtype", dtype_name(t.dtype)},
                      {"shape", t.shape},
                      {"data_offsets", {offset, offset + t.bytes.size()}}};
    offset += t.bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data starts 8-byte aligned
  AtomicFile file(path, cached);
  file.write_value(static_cast<uint64_t>(text.size()));
  file.write(text);
  for (const auto& t : tensors) file.write(t.bytes);
  file.commit();
}

}  // namespace fairway

#include "fairway/train/checkpoint.h"

#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "fairway/base/check.h"
#include "fairway/io/write_error.h"

namespace fairway {

namespace fs = std::filesystem;

namespace {

using Metadata = std::map<std::string, std::string>;

// Keys of the metadata that are not part of the run's identity.
const std::vector<std::string> kPositionKeys = {"step", "elapsed", "data.epoch", "data.shard",
                                                "data.cursor"};
constexpr const char* kMagic = "fairway_checkpoint";
constexpr const char* kChecksum = "checksum";

class Checksum {
 public:
  Checksum() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
  ~Checksum() { XXH3_freeState(state_); }
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void add(std::span<const std::byte> bytes) {
    const uint64_t size = bytes.size();  // so that no two lists of pieces look alike
    XXH3_64bits_update(state_, &size, sizeof size);
    XXH3_64bits_update(state_, bytes.data(), bytes.size());
  }
  void add(const std::string& text) { add(std::as_bytes(std::span(text))); }
  std::string hex() const { return fmt::format("{:016x}", XXH3_64bits_digest(state_)); }

 private:
  XXH3_state_t* state_;
};

template <class T>
T parse(const std::string& where, const Metadata& metadata, const char* key) {
  const auto it = metadata.find(key);
  require(it != metadata.end(), "{}: checkpoint metadata lacks '{}'", where, key);
  T value{};
  const char* end = it->second.data() + it->second.size();
  const auto result = std::from_chars(it->second.data(), end, value);
  bool ok = result.ec == std::errc{} && result.ptr == end && value >= 0;
  if constexpr (std::is_floating_point_v<T>) ok = ok && std::isfinite(value);
  require(ok, "{}: checkpoint metadata: '{}' is not a sensible number", where, key);
  return value;
}

}  // namespace

CheckpointInfo read_checkpoint_info(const SafetensorsFile& file) {
  const std::string where = file.path().string();
  Metadata metadata = file.metadata();
  require(metadata.count(kMagic) != 0, "{}: not a checkpoint of a training run", where);
  require(metadata[kMagic] == "1", "{}: checkpoint version '{}' is not known to this program",
          where, metadata[kMagic]);
  require(metadata.count(kChecksum) != 0, "{}: checkpoint metadata lacks '{}'", where, kChecksum);
  const std::string stated = metadata[kChecksum];
  metadata.erase(kChecksum);
  Checksum sum;
  for (const auto& [key, value] : metadata) {
    sum.add(key);
    sum.add(value);
  }
  for (const auto& [name, entry] : file.entries()) {
    sum.add(name);
    sum.add(entry.bytes);
  }
  require(sum.hex() == stated,
          "{}: damaged checkpoint: its checksum does not match; delete it to continue from an "
          "older one",
          where);

  CheckpointInfo info;
  info.position.step = parse<int64_t>(where, metadata, "step");
  info.position.elapsed = parse<double>(where, metadata, "elapsed");
  info.position.data.epoch = parse<int64_t>(where, metadata, "data.epoch");
  info.position.data.shard = parse<int64_t>(where, metadata, "data.shard");
  info.position.data.cursor = parse<int64_t>(where, metadata, "data.cursor");
  metadata.erase(kMagic);
  for (const auto& key : kPositionKeys) metadata.erase(key);
  info.identity = std::move(metadata);
  return info;
}

void save_checkpoint(const fs::path& path, const RunPosition& position, const RunIdentity& identity,
                     std::span<const CheckpointTensor> tensors) {
  Metadata metadata = identity;
  metadata[kMagic] = "1";
  metadata["step"] = fmt::format("{}", position.step);
  metadata["elapsed"] = fmt::format("{}", position.elapsed);  // shortest text of the same bits
  metadata["data.epoch"] = fmt::format("{}", position.data.epoch);
  metadata["data.shard"] = fmt::format("{}", position.data.shard);
  metadata["data.cursor"] = fmt::format("{}", position.data.cursor);

  std::vector<SafetensorsTensor> out;
  for (const auto& t : tensors)
    out.push_back(
        {t.name, Dtype::f32, {static_cast<int64_t>(t.values.size())}, std::as_bytes(t.values)});
  std::sort(out.begin(), out.end(), [](auto& a, auto& b) { return a.name < b.name; });
  Checksum sum;
  for (const auto& [key, value] : metadata) {
    sum.add(key);
    sum.add(value);
  }
  for (const auto& t : out) {
    sum.add(t.name);
    sum.add(t.bytes);
  }
  metadata[kChecksum] = sum.hex();
  write_safetensors(path, out, metadata, Cached::no);  // hardly ever read
}

CheckpointInfo read_checkpoint_info(const fs::path& path) {
  return read_checkpoint_info(SafetensorsFile(path));
}

RunPosition load_checkpoint(
    const fs::path& path, const RunIdentity& identity,
    const std::vector<std::pair<std::string, int64_t>>& expected,
    const std::function<void(const std::string&, std::span<const float>)>& load) {
  return load_checkpoint(SafetensorsFile(path), identity, expected, load);
}

RunPosition load_checkpoint(
    const SafetensorsFile& file, const RunIdentity& identity,
    const std::vector<std::pair<std::string, int64_t>>& expected,
    const std::function<void(const std::string&, std::span<const float>)>& load) {
  const std::string where = file.path().string();
  const CheckpointInfo info = read_checkpoint_info(file);
  for (const auto& [key, value] : identity) {
    const auto it = info.identity.find(key);
    require(it != info.identity.end() && it->second == value,
            "{}: the run was started with another configuration: {} was {}, now {}; put it back, "
            "choose "
            "another --out, or start over with --restart",
            where, key, it == info.identity.end() ? "absent" : it->second, value);
  }
  for (const auto& [key, value] : info.identity)
    require(identity.count(key) != 0,
            "{}: the run was started with another configuration: {} = {} is not a setting of this "
            "program; choose another --out, or start over with --restart",
            where, key, value);
  for (const auto& [name, count] : expected) {
    const auto& entry = file.entry(name);
    require(entry.dtype == Dtype::f32 && entry.shape == std::vector<int64_t>{count},
            "{}: tensor '{}' is not {} floats", where, name, count);
  }
  for (const auto& [name, count] : expected) {
    // The container does not promise alignment.
    std::vector<float> aligned;
    const auto bytes = file.entry(name).bytes;
    if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(float) == 0) {
      load(name, {reinterpret_cast<const float*>(bytes.data()), static_cast<size_t>(count)});
    } else {
      aligned = file.read<float>(name);
      load(name, aligned);
    }
  }
  return info.position;
}

fs::path checkpoint_path(const fs::path& directory, int64_t step) {
  return directory / fmt::format("step_{:08}.safetensors", step);
}

namespace {

// The number in step_<number><suffix>; -1 if that is not the name.
int64_t step_in(const fs::path& path, std::string_view suffix) {
  const std::string name = path.filename().string();
  const std::string_view prefix = "step_";
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return -1;
  int64_t step = 0;
  const char* end = name.data() + name.size() - suffix.size();
  const auto result = std::from_chars(name.data() + prefix.size(), end, step);
  return result.ec == std::errc{} && result.ptr == end ? step : -1;
}

// The files with such names, by number.
std::vector<fs::path> numbered_files(const fs::path& directory, std::string_view suffix) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (const int64_t step = step_in(entry.path(), suffix); step >= 0)
      found.emplace_back(step, entry.path());
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  paths.reserve(found.size());
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

}  // namespace

int64_t checkpoint_step(const fs::path& path) {
  return step_in(path, ".safetensors");
}

std::vector<fs::path> find_checkpoints(const fs::path& directory) {
  return numbered_files(directory, ".safetensors");
}

void delete_unfinished_checkpoints(const fs::path& directory) {
  for (const auto& path : numbered_files(directory, ".safetensors.tmp")) delete_all(path);
}

void prune_checkpoints(const fs::path& directory, int keep) {
  const auto paths = find_checkpoints(directory);
  for (size_t i = 0; i + static_cast<size_t>(keep) < paths.size(); ++i) {
    std::error_code error;
    fs::remove(paths[i], error);  // one too many is no reason to stop
  }
}

}  // namespace fairway

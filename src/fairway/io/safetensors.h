// The safetensors container: 8 bytes of header length, a JSON header {name: {dtype, shape,
// data_offsets}, "__metadata__": {…}}, then the tensors' bytes. Reading trusts nothing: the header
// is bounded, offsets must be in range, match dtype × shape, and tile the data without overlap or
// gap.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/base/tensor.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/mapped_file.h"

namespace fairway {

enum class Dtype { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, double>) return Dtype::f64;
  if constexpr (std::is_same_v<T, float>) return Dtype::f32;
  if constexpr (std::is_same_v<T, int64_t>) return Dtype::i64;
  if constexpr (std::is_same_v<T, int32_t>) return Dtype::i32;
  if constexpr (std::is_same_v<T, int8_t>) return Dtype::i8;
  if constexpr (std::is_same_v<T, uint8_t>) return Dtype::u8;
  if constexpr (std::is_same_v<T, uint16_t>) return Dtype::f16;  // raw binary16 bits
}

size_t dtype_bytes(Dtype dtype);
std::string_view dtype_name(Dtype dtype);

struct SafetensorsEntry {
  Dtype dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

class SafetensorsFile {
 public:
  // Throws Error (file, what, where) on anything malformed.
  explicit SafetensorsFile(const std::filesystem::path& path);
  // The same of bytes that stay the caller's; `path` names them in errors.
  SafetensorsFile(std::span<const std::byte> bytes, std::filesystem::path path);

  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return entries_.count(name) != 0; }

  // The entry of that name; Error if it is missing.
  const SafetensorsEntry& entry(const std::string& name) const;

  // A copy of the values; Error if the name is missing or the dtype is another.
  template <class T>
  std::vector<T> read(const std::string& name) const {
    std::vector<T> out(static_cast<size_t>(count(name, dtype_of<T>())));
    copy(name, std::as_writable_bytes(std::span(out)));
    return out;
  }

  // Copies a tensor into `out`; its shape must match exactly. f16 and bf16 widen to float.
  void read_into(const std::string& name, Tensor<float> out) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  void parse(std::span<const std::byte> bytes);
  int64_t count(const std::string& name, Dtype expected) const;
  void copy(const std::string& name, std::span<std::byte> out) const;

  std::optional<MappedFile> file_;  // nothing if the bytes are the caller's
  std::filesystem::path path_;
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// What write_safetensors takes: the bytes stay the caller's until it returns.
struct SafetensorsTensor {
  std::string name;
  Dtype dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes atomically, in the order given.
void write_safetensors(const std::filesystem::path& path,
                       std::span<const SafetensorsTensor> tensors,
                       const std::map<std::string, std::string>& metadata,
                       Cached cached = Cached::yes);

}  // namespace fairway

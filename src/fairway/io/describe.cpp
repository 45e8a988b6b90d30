#include "fairway/io/describe.h"

#include <algorithm>

#include "fairway/base/check.h"
#include "fairway/io/safetensors.h"

namespace fairway {

std::string describe_safetensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  uint64_t bytes = 0, elements = 0;
  size_t widest = 0;
  for (const auto& [name, entry] : file.entries()) {
    bytes += entry.bytes.size();
    elements += entry.bytes.size() / dtype_bytes(entry.dtype);
    widest = std::max(widest, name.size());
  }
  std::string out = fmt::format("{}: safetensors file of {} tensors, {} values, {} bytes\n",
                                path.string(), file.entries().size(), elements, bytes);
  for (const auto& [key, value] : file.metadata()) out += fmt::format("{}: {}\n", key, value);
  for (const auto& [name, entry] : file.entries())
    out += fmt::format("{:<{}}  {:<4}  [{}]\n", name, widest, dtype_name(entry.dtype),
                       fmt::join(entry.shape, ", "));
  return out;
}

}  // namespace fairway

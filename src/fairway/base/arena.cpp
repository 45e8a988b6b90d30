#include "fairway/base/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "fairway/base/check.h"

namespace fairway {

namespace {
constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
size_t round_up(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}
}  // namespace

void HostBuffer::Free::operator()(std::byte* p) const {
  std::free(p);
}

HostBuffer::HostBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  const size_t rounded = round_up(bytes, alignment);
  void* p = rounded >= bytes ? std::aligned_alloc(alignment, rounded) : nullptr;
  require(p != nullptr, "out of memory: cannot allocate {} bytes; use a smaller batch", bytes);
#ifdef MADV_HUGEPAGE
  if (alignment == kHugePage) ::madvise(p, rounded, MADV_HUGEPAGE);
#endif
  std::memset(p, 0, rounded);
  data_.reset(static_cast<std::byte*>(p));
}

std::byte* Arena::take_bytes(std::string_view name, size_t bytes) {
  const size_t rounded = round_up(bytes, kAlignment);
  std::byte* p = base_ ? base_ + used_ : nullptr;
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  check(dry() || used_ <= capacity_, "Arena: more taken than the dry run counted");
  if (dry()) {
    auto it = std::find_if(names_.begin(), names_.end(), [&](auto& n) { return n.first == name; });
    if (it == names_.end())
      names_.emplace_back(name, rounded);
    else
      it->second += rounded;
  }
  return p;
}

std::string Arena::report() const {
  auto sorted = names_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](auto& a, auto& b) { return a.second > b.second; });
  std::string out;
  for (auto& [name, bytes] : sorted)
    out += fmt::format("{:>12.1f} MiB  {}\n", static_cast<double>(bytes) / (1 << 20), name);
  return out;
}

}  // namespace fairway

#include "fairway/base/arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "fairway/base/check.h"

namespace fairway {

namespace {
constexpr size_t kAlignment = 256;
size_t round_up(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}
}  // namespace

void HostBuffer::Unmap::operator()(std::byte* p) const {
  ::munmap(p, bytes);
}

HostBuffer::HostBuffer(size_t bytes) {
  if (bytes == 0) return;
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(p != MAP_FAILED, "out of memory: cannot allocate {} bytes; use a smaller batch", bytes);
#ifdef MADV_HUGEPAGE
  ::madvise(p, bytes, MADV_HUGEPAGE);
#endif
  data_ = {static_cast<std::byte*>(p), Unmap{bytes}};
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

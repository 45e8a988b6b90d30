#include "allocation_limit.h"

#include <sanitizer/allocator_interface.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// Read by AddressSanitizer. A small quarantine keeps the process in the cache.
extern "C" const char* __asan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "quarantine_size_mb=4:malloc_context_size=1:max_malloc_fill_size=0";
}

namespace fairway {

namespace {

bool counting = false;
size_t limit_one = 0, limit_all = 0;
int64_t live = 0, peak = 0;

void exceeded(const char* what, size_t bytes, size_t limit) {
  counting = false;
  std::fprintf(stderr, "allocation limit: %s of %zu bytes, allowed are %zu\n", what, bytes, limit);
  std::abort();
}

void on_malloc(const volatile void*, size_t size) {
  if (!counting) return;
  if (size > limit_one) exceeded("an allocation", size, limit_one);
  live += static_cast<int64_t>(size);
  if (live > peak) peak = live;
  if (live > static_cast<int64_t>(limit_all))
    exceeded("allocations", static_cast<size_t>(live), limit_all);
}

void on_free(const volatile void* p) {
  if (counting && p)
    live -= static_cast<int64_t>(__sanitizer_get_allocated_size(const_cast<const void*>(p)));
}

}  // namespace

AllocationLimit::AllocationLimit(size_t one, size_t all) {
  static const int installed = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
  if (!installed) std::abort();
  limit_one = one, limit_all = all, live = peak = 0;
  counting = true;
}

AllocationLimit::~AllocationLimit() {
  counting = false;
}

}  // namespace fairway

// oneDNN matrix-product primitives of one thread, made once per shape. Internal to device/.
#pragma once

#include <memory>

#include "fairway/device/cpu_device.h"

namespace fairway {

class MatmulCache {
 public:
  MatmulCache();
  ~MatmulCache();
  CpuDevice::MatmulTotals totals;

  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairway

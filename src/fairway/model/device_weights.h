// A model's weights where a device can use them.
#pragma once

#include <type_traits>
#include <vector>

#include "fairway/device/run_types.h"
#include "fairway/model/weights.h"
#include "fairway/ops/round_to.h"

namespace fairway {

// Weights that lie in host memory, on `device`, matrices rounded to T. On a CPU they stay where
// they are: `flat` must outlive this.
template <class Device, class T>
class DeviceWeights {
 public:
  DeviceWeights(Device& device, const ModelConfig& config, const float* flat) {
    if constexpr (std::is_same_v<Device, CpuDevice>) {
      view_ = weights_view<const T>(config, flat);
    } else {
      const auto elements = static_cast<size_t>(flat_size(config));
      flat_ = device.allocate(elements * sizeof(float));
      auto* values = reinterpret_cast<float*>(flat_.data());
      device.upload(values, flat, elements * sizeof(float));
      if constexpr (std::is_same_v<T, float>) {
        view_ = weights_view<const float>(config, values);
      } else {
        matrices_ = device.allocate(static_cast<size_t>(matrices_size(config)) * sizeof(T));
        auto* matrices = reinterpret_cast<T*>(matrices_.data());
        round_to(device, matrices_size(config), values, matrices);
        view_ = weights_view<const T>(config, matrices, values);
      }
    }
  }

  const Weights<const T>& view() const { return view_; }

 private:
  typename Device::Buffer flat_, matrices_;
  Weights<const T> view_;
};

}  // namespace fairway

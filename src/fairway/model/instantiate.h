// The devices and element types that the model exists for. Internal to model/.
#pragma once

#include <complex>

#include "fairway/device/run_types.h"

// X(Device, T): those of whole runs, and double and complex<double>, which prove gradients right.
#define FAIRWAY_FOR_MODELS(X) \
  FAIRWAY_FOR_RUNS(X) X(CpuDevice, double) X(CpuDevice, std::complex<double>)

// X(T) for what does not depend on the device.
#define FAIRWAY_FOR_ELEMENTS(X) X(float) X(double) X(std::complex<double>) X(bf16)

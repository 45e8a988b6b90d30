// The element types that ops exist for. On the CPU float runs, double and complex<double> prove it
// right.
#pragma once

#include <complex>

#include "fairway/base/bf16.h"

#define FAIRWAY_FOR_CPU_TYPES(X) X(float) X(double) X(std::complex<double>)
#define FAIRWAY_FOR_CUDA_TYPES(X) X(float) X(bf16)

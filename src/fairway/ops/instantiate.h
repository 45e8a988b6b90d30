// The element types that CPU ops exist for: float runs, double and complex<double> prove it right.
#pragma once

#include <complex>

#define FAIRWAY_FOR_CPU_TYPES(X) X(float) X(double) X(std::complex<double>)

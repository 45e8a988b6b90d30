// `fairway bench quantize`: from a float model to the artifact's bytes, stage by stage.
#pragma once

#include <string>

#include "fairway/device/choose.h"
#include "fairway/model/config.h"
#include "fairway/quant/config.h"

namespace fairway::bench {

struct QuantizeOptions {
  ModelConfig model;
  QuantConfig quant;
  int64_t tokens = 4096;  // that go through the model together, in windows of the recipe's length
  int batches = 1;        // of so many tokens
  DeviceChoice device;    // of the Hessians; its threads do the rest
};

struct QuantizeFigures {
  std::string device;
  int threads = 0;
  double tokens = 0;           // that the Hessians were summed over
  double hessian_seconds = 0;  // download included, the first batch not
  double hessian_flops = 0;    // of the products xᵀx alone, both triangles
  double gptq_seconds = 0;
  double coding_seconds = 0;
  double artifact_bytes = 0;
};

QuantizeFigures bench_quantize(const QuantizeOptions& options);

}  // namespace fairway::bench

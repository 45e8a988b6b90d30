// A small model and its training, for the tests of plan/.
#pragma once

#include "fairway/plan/plan.h"
#include "support/small_model.h"

namespace fairway {

inline ModelConfig small_model() {
  return testing::small_model(/*vocab_size=*/48);
}

inline PlanInputs small_run() {
  PlanInputs in;
  in.model = small_model();
  in.train.batch_tokens = 1024;
  in.train.micro_steps = 8;
  in.speed = ComputeSpeed(1000, 0);
  in.optimizer_seconds = 0.1;
  return in;
}

}  // namespace fairway

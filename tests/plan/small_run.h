// A small model and its training, for the tests of plan/.
#pragma once

#include "fairway/plan/plan.h"

namespace fairway {

// Banks of 8, 8, 4 and 4 matrices, of 1024, 512, 4096 and 4096 elements.
inline ModelConfig small_model() {
  ModelConfig model;
  model.vocab_size = 48;
  model.num_layers = 4;
  model.model_dim = 32;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.rope_dims = 4;
  model.max_doc_len = 32;
  model.xsa_last_n = 4;
  model.loop_start = 1;
  model.loop_end = 2;
  model.parallel_start_layer = 3;
  return model;
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

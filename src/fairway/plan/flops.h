// How much arithmetic training takes.
#pragma once

#include "fairway/model/model.h"

namespace fairway {

// A multiplication and an addition are two flops.
struct Flops {
  double products = 0;   // of matrices, the head's included
  double attention = 0;  // scores, values and their gradients

  double total() const { return products + attention; }
};

// The useful flops of a forward and a backward pass over `tokens` tokens whose queries meet `pairs`
// keys in all: three products for each one of the forward pass; two of attention forward and five
// backward. What is elementwise, or computed again, does not count.
Flops training_flops(const Network& net, double tokens, double pairs);

}  // namespace fairway

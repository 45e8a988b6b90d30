// The network: one forward, one backward, for training (lora = nullptr) and for test-time training
// (dweights = nullptr) alike. Legend: T rows of the packed buffer, N rows that reach the head.
#pragma once

#include <cstdint>

#include "fairway/device/device.h"
#include "fairway/model/acts.h"
#include "fairway/model/config.h"
#include "fairway/model/lora.h"
#include "fairway/model/route.h"
#include "fairway/model/weights.h"

namespace fairway {

// One packed buffer of documents. Device memory, not owned.
struct Batch {
  Tensor<const int32_t> inputs;      // [T] token ids
  Tensor<const int32_t> cu_seqlens;  // [S + 1] segment starts, then T; entries of T may pad the end
  // The rows that reach the head: the last ones of each segment, ascending. Null: all (N = T).
  Tensor<const int32_t> rows;     // [N], N < T
  Tensor<const int32_t> cu_rows;  // [S + 1] where each segment's begin in `rows`, then N
  Tensor<const int32_t> targets;  // [N] the token to predict at each row that reaches the head

  int64_t T() const { return inputs.size(); }
  int64_t N() const { return targets.size(); }
};

// The parts of a model that are not weights: configuration, route, tables. Immutable.
struct Network {
  Network(const ModelConfig& model, bool looped)
      : config(model), route(make_route(model, looped)) {}
  ModelConfig config;
  Route route;
  int slots() const { return static_cast<int>(route.size()); }
};

// Bytes of scratch, beyond Acts, that the three calls below need for T rows and N head rows, with
// the adapters that there may be.
template <class T>
size_t scratch_bytes(const Network& net, int64_t rows, int64_t head_rows, bool for_backward,
                     const LoraConfig* lora = nullptr);

// Makes `folded` of the weights.
template <class Device, class T>
void fold_weights(Device& device, const ModelConfig& config, const Weights<const T>& w,
                  const FoldedWeights<T>& folded);

// Runs the route: fills `acts` up to final_x. acts.folded was made of `w`. Token ids must be < V.
// Where only some rows reach the head, the last visit computes keys and values of all rows and the
// rest of those rows alone.
template <class Device, class T>
void forward(Device& device, const Network& net, const Weights<const T>& w,
             const Lora<const Accum<T>>* lora, const Batch& batch, const Acts<T>& acts,
             Arena scratch);

// The head and the loss: nll[n] = −log softmax(logits)[target] for each head row. With `d_nll`
// (the weight of each row in the loss; 1/N for a mean), also accumulates the head's gradients into
// *dweights, writes those of its adapters to *dlora (each may be null) and writes acts.d_final_x.
template <class Device, class T>
void head_loss(Device& device, const Network& net, const Weights<const T>& w,
               const Lora<const Accum<T>>* lora, const Batch& batch, const Acts<T>& acts,
               Tensor<Accum<T>> nll, const Accum<T>* d_nll, const Weights<Accum<T>>* dweights,
               const Lora<T>* dlora, Arena scratch);

// From acts.d_final_x back to every parameter: accumulates into *dweights and writes *dlora (each
// may be null), but for the head's adapter. Needs acts laid out for_backward and filled by forward
// and head_loss on the same arguments, acts.folded among them.
template <class Device, class T>
void backward(Device& device, const Network& net, const Weights<const T>& w,
              const Lora<const Accum<T>>* lora, const Batch& batch, const Acts<T>& acts,
              const Weights<Accum<T>>* dweights, const Lora<T>* dlora, Arena scratch);

// SPEC §3 "Init": everything drawn from (seed, tensor), on any device the same bits.
void init_weights(CpuDevice& device, const ModelConfig& config, uint64_t seed, float* flat);

}  // namespace fairway

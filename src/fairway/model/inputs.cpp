#include "fairway/model/inputs.h"

#include "fairway/model/instantiate.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

template <class T>
VisitInputs<T> take_visit_inputs(const ModelConfig& config, int64_t rows, Arena& arena) {
  const auto take = [&] { return arena.take<T>("recomputed inputs", {rows, config.model_dim}); };
  VisitInputs<T> inputs;
  inputs.u = take();
  inputs.attn_in = take();
  inputs.h = take();
  inputs.mlp_in = take();
  return inputs;
}

template <class Device, class T>
void visit_inputs(Device& device, const Network& net, const Weights<const T>& w,
                  const Acts<T>& acts, int s, VisitInputs<T>& inputs) {
  const Visit& visit = net.route[static_cast<size_t>(s)];
  const VisitActs<T>& v = acts.visits[static_cast<size_t>(s)];
  const double ln = net.config.ln(visit.layer);
  resid_mix<T>(device, v.x, acts.x0, w.resid_mix.slice(visit.layer), inputs.u);
  rms_norm_apply<T>(device, inputs.u, v.rstd_attn, ln, inputs.attn_in);
  if (visit.join == Join::serial)
    scaled_add<T>(device, inputs.u, w.attn_scale.slice(visit.layer), v.a, inputs.h);
  else
    inputs.h = v.lane1;
  rms_norm_apply<T>(device, inputs.h, v.rstd_mlp, ln, inputs.mlp_in);
}

#define FAIRWAY_INSTANTIATE(T) \
  template VisitInputs<T> take_visit_inputs(const ModelConfig&, int64_t, Arena&);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

#define FAIRWAY_INSTANTIATE(Device, T)                                                         \
  template void visit_inputs(Device&, const Network&, const Weights<const T>&, const Acts<T>&, \
                             int, VisitInputs<T>&);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

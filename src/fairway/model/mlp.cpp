#include "fairway/model/mlp.h"

#include "fairway/model/adapters.h"
#include "fairway/model/instantiate.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

namespace {

// What the norm before the MLP is multiplied by at visit s.
double norm_scale(const Network& net, int s) {
  return net.config.ln(net.route[static_cast<size_t>(s)].layer);
}

}  // namespace

template <class Device, class T>
void mlp_forward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                 const Lora<const Accum<T>>* lora, Tensor<const T> wdown_scaled,
                 const MlpE4m3<T>& e4m3, const VisitActs<T>& acts, Tensor<const T> x,
                 Tensor<const T> residual, Tensor<T> out) {
  const double eps = net.config.norm_eps, ln = norm_scale(net, s);
  const Tensor<T> n = acts.mlp_in;
  const auto n_operand =
      e4m3 ? mlp_e4m3_n_rows<T>(device, n.extent(0), net.config.model_dim, net.config.mlp_dim())
           : Tensor<fairway::e4m3>{};
  if (e4m3)
    mlp_e4m3_norm<T>(device, x, eps, ln, e4m3, acts.rstd_mlp, n, n_operand);
  else
    rms_norm<T>(device, x, eps, ln, acts.rstd_mlp, n);
  adapt_down<Device, T>(device, slot_down(lora, s, kMlpAdapters), n, acts.mlp_xa);
  const LowRankAdded<T> added{slot_up(lora, s, Adapter::mlp, kMlpAdapters, layer.mlp_scale.data),
                              acts.mlp_xa};
  if (e4m3)
    mlp_leaky_sq_e4m3<T>(device, n, e4m3, residual, acts.hidden, out, added, n_operand);
  else
    mlp_leaky_sq<T>(device, n, layer.wup, wdown_scaled, residual, acts.hidden, out, added);
}

template <class Device, class T>
void mlp_backward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, Tensor<const T> wdown_scaled,
                  const MlpTransposed<T>& transposed, const MlpE4m3<T>& e4m3,
                  const VisitActs<T>& acts, Tensor<const T> dout, Tensor<T> dx, Tensor<T> dn,
                  const Layer<Accum<T>>& dlayer, Tensor<Accum<T>> dwdown_scaled,
                  const Lora<T>* dlora, Tensor<T> dxa, const E4m3Rows& dout_e4m3) {
  const MlpNormBack<T> norm{acts.rstd_mlp, norm_scale(net, s), dx, acts.mlp_xa};
  const auto down = slot_down(lora, s, kMlpAdapters);
  const LowRankAddedBack<T> added{down, dxa};
  adapt_up_backward<Device, T>(
      device, slot_up(lora, s, Adapter::mlp, kMlpAdapters, layer.mlp_scale.data), dout, acts.mlp_xa,
      dxa, slot_up(dlora, s, Adapter::mlp, kMlpAdapters));
  if (e4m3)
    mlp_leaky_sq_e4m3_backward<T>(device, dout, acts.mlp_in, acts.hidden, e4m3, dn, dlayer.wup,
                                  dwdown_scaled, added, norm, dout_e4m3);
  else
    mlp_leaky_sq_backward<T>(device, dout, acts.mlp_in, acts.hidden, layer.wup, wdown_scaled, dn,
                             dlayer.wup, dwdown_scaled, added, norm, transposed);
  adapt_down_gradient<Device, T>(device, down, dxa, acts.mlp_in, slot_down(dlora, s, kMlpAdapters));
}

#define FAIRWAY_INSTANTIATE(Device, T)                                                         \
  template void mlp_forward(Device&, const Network&, int, const Layer<const T>&,               \
                            const Lora<const Accum<T>>*, Tensor<const T>, const MlpE4m3<T>&,   \
                            const VisitActs<T>&, Tensor<const T>, Tensor<const T>, Tensor<T>); \
  template void mlp_backward(Device&, const Network&, int, const Layer<const T>&,              \
                             const Lora<const Accum<T>>*, Tensor<const T>,                     \
                             const MlpTransposed<T>&, const MlpE4m3<T>&, const VisitActs<T>&,  \
                             Tensor<const T>, Tensor<T>, Tensor<T>, const Layer<Accum<T>>&,    \
                             Tensor<Accum<T>>, const Lora<T>*, Tensor<T>, const E4m3Rows&);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

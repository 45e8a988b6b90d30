#include "fairway/eval/evaluate.h"

#include <algorithm>
#include <chrono>
#include <type_traits>

#include "fairway/base/fields.h"
#include "fairway/device/run_types.h"
#include "fairway/eval/ttt.h"

namespace fairway {

namespace {

template <class T, class Device>
MatmulPrecision products_read(const Device& device, E4m3Mlp mlp) {
  if (mlp != E4m3Mlp::off) return MatmulPrecision::float8;
  if constexpr (std::is_same_v<Device, CpuDevice>)
    if (device.precision() == MatmulPrecision::bfloat16) return MatmulPrecision::bfloat16;
  return std::is_same_v<T, bf16> ? MatmulPrecision::bfloat16 : MatmulPrecision::float32;
}

}  // namespace

template <class Device, class T>
Evaluation evaluate(Device& device, const ModelConfig& model, const Weights<const T>& weights,
                    const TokenStream& stream, uint16_t bos, const TokenBytes* bytes,
                    const EvalConfig& eval, const TttConfig& ttt, ProcessGroup& group,
                    const std::function<void(const EvalProgress&)>& progress) {
  eval.validate();
  if (eval.mode == EvalMode::ttt) ttt.validate();
  const auto start = std::chrono::steady_clock::now();
  const std::vector<int64_t> starts = stream.find(bos);
  require(!starts.empty(),
          "the data holds no document start (token {}): was it made with another tokenizer?", bos);
  const std::vector<Document> documents = plan_documents(stream.size(), starts, eval.max_docs);
  const Document& last = documents.back();
  const int64_t total = last.begin + last.targets();
  require(total > 0, "the data holds one token: there is nothing to predict");
  int64_t own = 0;
  double own_nats = 0;
  const auto scored = [&](int64_t targets, double nats) {
    own += targets;
    own_nats += nats;
    if (progress)
      progress({std::min(own * group.size(), total), total, own_nats / static_cast<double>(own)});
  };

  const E4m3Mlp mlp = e4m3_mlp<T>(device, model, eval.matmul_precision);
  const Network net(model, eval.loop);
  Evaluation result;
  // Every target is scored at one rank. Elsewhere it is -0, which changes no bit that it is added
  // to.
  result.nll.resize(static_cast<size_t>(total), -0.0f);
  if (eval.mode == EvalMode::ttt) {
    score_ttt(device, net, weights, stream, documents, ttt, eval.pass_tokens, mlp, group,
              result.nll, scored);
  } else {
    const auto windows = eval.mode == EvalMode::chunked
                             ? plan_chunked(documents, eval.batch_tokens, model.max_doc_len)
                             : plan_sliding(documents, eval.window, eval.stride);
    score_windows(device, net, weights, stream, plan_share(windows, group.rank(), group.size()),
                  eval.pass_tokens, mlp, result.nll, scored);
  }
  group.sum(result.nll);
  auto done = static_cast<double>(own);
  group.sum(std::span(&done, 1));
  check(done == static_cast<double>(total), "evaluate: not every target was scored once");
  result.score = score(result.nll, stream, bytes);
  result.score.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.score.device = device.name();
  result.score.matmul_precision = enum_name(products_read<T>(device, mlp));
  result.score.ranks = group.size();
  return result;
}

#define FAIRWAY_INSTANTIATE(Device, T)                                                             \
  template Evaluation evaluate(Device&, const ModelConfig&, const Weights<const T>&,               \
                               const TokenStream&, uint16_t, const TokenBytes*, const EvalConfig&, \
                               const TttConfig&, ProcessGroup&,                                    \
                               const std::function<void(const EvalProgress&)>&);
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

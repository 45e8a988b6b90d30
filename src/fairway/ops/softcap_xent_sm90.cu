#include "fairway/ops/softcap_epilogue_sm90.cuh"
#include "fairway/ops/softcap_xent_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {

void softcap_logits(cudaStream_t stream, const bf16* x, const bf16* w, float cap, int64_t rows,
                    int64_t in, int64_t vocab, bf16* logits, float2* partials) {
  using Config = sm90::WideConfig<sm90::Major::kK, sm90::Major::kK>;
  static_assert(kSoftcapGroup == sm90::kBox);
  if (rows == 0) return;
  require(in > 0 && in % 64 == 0 && vocab > 0 && vocab % 64 == 0,
          "the head's widths must be multiples of 64");
  sm90::wide_product<Config, SoftcapEpilogue>(
      stream, sm90::wide_matrices<Config>(x, w, nullptr, rows, vocab, in, logits), in,
      {cap, 1.0f / cap, partials, static_cast<int>(rows), static_cast<int>(vocab)});
}

}  // namespace fairway::cuda

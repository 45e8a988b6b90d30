#include <type_traits>

#include "fairway/ops/adapters_sm90.cuh"
#include "fairway/ops/qkv_rope_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

constexpr int kHeadDim = 64;  // a chunk of the tile is a head
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The four lanes of a quad hold a head's row: lane l its columns 8 l … 8 l + 7 and 32 further.
//
// With adapters a tile's rows end where its document does.
template <bool kAdapted>
class QkvRopeEpilogue {
 public:
  struct Params {
    QkvRope op;
    int rows, heads, kv_heads, half;
  };

  __device__ __forceinline__ QkvRopeEpilogue(const Params& params, const sm90::GemmTileAt& at)
      : params_(params),
        row_(at.row),
        row_end_(at.row_end),
        column_(at.column % kHeadDim),
        head_(sm90::warp_uniform(at.column / kHeadDim)),
        pairs_(params.half / 8),
        lane_(column_ / 8) {}

  // The angles of this thread's rows, if its columns rotate.
  __device__ __forceinline__ void early(int h) {
    if (h >= 2) return;
    const QkvRope& op = params_.op;
    const bool loads = lane_ < 2 * pairs_ && row_ + 8 * h < row_end();
    const int64_t at = static_cast<int64_t>(row_ + 8 * h) * params_.half + lane_ % pairs_ * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      cosine_[h][i] = loads ? __ldg(reinterpret_cast<const float4*>(op.cosine + at) + i)
                            : make_float4(1, 1, 1, 1);
      sine_[h][i] = loads ? __ldg(reinterpret_cast<const float4*>(op.sine + at) + i)
                          : make_float4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t) {
    const QkvRope& op = params_.op;
    const int q_heads = params_.heads, kv_heads = params_.kv_heads, head = head_ + c;
    const bool is_q = head < q_heads;
    const int own = is_q ? head : head - q_heads;  // among q's, or k's and v's
    if (own < (is_q ? q_heads : kv_heads))
      norm_and_rotate(v, is_q ? op.q_gain[head] : 1.0f, is_q ? op.q_rot : op.k_rot,
                      is_q ? op.rstd_q : op.rstd_k, own, is_q ? q_heads : kv_heads);
    else if (own < 2 * kv_heads)
      store(v, op.v, own - kv_heads, kv_heads);
  }

  __device__ __forceinline__ void finish() {}

 private:
  __device__ __forceinline__ void norm_and_rotate(float (&v)[4][8], float gain, bf16* out,
                                                  float* rstd, int head, int heads) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += v[h][i] * v[h][i] + v[2 + h][i] * v[2 + h][i];
      const float r =
          rsqrtf(sm90::quad_sum(squares) * (1.0f / kHeadDim) + params_.op.eps);  // 2 ulp
      if (lane_ == 0 && row_ + 8 * h < row_end())
        rstd[static_cast<int64_t>(row_ + 8 * h) * heads + head] = r;
      const float g = r * gain;
      const float* cosine = reinterpret_cast<const float*>(cosine_[h]);
      const float* sine = reinterpret_cast<const float*>(sine_[h]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[h][i] *= g;
        v[2 + h][i] *= g;
        // The other half of the pair is `pairs_` lanes away: (x1 cos + x2 sin, x2 cos − x1 sin).
        const float other = __shfl_xor_sync(kAllLanes, v[h][i], pairs_);
        v[h][i] = v[h][i] * cosine[i] + (lane_ < pairs_ ? other : -other) * sine[i];
      }
    }
    store(v, out, head, heads);
  }

  __device__ __forceinline__ void store(const float (&v)[4][8], bf16* out, int head,
                                        int heads) const {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int row = row_ + p % 2 * 8;
      sm90::store_global_16(
          out + (static_cast<int64_t>(row) * heads + head) * kHeadDim + column_ + p / 2 * 32, v[p],
          row < row_end());
    }
  }

  __device__ __forceinline__ int row_end() const {
    return kAdapted ? row_end_ : params_.rows;
  }

  const Params& params_;
  int row_, row_end_, column_, head_, pairs_, lane_;
  float4 cosine_[2][2], sine_[2][2];
};

}  // namespace

bool qkv_rope_fits(int64_t width, int64_t head_dim, int64_t half) {
  return width % 64 == 0 && head_dim == kHeadDim && (half == 8 || half == 16);
}

bool qkv_rope_adapted_fits(int64_t heads, int64_t kv_heads) {
  constexpr int kTileHeads = sm90::WideConfig<>::kTileColumns / kHeadDim;
  return heads % kTileHeads == 0 && kv_heads % kTileHeads == 0;
}

void qkv_rope(cudaStream_t stream, const QkvRope& op, const AdapterOperands* adapters) {
  if (op.rows == 0) return;
  require(qkv_rope_fits(op.width, kHeadDim, op.half), "qkv_rope: a shape without a kernel");
  const auto launch = [&]<bool kAdapted>(std::bool_constant<kAdapted>) {
    using Config = sm90::WideConfig<1, 3, kAdapted>;
    const int64_t q = op.heads * kHeadDim, kv = op.kv_heads * kHeadDim;
    sm90::WideMatrices<Config> matrices{{sm90::tensor_map(op.n, op.rows, op.width, op.width)}, {}};
    // What is left out has no columns, but the end of a last tile may reach into it: any map will
    // do.
    const bf16* const w[3] = {q > 0 ? op.wq : op.wk, kv > 0 ? op.wk : op.wq,
                              kv > 0 ? op.wv : op.wq};
    const int64_t columns[3] = {q > 0 ? q : kv, kv > 0 ? kv : q, kv > 0 ? kv : q};
    for (int i = 0; i < 3; ++i)
      matrices.b[i] = sm90::tensor_map_fragments(w[i], columns[i], op.width, op.width);
    sm90::WideSchedule schedule{};
    schedule.k_blocks = static_cast<int>(op.width / Config::kBlockK);
    schedule.along_n.begin[1] = static_cast<int>(op.heads);
    schedule.along_n.begin[2] = static_cast<int>(op.heads + op.kv_heads);
    sm90::WideAdapters<Config> added{};
    int64_t rows = op.rows;
    if constexpr (kAdapted) {
      require(qkv_rope_adapted_fits(op.heads, op.kv_heads), "qkv_rope: heads without a kernel");
      added = wide_adapters<Config>(*adapters, op.rows);
      rows = adapters->row_tiles * sm90::kTileRows;
    }
    sm90::wide_launch<Config, QkvRopeEpilogue<kAdapted>>(
        stream, matrices, rows, q + 2 * kv, schedule,
        {op, static_cast<int>(op.rows), static_cast<int>(op.heads), static_cast<int>(op.kv_heads),
         static_cast<int>(op.half)},
        added);
  };
  if (adapters)
    launch(std::true_type{});
  else
    launch(std::false_type{});
}

}  // namespace fairway::cuda

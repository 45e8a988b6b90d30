#include <type_traits>

#include "fairway/ops/linear_xsa_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

constexpr int kHeadDim = 64;  // a chunk of the tile is a head
constexpr int kTileHeads = sm90::WideConfig<>::kTileColumns / kHeadDim;
constexpr float kLargestInverse = 1e12f;  // of ‖v‖
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Each number's sum over the four lanes that hold a head's row; together, so that one's shuffles
// fill the wait for the other's.
template <int kCount>
__device__ __forceinline__ void quad_sums(float (&x)[kCount]) {
#pragma unroll
  for (int lanes = 1; lanes <= 2; lanes *= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] += __shfl_xor_sync(kAllLanes, x[i], lanes);
  }
}

// 8 elements.
__device__ __forceinline__ void unpack(const uint4& packed, uint32_t zero, float (&x)[8]) {
  const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto [low, high] = sm90::unpack_bf16_late(pairs[i], zero);
    x[2 * i] = low;
    x[2 * i + 1] = high;
  }
}

// A chunk of the product is dy2 of one query head; kGroup of them share a value. With c =
// (dy2·v̂)/‖v‖ and s = (y·v̂)/‖v‖, both 0 where v is,
//   dy = dy2 − c v,   dv = −Σ_heads [c y2 + s dy2 ∓ s c v]:
// minus because dy2 = dy + c v, and plus where the norm was clamped (see xsa_cuda.cu's `back`).
template <int kGroup>
class XsaBackwardEpilogue {
  static constexpr int kGroups = kTileHeads / kGroup;
  // Chunks that are loaded before the first one's turn; each loads one more.
  static constexpr int kAhead = 1;

 public:
  struct Params {
    LinearXsaBackward op;
    CUtensorMap y2, v;
    int rows, heads, kv_heads;
  };

  __device__ __forceinline__ XsaBackwardEpilogue(const Params& params, const sm90::GemmTileAt& at)
      : params_(params),
        row_(at.row),
        head_(at.column / kHeadDim),
        lane_(at.column % kHeadDim / 8),
        y_at_(at, params.rows, params.heads * kHeadDim),
        v_at_(value_at(at), params.rows, params.kv_heads * kHeadDim) {}

  __device__ __forceinline__ void early(int c) {
    if (c == 0) {
      const int rows = params_.rows, heads = params_.heads;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t row = row_ + 8 * h;
        const bool valid = row < rows && head_ + lane_ < heads;
        y_dot_v_[h] = valid ? params_.op.y_dot_v[row * heads + head_ + lane_] : 0.0f;
      }
    }
    if (c < kAhead) {
      load(c);
    } else if (row_ % sm90::kBox == 0 && lane_ == 0) {
      // The rest has the time of the products to come to the second cache: one thread asks for the
      // warpgroup's rows.
      sm90::tma_prefetch_2d(&params_.y2, (head_ + c) * kHeadDim, row_);
      if (c % kGroup == 0) sm90::tma_prefetch_2d(&params_.v, (head_ + c) / kGroup * kHeadDim, row_);
    }
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
    if (c == 0) zero_ = zero;
    const int group = c / kGroup;
    const bool first = c % kGroup == 0, last = c % kGroup == kGroup - 1;
    float dot[4] = {}, squares[2] = {};  // dy2·y2 of both rows, dy2·v; ‖v‖²
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      float y[8], value[8];
      unpack(y_[c][p], zero_, y);
      unpack(v_[group][p], zero_, value);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        dot[p % 2] += v[p][i] * y[i];
        dot[2 + p % 2] += v[p][i] * value[i];
        if (first) squares[p % 2] += value[i] * value[i];
      }
    }
    quad_sums(dot);
    if (first) begin_group(squares);
    float along[2], s[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      along[h] = dot[2 + h] * inverse_[h] * inverse_[h];
      s[h] = __shfl_sync(kAllLanes, y_dot_v_[h], c, 4) * inverse_[h];
      const float factor = s[h] * along[h];
      of_value_[h] += inverse_[h] < kLargestInverse ? -factor : factor;
    }
    forget(along[0]);
    load(c + kAhead);
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      float y[8], value[8];
      unpack(y_[c][p], zero_, y);
      unpack(v_[group][p], zero_, value);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        dv_[p][i] -= along[p % 2] * y[i] + s[p % 2] * v[p][i];
        v[p][i] -= along[p % 2] * value[i];
        if (last) dv_[p][i] -= of_value_[p % 2] * value[i];
      }
      sm90::store_global_16(params_.op.dy + y_at_.offset(c, p), v[p], y_at_.has_row(p));
      if (last)
        sm90::store_global_16(params_.op.dv + v_at_.offset(group, p), dv_[p], v_at_.has_row(p));
    }
    const int row = row_ + 8 * lane_;
    if (lane_ < 2 && row < params_.rows && head_ + c < params_.heads)
      params_.op.delta[static_cast<int64_t>(head_ + c) * params_.rows + row] =
          lane_ == 0 ? dot[0] : dot[1];
    forget(along[1]);
  }

  __device__ __forceinline__ void finish() {}

 private:
  // The tile's first value head, of which there are fewer.
  static __device__ __forceinline__ sm90::GemmTileAt value_at(sm90::GemmTileAt at) {
    const int lane_column = at.column % kHeadDim;
    at.column = (at.column - lane_column) / kGroup + lane_column;
    return at;
  }

  // What chunk c needs, if there is such a chunk.
  __device__ __forceinline__ void load(int c) {
    if (c >= kTileHeads) return;
#pragma unroll
    for (int p = 0; p < 4; ++p)
      y_[c][p] = sm90::load_global_16(params_.op.y2 + y_at_.offset(c, p), y_at_.valid(c, p));
    if (c % kGroup != 0) return;
    const int group = c / kGroup;
#pragma unroll
    for (int p = 0; p < 4; ++p)
      v_[group][p] =
          sm90::load_global_16(params_.op.v + v_at_.offset(group, p), v_at_.valid(group, p));
  }

  // Makes zero_ depend on `x`. To unpack once more costs less than to keep the numbers: the
  // compiler does not know that zero_ is what it was, and so not that they are.
  __device__ __forceinline__ void forget(float x) {
    zero_ &= __float_as_uint(x);
  }

  __device__ __forceinline__ void begin_group(float (&squares)[2]) {
    quad_sums(squares);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      inverse_[h] = fminf(rsqrtf(squares[h]), kLargestInverse);  // 2 ulp
      of_value_[h] = 0;
    }
#pragma unroll
    for (int p = 0; p < 4; ++p)
#pragma unroll
      for (int i = 0; i < 8; ++i) dv_[p][i] = 0;
  }

  const Params& params_;
  int row_, head_, lane_;
  sm90::TileElements y_at_, v_at_;
  float y_dot_v_[2];  // of head `lane_`
  uint4 y_[kTileHeads][4], v_[kGroups][4];
  uint32_t zero_;
  float inverse_[2];  // 1/max(‖v‖, 1e-12)
  float dv_[4][8];
  float of_value_[2];  // v's factor in −dv
};

}  // namespace

bool linear_xsa_backward_fits(int64_t width, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  const int64_t group = heads / kv_heads;
  return width % 64 == 0 && head_dim == kHeadDim && (group == 1 || group == 2 || group == 4);
}

void linear_xsa_backward(cudaStream_t stream, const LinearXsaBackward& op) {
  if (op.rows == 0) return;
  require(linear_xsa_backward_fits(op.width, op.heads, op.kv_heads, kHeadDim),
          "linear_xsa_backward: a shape without a kernel");
  const int64_t columns = op.heads * kHeadDim, kv_columns = op.kv_heads * kHeadDim;
  const auto launch = [&]<int kGroup>(std::integral_constant<int, kGroup>) {
    sm90::wide_launch<XsaBackwardEpilogue<kGroup>>(
        stream, op.dout, op.w_transposed, op.rows, columns, op.width,
        {op, sm90::tensor_map(op.y2, op.rows, columns, columns),
         sm90::tensor_map(op.v, op.rows, kv_columns, kv_columns), static_cast<int>(op.rows),
         static_cast<int>(op.heads), static_cast<int>(op.kv_heads)});
  };
  switch (op.heads / op.kv_heads) {
    case 1:
      return launch(std::integral_constant<int, 1>{});
    case 2:
      return launch(std::integral_constant<int, 2>{});
    default:
      return launch(std::integral_constant<int, 4>{});
  }
}

}  // namespace fairway::cuda

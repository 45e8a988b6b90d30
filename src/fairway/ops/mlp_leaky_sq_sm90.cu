#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "fairway/sm90/epilogues.cuh"
#include "fairway/sm90/gemm_launch.cuh"

namespace fairway::cuda {
namespace {

using sm90::GemmConfig;
using sm90::GemmMaps;
using sm90::GemmSchedule;
using sm90::GemmTileAt;
using sm90::Major;

__device__ __forceinline__ float fast_sqrt(float x) {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

// A thread's signs of its tile: one word per chunk, the bit of accumulator i at 31 - i, 1 for
// negative. Both kernels have the same tiles, so a thread reads back what its like wrote.
struct Signs {
  uint32_t word[4];
};

template <class Config, bool kKeepSigns>
class LeakySqEpilogue {
 public:
  struct Params {
    const float* row_scale;
    uint4* signs;  // [GemmTileAt::slot]
    int rows;
  };
  static constexpr bool kInput = false;

  __device__ __forceinline__ LeakySqEpilogue(const Params& params, const GemmTileAt& at)
      : scale_(params.row_scale, params.rows, at), to_(params.signs + at.slot) {}

  __device__ __forceinline__ void chunk(int c, int, int, float (&v)[32], const uint32_t (&)[16]) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float z = scale_(c, i) * v[i];
      if (kKeepSigns) word = __funnelshift_l(__float_as_uint(z), word, 1);
      const float leaky = fmaxf(z, 0.5f * z);
      v[i] = leaky * leaky;
    }
    signs_.word[c] = word;
  }

  __device__ __forceinline__ void finish() {
    if (kKeepSigns) *to_ = {signs_.word[0], signs_.word[1], signs_.word[2], signs_.word[3]};
  }

 private:
  sm90::RowScale<Config> scale_;
  uint4* to_;
  Signs signs_;
};

template <class Config>
class LeakySqBackwardEpilogue {
 public:
  struct Params {
    const uint4* signs;
  };
  static constexpr bool kInput = true;

  __device__ __forceinline__ LeakySqBackwardEpilogue(const Params& params, const GemmTileAt& at) {
    const uint4 signs = __ldg(params.signs + at.slot);
    signs_ = {signs.x, signs.y, signs.z, signs.w};
  }

  __device__ __forceinline__ void chunk(int c, int, int, float (&v)[32], const uint32_t (&in)[16]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float2 pair = sm90::unpack_bf16(in[i / 2]);
      const float root = fast_sqrt(i % 2 == 0 ? pair.x : pair.y);
      const bool negative = (signs_.word[c] & (0x80000000u >> i)) != 0;
      v[i] *= root * (negative ? -1.0f : 2.0f);
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  Signs signs_;
};

template <bool kResident>
using UpConfig = GemmConfig<kResident, Major::kK, Major::kK>;
template <bool kResident>
using DownBackwardConfig = GemmConfig<kResident, Major::kK, Major::kMN>;

bool resident(int64_t width) {
  return width <= sm90::kMaxResidentBlocks * sm90::kBlockK;
}

void require_widths(int64_t width, int64_t hidden_width) {
  sm90::launch_require(width > 0 && hidden_width > 0 && width % 64 == 0 && hidden_width % 64 == 0,
                       "an MLP's widths must be multiples of 64");
}

template <class Config, class Epilogue>
void run(cudaStream_t stream, const GemmMaps<1>& maps, int64_t rows, int64_t width,
         int64_t hidden_width, const typename Epilogue::Params& params) {
  const GemmSchedule schedule = sm90::gemm_schedule<Config>(
      rows, sm90::ceil_div(hidden_width, Config::kTileColumns),
      static_cast<int>(width / sm90::kBlockK), sm90::gemm_clusters<Config, Epilogue>());
  sm90::gemm_launch<Config, Epilogue>(stream, maps, schedule, params);
}

}  // namespace

size_t leaky_sq_sign_bytes(int64_t rows, int64_t width, int64_t hidden_width) {
  const int columns =
      resident(width) ? UpConfig<true>::kTileColumns : UpConfig<false>::kTileColumns;
  // Whole pairs of row tiles: a cluster's two blocks.
  const int64_t tile_rows =
      int64_t{sm90::ceil_div(rows, 2 * sm90::kTileRows)} * 2 * sm90::kTileRows;
  return static_cast<size_t>(tile_rows * sm90::ceil_div(hidden_width, columns) * columns / 8);
}

void leaky_sq_up(cudaStream_t stream, const bf16* n, const bf16* wup, const float* row_scale,
                 int64_t rows, int64_t width, int64_t hidden_width, bf16* hidden, void* signs) {
  if (rows == 0) return;
  require_widths(width, hidden_width);
  GemmMaps<1> maps;
  maps.a[0] = sm90::tensor_map(n, rows, width, width);
  maps.b[0] = sm90::tensor_map(wup, hidden_width, width, width);
  maps.c[0] = maps.input = sm90::tensor_map(hidden, rows, hidden_width, hidden_width);
  const auto launch = [&]<class Config>() {
    auto* bits = static_cast<uint4*>(signs);
    const int count = static_cast<int>(rows);
    if (signs != nullptr)
      run<Config, LeakySqEpilogue<Config, true>>(stream, maps, rows, width, hidden_width,
                                                 {row_scale, bits, count});
    else
      run<Config, LeakySqEpilogue<Config, false>>(stream, maps, rows, width, hidden_width,
                                                  {row_scale, bits, count});
  };
  if (resident(width))
    launch.template operator()<UpConfig<true>>();
  else
    launch.template operator()<UpConfig<false>>();
}

void leaky_sq_down_backward(cudaStream_t stream, const bf16* dm, const bf16* wdown,
                            const bf16* hidden, const void* signs, int64_t rows, int64_t width,
                            int64_t hidden_width, bf16* dz) {
  if (rows == 0) return;
  require_widths(width, hidden_width);
  GemmMaps<1> maps;
  maps.a[0] = sm90::tensor_map(dm, rows, width, width);
  maps.b[0] = sm90::tensor_map(wdown, width, hidden_width, hidden_width);
  maps.c[0] = sm90::tensor_map(dz, rows, hidden_width, hidden_width);
  maps.input = sm90::tensor_map(hidden, rows, hidden_width, hidden_width);
  const auto launch = [&]<class Config>() {
    run<Config, LeakySqBackwardEpilogue<Config>>(stream, maps, rows, width, hidden_width,
                                                 {static_cast<const uint4*>(signs)});
  };
  if (resident(width))
    launch.template operator()<DownBackwardConfig<true>>();
  else
    launch.template operator()<DownBackwardConfig<false>>();
}

}  // namespace fairway::cuda

#include "fairway/ops/linear_sm90.cuh"
#include "fairway/sm90/epilogues.cuh"
#include "fairway/sm90/gemm_launch.cuh"

namespace fairway::cuda {
namespace {

using sm90::AddEpilogue;
using sm90::GemmConfig;
using sm90::GemmMaps;
using sm90::GemmSchedule;
using sm90::Major;
using sm90::StoreEpilogue;

// B is [N, K] for a forward product (contiguous along K), [K, N] for a backward one.
template <Major kMajorB, int kSegments = 1>
using Resident = GemmConfig<true, Major::kK, kMajorB, kSegments>;
template <Major kMajorB, int kSegments = 1>
using Streamed = GemmConfig<false, Major::kK, kMajorB, kSegments>;

void require_widths(int64_t n, int64_t k) {
  sm90::launch_require(n > 0 && k > 0 && n % 64 == 0 && k % 64 == 0,
                       "a matrix product's widths must be multiples of 64");
}

template <class Config, template <class> class Epilogue>
void run(cudaStream_t stream, const GemmMaps<1>& maps, int64_t m, int64_t n, int64_t k,
         const typename Epilogue<Config>::Params& params) {
  const GemmSchedule schedule = sm90::gemm_schedule<Config>(
      m, sm90::ceil_div(n, Config::kTileColumns), static_cast<int>(k / sm90::kBlockK),
      sm90::gemm_clusters<Config, Epilogue<Config>>());
  sm90::gemm_launch<Config, Epilogue<Config>>(stream, maps, schedule, params);
}

// c [m, n] = row_scale · a b, or input + column_scale · a b with `input`.
template <Major kMajorB>
void product(cudaStream_t stream, const bf16* a, const bf16* b, const bf16* input,
             const float* row_scale, const float* column_scale, int64_t m, int64_t n, int64_t k,
             bf16* c) {
  if (m == 0) return;
  require_widths(n, k);
  GemmMaps<1> maps;
  maps.a[0] = sm90::tensor_map(a, m, k, k);
  maps.b[0] = kMajorB == Major::kK ? sm90::tensor_map(b, n, k, k) : sm90::tensor_map(b, k, n, n);
  maps.c[0] = sm90::tensor_map(c, m, n, n);
  maps.input = sm90::tensor_map(input != nullptr ? input : c, m, n, n);
  const int rows = static_cast<int>(m), columns = static_cast<int>(n);
  const bool resident = k <= sm90::kMaxResidentBlocks * sm90::kBlockK;
  if (input == nullptr) {
    if (resident)
      run<Resident<kMajorB>, StoreEpilogue>(stream, maps, m, n, k, {row_scale, rows});
    else
      run<Streamed<kMajorB>, StoreEpilogue>(stream, maps, m, n, k, {row_scale, rows});
  } else {
    if (resident)
      run<Resident<kMajorB>, AddEpilogue>(stream, maps, m, n, k, {column_scale, columns});
    else
      run<Streamed<kMajorB>, AddEpilogue>(stream, maps, m, n, k, {column_scale, columns});
  }
}

}  // namespace

void linear(cudaStream_t stream, const bf16* x, const bf16* w, const float* row_scale, int64_t rows,
            int64_t in, int64_t out, bf16* y) {
  product<Major::kK>(stream, x, w, nullptr, row_scale, nullptr, rows, out, in, y);
}

void linear_add(cudaStream_t stream, const bf16* x, const bf16* w, const bf16* residual,
                const float* column_scale, int64_t rows, int64_t in, int64_t out, bf16* y) {
  product<Major::kK>(stream, x, w, residual, nullptr, column_scale, rows, out, in, y);
}

void linear_backward_input(cudaStream_t stream, const bf16* dy, const bf16* w, int64_t rows,
                           int64_t in, int64_t out, bool accumulate, bf16* dx) {
  product<Major::kMN>(stream, dy, w, accumulate ? dx : nullptr, nullptr, nullptr, rows, in, out,
                      dx);
}

void linear_three(cudaStream_t stream, const bf16* x, const bf16* const w[3],
                  const float* row_scale, int64_t rows, int64_t in, const int64_t out[3],
                  bf16* const y[3]) {
  using Config = Resident<Major::kK, 3>;
  using Epilogue = StoreEpilogue<Config>;
  if (rows == 0) return;
  sm90::launch_require(in <= sm90::kMaxResidentBlocks * sm90::kBlockK,
                       "three products of one input: the input may be 512 wide at most");
  GemmMaps<3> maps;
  maps.a[0] = maps.a[1] = maps.a[2] = sm90::tensor_map(x, rows, in, in);
  int tiles = 0, begin[3];
  for (int i = 0; i < 3; ++i) {
    require_widths(out[i], in);
    maps.b[i] = sm90::tensor_map(w[i], out[i], in, in);
    maps.c[i] = sm90::tensor_map(y[i], rows, out[i], out[i]);
    begin[i] = tiles;
    tiles += sm90::ceil_div(out[i], Config::kTileColumns);
  }
  maps.input = maps.c[0];
  GemmSchedule schedule = sm90::gemm_schedule<Config>(
      rows, tiles, static_cast<int>(in / sm90::kBlockK), sm90::gemm_clusters<Config, Epilogue>());
  for (int i = 0; i < 3; ++i) schedule.segment_begin[i] = begin[i];
  sm90::gemm_launch<Config, Epilogue>(stream, maps, schedule, {row_scale, static_cast<int>(rows)});
}

void linear_three_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                 const bf16* const w[3], int64_t rows, int64_t in,
                                 const int64_t out[3], bool accumulate, bf16* dx) {
  using Config = Streamed<Major::kMN, 3>;
  if (rows == 0) return;
  GemmMaps<3> maps;
  int blocks = 0, begin[3];
  for (int i = 0; i < 3; ++i) {
    require_widths(in, out[i]);
    maps.a[i] = sm90::tensor_map(dy[i], rows, out[i], out[i]);
    maps.b[i] = sm90::tensor_map(w[i], out[i], in, in);
    begin[i] = blocks;
    blocks += static_cast<int>(out[i] / sm90::kBlockK);
  }
  maps.c[0] = maps.c[1] = maps.c[2] = maps.input = sm90::tensor_map(dx, rows, in, in);
  const auto launch = [&]<class Epilogue>(const typename Epilogue::Params& params) {
    GemmSchedule schedule =
        sm90::gemm_schedule<Config>(rows, sm90::ceil_div(in, Config::kTileColumns), blocks,
                                    sm90::gemm_clusters<Config, Epilogue>());
    for (int i = 0; i < 3; ++i) schedule.segment_begin[i] = begin[i];
    sm90::gemm_launch<Config, Epilogue>(stream, maps, schedule, params);
  };
  if (accumulate)
    launch.template operator()<AddEpilogue<Config>>({nullptr, static_cast<int>(in)});
  else
    launch.template operator()<StoreEpilogue<Config>>({nullptr, static_cast<int>(rows)});
}

}  // namespace fairway::cuda

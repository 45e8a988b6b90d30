#include "fairway/device/cuda_matmul.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <tuple>
#include <type_traits>
#include <vector>

#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_matmul_choice.h"

namespace fairway {

namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
// Rows that the kernel of a `rows_independent` product is chosen for: those of the measurements
// behind choose_kernel, for which cuBLASLt offers the kernels that were measured.
constexpr int64_t kCanonicalRows = 98304;
constexpr int kOffers = 8;  // kernels to choose from: asked for more, cuBLASLt lists no more

static_assert(kTile176x128 == CUBLASLT_MATMUL_TILE_176x128);

void check_lt(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail("cuBLASLt: {}: {}", what, cublasLtGetStatusString(status));
}

template <class T>
constexpr cudaDataType_t kType = CUDA_R_32F;
template <>
constexpr cudaDataType_t kType<bf16> = CUDA_R_16BF;

// A cuBLASLt descriptor that frees itself.
template <class T, cublasStatus_t (*destroy)(T)>
struct Handle {
  T value = nullptr;
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (value) destroy(value);
  }
};
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Operation = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class T>
int alignment_of(const T* data, int64_t ld, int64_t stride) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) |
                        static_cast<uint64_t>(ld | stride) * sizeof(T) | uint64_t{256};
  return 1 << std::countr_zero(bits);
}

// rows × cols of a row-major matrix, seen by column-major cuBLASLt as its transpose.
void make_layout(Layout& out, cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld,
                 int64_t batch, int64_t stride) {
  check_lt(cublasLtMatrixLayoutCreate(&out.value, type, static_cast<uint64_t>(cols),
                                      static_cast<uint64_t>(rows), ld),
           "describing a matrix");
  if (batch == 1) return;
  const auto count = static_cast<int32_t>(batch);
  check_lt(cublasLtMatrixLayoutSetAttribute(out.value, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                            sizeof count),
           "describing a batch");
  check_lt(cublasLtMatrixLayoutSetAttribute(out.value, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                            &stride, sizeof stride),
           "describing a batch");
}

template <class V>
void set(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t key, V value) {
  check_lt(cublasLtMatmulPreferenceSetAttribute(p, key, &value, sizeof value), "preferences");
}

// 0 if the kernel cannot be used or does not tell.
int tile_of(const cublasLtMatmulHeuristicResult_t& offer) {
  if (offer.state != CUBLAS_STATUS_SUCCESS) return 0;
  uint32_t tile = 0;
  size_t written = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
      &offer.algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof tile, &written);
  return status == CUBLAS_STATUS_SUCCESS ? static_cast<int>(tile) : 0;
}

}  // namespace

struct CudaMatmul::Impl {
  // Types, transpositions, rows (0 if independent), n, k, batch, accumulation, alignments of A, B,
  // C.
  using Key =
      std::tuple<int, int, bool, bool, int64_t, int64_t, int64_t, int64_t, bool, int, int, int>;
  std::map<Key, cublasLtMatmulAlgo_t> kernels;
  cublasLtHandle_t handle = nullptr;
};

CudaMatmul::CudaMatmul() : impl_(std::make_unique<Impl>()) {
  check_lt(cublasLtCreate(&impl_->handle), "starting");
}

CudaMatmul::~CudaMatmul() {
  cublasLtDestroy(impl_->handle);
}

template <class T, class C>
void cuda_matmul(CudaDevice& device, const CudaMatmulShape& s, CudaMatrix<T> a, CudaMatrix<T> b,
                 const C* c, C* d, int64_t ldc, float alpha, float beta, int64_t stride_c) {
  if (s.m == 0 || s.n == 0) return;
  CudaMatmul::Impl& lt = device.matmul().impl();
  // Row-major C = A B is column-major Cᵀ = Bᵀ Aᵀ: B comes first.
  Operation op;
  check_lt(cublasLtMatmulDescCreate(&op.value, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing");
  const cublasOperation_t transpose_b = b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t transpose_a = a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  check_lt(cublasLtMatmulDescSetAttribute(op.value, CUBLASLT_MATMUL_DESC_TRANSA, &transpose_b,
                                          sizeof transpose_b),
           "describing");
  check_lt(cublasLtMatmulDescSetAttribute(op.value, CUBLASLT_MATMUL_DESC_TRANSB, &transpose_a,
                                          sizeof transpose_a),
           "describing");
  const auto layouts = [&](int64_t m, Layout& la, Layout& lb, Layout& lc) {
    make_layout(la, kType<T>, a.transposed ? s.k : m, a.transposed ? m : s.k, a.ld, s.batch,
                a.stride);
    make_layout(lb, kType<T>, b.transposed ? s.n : s.k, b.transposed ? s.k : s.n, b.ld, s.batch,
                b.stride);
    make_layout(lc, kType<C>, m, s.n, ldc, s.batch, stride_c);
  };
  Layout la, lb, lc;
  layouts(s.m, la, lb, lc);

  const int align_a = alignment_of(a.data, a.ld, a.stride),
            align_b = alignment_of(b.data, b.ld, b.stride),
            align_c = std::min(alignment_of(c, ldc, stride_c), alignment_of(d, ldc, stride_c));
  const int64_t chosen_rows = s.rows_independent ? kCanonicalRows : s.m;
  const CudaMatmul::Impl::Key key{kType<T>,    kType<C>, a.transposed, b.transposed,
                                  chosen_rows, s.n,      s.k,          s.batch,
                                  beta != 0,   align_a,  align_b,      align_c};
  auto found = lt.kernels.find(key);
  if (found == lt.kernels.end()) {
    Layout ca, cb, cc;
    layouts(chosen_rows, ca, cb, cc);
    Preference preference;
    check_lt(cublasLtMatmulPreferenceCreate(&preference.value), "preferences");
    set(preference.value, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        static_cast<uint32_t>(align_b));
    set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        static_cast<uint32_t>(align_a));
    set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        static_cast<uint32_t>(align_c));
    set(preference.value, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        static_cast<uint32_t>(align_c));
    // Sums that are cut over k may be added up in any order; outputs that accumulate in float32
    // allow it in a fixed order through the workspace.
    set(preference.value, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(s.rows_independent ? CUBLASLT_REDUCTION_SCHEME_NONE
                                                 : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    std::array<cublasLtMatmulHeuristicResult_t, kOffers> offers{};
    int results = 0;
    check_lt(
        cublasLtMatmulAlgoGetHeuristic(lt.handle, op.value, cb.value, ca.value, cc.value, cc.value,
                                       preference.value, kOffers, offers.data(), &results),
        "choosing a kernel");
    require(results > 0, "cuBLASLt: no kernel for a product of {} x {} x {}", s.m, s.n, s.k);
    size_t chosen = 0;
    // The measurements behind choose_kernel are of single products: bf16 to bf16 with independent
    // rows, to float32 without.
    if (device.capability() == 90 && std::is_same_v<T, bf16> && s.batch == 1 &&
        std::is_same_v<C, bf16> == s.rows_independent) {
      std::vector<int> tiles(static_cast<size_t>(results));
      std::transform(offers.begin(), offers.begin() + results, tiles.begin(), tile_of);
      chosen = choose_kernel({s.n, s.k, s.rows_independent, beta != 0}, tiles);
    }
    found = lt.kernels.emplace(key, offers[chosen].algo).first;
  }
  check_lt(cublasLtMatmul(lt.handle, op.value, &alpha, b.data, lb.value, a.data, la.value, &beta, c,
                          lc.value, d, lc.value, &found->second,
                          device.workspace(Workspace::matmul, kWorkspaceBytes), kWorkspaceBytes,
                          device.stream()),
           "a matrix product");
}

#define FAIRWAY_INSTANTIATE(T, C)                                                              \
  template void cuda_matmul(CudaDevice&, const CudaMatmulShape&, CudaMatrix<T>, CudaMatrix<T>, \
                            const C*, C*, int64_t, float, float, int64_t);
FAIRWAY_INSTANTIATE(float, float)
FAIRWAY_INSTANTIATE(bf16, bf16)
FAIRWAY_INSTANTIATE(bf16, float)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

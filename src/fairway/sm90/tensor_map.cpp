#include "fairway/sm90/tensor_map.h"

#include <cuda_runtime_api.h>

#include "fairway/base/check.h"

namespace fairway::sm90 {
namespace {

// The driver's encoder, found through the runtime so that nothing links against libcuda.
decltype(&cuTensorMapEncodeTiled) find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
  require(
      error == cudaSuccess && found == cudaDriverEntryPointSuccess && function != nullptr,
      "the CUDA driver has no cuTensorMapEncodeTiled: a driver for CUDA 12.0 or later is needed");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

CUtensorMap encode(const bf16* matrix, int rank, const cuuint64_t* sizes,
                   const cuuint64_t* stride_bytes, const cuuint32_t* box) {
  static const auto encoder = find_encoder();
  const CUtensorMapSwizzle swizzle = box[0] == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : box[0] == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                    : CU_TENSOR_MAP_SWIZZLE_32B;
  const cuuint32_t element_strides[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encoder(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(rank),
              const_cast<bf16*>(matrix), sizes, stride_bytes, box, element_strides,
              CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error {} ([{}, {}], stride {} bytes)",
          static_cast<int>(result), sizes[1], sizes[0], stride_bytes[0]);
  return map;
}

}  // namespace

CUtensorMap tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride,
                       int box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(stride) * sizeof(bf16)};
  const cuuint32_t box[2] = {kBox, static_cast<cuuint32_t>(box_rows)};
  return encode(matrix, 2, sizes, stride_bytes, box);
}

CUtensorMap tensor_map_3d(const bf16* matrix, int64_t planes, int64_t rows, int64_t columns,
                          int64_t plane_stride, int64_t row_stride, int box_rows, int box_columns) {
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(planes)};
  const cuuint64_t stride_bytes[2] = {static_cast<cuuint64_t>(row_stride) * sizeof(bf16),
                                      static_cast<cuuint64_t>(plane_stride) * sizeof(bf16)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(box_columns),
                             static_cast<cuuint32_t>(box_rows), 1};
  return encode(matrix, 3, sizes, stride_bytes, box);
}

}  // namespace fairway::sm90

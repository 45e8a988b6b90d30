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

// An element type as the encoder names it. The engine only moves e4m3, and zero is zero bits.
template <class T>
constexpr CUtensorMapDataType kDataType = CU_TENSOR_MAP_DATA_TYPE_UINT8;
template <>
constexpr CUtensorMapDataType kDataType<bf16> = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

template <class T>
CUtensorMap encode(const T* matrix, uint32_t rank, const cuuint64_t* sizes,
                   const cuuint64_t* stride_bytes, const cuuint32_t* box,
                   CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  static const auto encoder = find_encoder();
  const cuuint32_t element_strides[5] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encoder(&map, kDataType<T>, rank, const_cast<T*>(matrix), sizes, stride_bytes, box,
              element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error {} ({} columns, stride {} bytes)",
          static_cast<int>(result), sizes[0], stride_bytes[0]);
  return map;
}

// Of boxes of `box_columns` columns.
template <class T>
CUtensorMap encode_2d(const T* matrix, int64_t rows, int64_t columns, int64_t stride, int box_rows,
                      int box_columns, CUtensorMapSwizzle swizzle) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(stride) * sizeof(T)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns),
                             static_cast<cuuint32_t>(box_rows)};
  return encode(matrix, 2, sizes, stride_bytes, box, swizzle);
}

}  // namespace

template <class T>
CUtensorMap tensor_map(const T* matrix, int64_t rows, int64_t columns, int64_t stride,
                       int box_rows) {
  return encode_2d(matrix, rows, columns, stride, box_rows, kBoxWidth<T>,
                   CU_TENSOR_MAP_SWIZZLE_128B);
}

CUtensorMap tensor_map_narrow(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride) {
  return encode_2d(matrix, rows, columns, stride, kBox, kNarrowBox, CU_TENSOR_MAP_SWIZZLE_64B);
}

CUtensorMap tensor_map_narrow_each(const bf16* first, int64_t count, int64_t step, int64_t rows,
                                   int64_t columns, int box_rows) {
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(count)};
  const cuuint64_t stride_bytes[2] = {static_cast<cuuint64_t>(columns) * sizeof(bf16),
                                      static_cast<cuuint64_t>(step) * sizeof(bf16)};
  const cuuint32_t box[3] = {kNarrowBox, static_cast<cuuint32_t>(box_rows), 1};
  return encode(first, 3, sizes, stride_bytes, box, CU_TENSOR_MAP_SWIZZLE_64B);
}

template <class T>
CUtensorMap tensor_map_fragments(const T* matrix, int64_t rows, int64_t columns, int64_t stride) {
  check(rows % kFragmentRows == 0, "tensor_map_fragments: rows");
  const auto row = static_cast<cuuint64_t>(stride) * sizeof(T);
  // Innermost first: column, e, q, j, and the group of 32 rows.
  const cuuint64_t sizes[5] = {static_cast<cuuint64_t>(columns), 2, 4, 4,
                               static_cast<cuuint64_t>(rows / kFragmentRows)};
  const cuuint64_t stride_bytes[4] = {row, 8 * row, 2 * row, kFragmentRows * row};
  const cuuint32_t box[5] = {kBoxWidth<T>, 2, 4, 4, kBox / kFragmentRows};
  return encode(matrix, 5, sizes, stride_bytes, box);
}

#define FAIRWAY_INSTANTIATE(T)                                               \
  template CUtensorMap tensor_map(const T*, int64_t, int64_t, int64_t, int); \
  template CUtensorMap tensor_map_fragments(const T*, int64_t, int64_t, int64_t);
FAIRWAY_INSTANTIATE(bf16)
FAIRWAY_INSTANTIATE(e4m3)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::sm90

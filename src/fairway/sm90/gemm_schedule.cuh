// Which tiles of a matrix product a cluster of two blocks computes, and in which order. The order
// never changes a result: each tile is computed alike wherever and whenever.
#pragma once

#include <cstdint>

namespace fairway::sm90 {

constexpr int kMaxSegments = 3;

// A cluster works on units: two tiles above each other (one per block), at `tiles_per_unit`
// successive column tiles, over one of `splits` parts of K.
struct GemmSchedule {
  int units;
  int groups;  // units beside each other: ceil(column_tiles / tiles_per_unit)
  int tiles_per_unit;
  int column_tiles;
  int row_pairs;
  int k_blocks;  // blocks of 64 along K
  int k_blocks_per_split;
  // Where the second and third segment begin: in column tiles (resident) or k blocks (streamed).
  int segment_begin[kMaxSegments] = {0, INT32_MAX, INT32_MAX};
};

struct GemmSegment {
  int index;
  int offset;  // within the segment
};

template <int kSegments>
__device__ __forceinline__ GemmSegment gemm_segment(const GemmSchedule& schedule, int position) {
  if constexpr (kSegments == 1) {
    return {0, position};
  } else {
    const int index =
        (position >= schedule.segment_begin[1]) + (position >= schedule.segment_begin[2]);
    const int begin = index == 0   ? 0
                      : index == 1 ? schedule.segment_begin[1]
                                   : schedule.segment_begin[2];
    return {index, position - begin};
  }
}

// The tiles of this block, in order; all roles of the block walk the same list.
class GemmWalk {
 public:
  __device__ __forceinline__ explicit GemmWalk(const GemmSchedule& schedule, int rank)
      : schedule_(schedule), rank_(rank), unit_(static_cast<int>(blockIdx.x) / 2) {
    enter();
  }

  __device__ __forceinline__ bool done() const { return unit_ >= schedule_.units; }
  __device__ __forceinline__ void next() {
    if (++column_tile_ < column_end_) return;
    next_unit();
  }
  __device__ __forceinline__ void next_unit() {
    unit_ += static_cast<int>(gridDim.x) / 2;
    ++units_begun_;
    enter();
  }

  __device__ __forceinline__ int row_tile() const { return row_pair_ * 2 + rank_; }
  __device__ __forceinline__ int column_tile() const { return column_tile_; }
  __device__ __forceinline__ bool first_of_unit() const { return column_tile_ == column_begin_; }
  __device__ __forceinline__ bool last_of_unit() const { return column_tile_ + 1 == column_end_; }
  __device__ __forceinline__ bool second_to_last_of_unit() const {
    return column_tile_ + 2 == column_end_;
  }
  // Of this block's units, the place of the current one.
  __device__ __forceinline__ int unit_index() const { return units_begun_; }
  // The place of the unit among all.
  __device__ __forceinline__ int unit() const { return unit_; }
  __device__ __forceinline__ int k_begin() const { return split_ * schedule_.k_blocks_per_split; }
  __device__ __forceinline__ int k_end() const {
    return min(k_begin() + schedule_.k_blocks_per_split, schedule_.k_blocks);
  }

 private:
  __device__ __forceinline__ void enter() {
    const int above = unit_ / schedule_.groups;
    column_begin_ = (unit_ - above * schedule_.groups) * schedule_.tiles_per_unit;
    column_end_ = min(column_begin_ + schedule_.tiles_per_unit, schedule_.column_tiles);
    column_tile_ = column_begin_;
    split_ = above / schedule_.row_pairs;
    row_pair_ = above - split_ * schedule_.row_pairs;
  }

  const GemmSchedule& schedule_;
  int rank_;
  int unit_;
  int units_begun_ = 0;
  int row_pair_, split_;
  int column_begin_, column_tile_, column_end_;
};

}  // namespace fairway::sm90

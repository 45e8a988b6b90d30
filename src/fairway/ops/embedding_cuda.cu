// The backward sorts the rows by token, keeping their order, and sums each token's gradients in
// that order: first in pieces of kPiece rows, then piece by piece. The norm's backward is linear in
// dx0, and all rows of a token share x and rstd: it is applied once, to the sum.
#include <climits>

#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/embedding.h"
#include "fairway/ops/rms_norm_cuda.h"

namespace fairway {

namespace {

constexpr int kChunk = 1024;  // rows ranked by one block
constexpr int kPiece = 32;    // a token's rows summed by one warp
constexpr int kScanThreads = 1024;

// rank[t] = how many rows before t, in its chunk, have its token; counts[chunk, token] = how many
// rows of the chunk do.
__global__ __launch_bounds__(kChunk) void rank_kernel(const int32_t* tokens, int64_t T, int64_t V,
                                                      int32_t* rank, int32_t* counts) {
  __shared__ __align__(16) int32_t chunk[kChunk];
  const int i = static_cast<int>(threadIdx.x);
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kChunk + i;
  const int32_t token = t < T ? tokens[t] : -1;
  chunk[i] = token;
  __syncthreads();
  if (t >= T) return;
  int before = 0;
  const int4* quads = reinterpret_cast<const int4*>(chunk);
  for (int q = 0; q < i / 4; ++q) {
    const int4 other = quads[q];
    before += (other.x == token) + (other.y == token) + (other.z == token) + (other.w == token);
  }
  for (int j = i / 4 * 4; j < i; ++j) before += chunk[j] == token;
  rank[t] = before;
  atomicAdd(&counts[blockIdx.x * V + token], 1);
}

// counts[chunk, token] becomes the number of the token's rows in earlier chunks; total[token] is
// that of all its rows.
__global__ __launch_bounds__(kRowThreads) void chunk_scan_kernel(int32_t* counts, int64_t chunks,
                                                                 int64_t V, int32_t* total) {
  constexpr int kUnroll = 8;
  const int64_t v = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (v >= V) return;
  int32_t sum = 0;
  for (int64_t c0 = 0; c0 < chunks; c0 += kUnroll) {
    int32_t n[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) n[u] = c0 + u < chunks ? counts[(c0 + u) * V + v] : 0;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (c0 + u < chunks) counts[(c0 + u) * V + v] = sum;
      sum += n[u];
    }
  }
  total[v] = sum;
}

__device__ __forceinline__ int32_t pieces_of(int32_t rows) {
  return (rows + kPiece - 1) / kPiece;
}

// One block. start[token]: where the token's rows begin in the sorted order; first_piece[token]:
// its first piece; piece_token[piece]; both arrays end with the totals.
__global__ __launch_bounds__(kScanThreads) void token_scan_kernel(const int32_t* total, int64_t V,
                                                                  int32_t* start,
                                                                  int32_t* first_piece,
                                                                  int32_t* piece_token) {
  constexpr int kWarps = kScanThreads / kWarp;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int64_t each = (V + kScanThreads - 1) / kScanThreads, low = thread * each;
  const int64_t high = low + each < V ? low + each : V;
  int32_t rows = 0, pieces = 0;
  for (int64_t v = low; v < high; ++v) {
    rows += total[v];
    pieces += pieces_of(total[v]);
  }
  // Exclusive scans over the threads: within warps, then over the warps.
  int32_t rows_to = rows, pieces_to = pieces;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int32_t r = __shfl_up_sync(kAllLanes, rows_to, offset);
    const int32_t p = __shfl_up_sync(kAllLanes, pieces_to, offset);
    if (lane >= offset) {
      rows_to += r;
      pieces_to += p;
    }
  }
  __shared__ int32_t warp_rows[kWarps], warp_pieces[kWarps];
  if (lane == kWarp - 1) {
    warp_rows[warp] = rows_to;
    warp_pieces[warp] = pieces_to;
  }
  __syncthreads();
  int32_t row = rows_to - rows, piece = pieces_to - pieces;
  for (int w = 0; w < warp; ++w) {
    row += warp_rows[w];
    piece += warp_pieces[w];
  }
  for (int64_t v = low; v < high; ++v) {
    start[v] = row;
    first_piece[v] = piece;
    const int32_t n = total[v];
    row += n;
    for (int32_t end = piece + pieces_of(n); piece < end; ++piece)
      piece_token[piece] = static_cast<int32_t>(v);
  }
  if (thread == kScanThreads - 1) {
    start[V] = row;
    first_piece[V] = piece;
  }
}

__global__ __launch_bounds__(kRowThreads) void place_kernel(const int32_t* tokens, int64_t T,
                                                            int64_t V, const int32_t* rank,
                                                            const int32_t* counts,
                                                            const int32_t* start, int32_t* order) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (t >= T) return;
  const int32_t token = tokens[t];
  order[start[token] + counts[t / kChunk * V + token] + rank[t]] = static_cast<int32_t>(t);
}

// A warp per piece and column tile: sums[piece] = Σ dx0 over the piece's rows, in their order.
template <class T, int kVec>
__global__ __launch_bounds__(kRowThreads) void piece_sum_kernel(
    const T* dx0, int64_t D, int64_t V, const int32_t* order, const int32_t* start,
    const int32_t* first_piece, const int32_t* piece_token, float* sums) {
  constexpr int kUnroll = 4;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int64_t piece = static_cast<int64_t>(blockIdx.x) * (kRowThreads / kWarp) + thread / kWarp;
  if (piece >= first_piece[V]) return;
  const int32_t token = piece_token[piece];
  const int32_t begin = start[token] + static_cast<int32_t>(piece - first_piece[token]) * kPiece;
  const int32_t last = start[token + 1];
  const int32_t end = begin + kPiece < last ? begin + kPiece : last;
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * kWarp + lane) * kVec;
  if (j >= D) return;
  float sum[kVec] = {};
  for (int32_t i0 = begin; i0 < end; i0 += kUnroll) {
    Pack<T, kVec> packs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (i0 + u < end) load<kVec>(dx0 + static_cast<int64_t>(order[i0 + u]) * D + j, packs[u]);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (i0 + u < end) {
        float v[kVec];
        unpack(packs[u], v);
#pragma unroll
        for (int i = 0; i < kVec; ++i) sum[i] += v[i];
      }
    }
  }
  store<kVec>(sums + piece * D + j, sum);
}

// A block per token: the pieces in order, then the norm's backward.
constexpr int kFinishThreads = 128;
template <class T>
__global__ __launch_bounds__(kFinishThreads) void finish_kernel(const T* table, const float* rstd,
                                                                int64_t D, const int32_t* order,
                                                                const int32_t* start,
                                                                const int32_t* first_piece,
                                                                float* sums, float* dtable) {
  const int64_t token = blockIdx.x;
  const int32_t begin = first_piece[token], end = first_piece[token + 1];
  if (begin == end) return;
  const int thread = static_cast<int>(threadIdx.x);
  const T* x = table + token * D;
  float* sum_row = sums + begin * D;  // the first piece's place takes the token's sum
  float dot = 0;
  for (int64_t j = thread; j < D; j += kFinishThreads) {
    float sum = 0;
#pragma unroll 8
    for (int64_t p = begin; p < end; ++p) sum += sums[p * D + j];
    dot += sum * load_one(x + j);
    sum_row[j] = sum;
  }
  __shared__ float of_warp[kFinishThreads / kWarp];
  const float total = block_sum_for_all<kFinishThreads>(dot, of_warp);
  const float r = rstd[order[start[token]]];
  const float along = r * r * (total / static_cast<float>(D));
  for (int64_t j = thread; j < D; j += kFinishThreads)
    dtable[token * D + j] += r * (sum_row[j] - load_one(x + j) * along);
}

}  // namespace

template <class T>
void embed(CudaDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table, double eps,
           Tensor<Accum<T>> rstd, Tensor<T> x0) {
  rms_norm_rows<T>(device, table.data, tokens.data, tokens.size(), table.extent(1), eps, 1.0,
                   rstd.data, x0.data, "embed");
}

template <class T>
void embed_backward(CudaDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table,
                    Tensor<const Accum<T>> rstd, Tensor<const T> dx0, Tensor<Accum<T>> dtable) {
  const int64_t rows = tokens.size(), V = table.extent(0), D = table.extent(1);
  if (rows == 0) return;
  check(rows < INT_MAX, "embed_backward: more rows than an int32 numbers");
  const int64_t chunks = ceil_div(rows, kChunk);
  const int64_t most_pieces = std::min(rows, V + rows / kPiece);  // Σ ceil(n/kPiece) over tokens

  // Everything lies in one workspace; the sums first, for their alignment.
  const int64_t sums_size = most_pieces * D;
  const int64_t ints = 2 * rows + chunks * V + V + 2 * (V + 1) + most_pieces;
  std::byte* memory =
      device.workspace(Workspace::rows, static_cast<size_t>(sums_size) * sizeof(float) +
                                            static_cast<size_t>(ints) * sizeof(int32_t));
  float* sums = reinterpret_cast<float*>(memory);
  int32_t* next = reinterpret_cast<int32_t*>(sums + sums_size);
  const auto take = [&next](int64_t n) {
    int32_t* p = next;
    next += n;
    return p;
  };
  int32_t *rank = take(rows), *order = take(rows), *counts = take(chunks * V), *total = take(V);
  int32_t *start = take(V + 1), *first_piece = take(V + 1), *piece_token = take(most_pieces);

  device.zero(counts, static_cast<size_t>(chunks * V) * sizeof(int32_t));
  const auto stream = device.stream();
  rank_kernel<<<grid(chunks), kChunk, 0, stream>>>(tokens.data, rows, V, rank, counts);
  cuda_check_launch("embed_backward: rank");
  chunk_scan_kernel<<<grid(ceil_div(V, kRowThreads)), kRowThreads, 0, stream>>>(counts, chunks, V,
                                                                                total);
  cuda_check_launch("embed_backward: chunk scan");
  token_scan_kernel<<<1, kScanThreads, 0, stream>>>(total, V, start, first_piece, piece_token);
  cuda_check_launch("embed_backward: token scan");
  place_kernel<<<grid(ceil_div(rows, kRowThreads)), kRowThreads, 0, stream>>>(
      tokens.data, rows, V, rank, counts, start, order);
  cuda_check_launch("embed_backward: place");
  const unsigned piece_blocks = grid(ceil_div(most_pieces, kRowThreads / kWarp));
  if (D % kPack == 0 && aligned16(dx0.data))
    piece_sum_kernel<T, kPack>
        <<<dim3(piece_blocks, grid(ceil_div(D, kWarp * kPack))), kRowThreads, 0, stream>>>(
            dx0.data, D, V, order, start, first_piece, piece_token, sums);
  else
    piece_sum_kernel<T, 1>
        <<<dim3(piece_blocks, grid(ceil_div(D, kWarp))), kRowThreads, 0, stream>>>(
            dx0.data, D, V, order, start, first_piece, piece_token, sums);
  cuda_check_launch("embed_backward: piece sums");
  finish_kernel<T><<<grid(V), kFinishThreads, 0, stream>>>(table.data, rstd.data, D, order, start,
                                                           first_piece, sums, dtable.data);
  cuda_check_launch("embed_backward: finish");
}

#define FAIRWAY_INSTANTIATE(T)                                                         \
  template void embed<T>(CudaDevice&, Tensor<const int32_t>, Tensor<const T>, double,  \
                         Tensor<Accum<T>>, Tensor<T>);                                 \
  template void embed_backward<T>(CudaDevice&, Tensor<const int32_t>, Tensor<const T>, \
                                  Tensor<const Accum<T>>, Tensor<const T>, Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway

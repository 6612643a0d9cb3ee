// Pairs of voxels on CUDA: a thread looks one kernel element up at one output voxel. Blocks first count what they find, and, once
// the counts are summed up, find it again and write it in order: no list of candidates is kept, and nothing depends on timing.
#include "cuda/kernel.cuh"
#include "cuda/voxel_launch.h"

namespace fusion3d::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) count_block(PairSearch search, int64_t blocks, int64_t* counts) {
  for (int64_t item = blockIdx.x; item < search.searched * blocks; item += gridDim.x) {  // the same for the whole block
    const int64_t out = item % blocks * kThreads + threadIdx.x;
    const int found = __syncthreads_count(search.input(item / blocks, out) >= 0);
    if (threadIdx.x == 0) counts[item] = found;
  }
}

// How many threads of the block below this one have `found` something. Every thread of the block must call it.
__device__ inline int rank_in_block(bool found) {
  __shared__ int warps[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned lanes = __ballot_sync(0xffffffffu, found);
  if (lane == 0) warps[warp] = __popc(lanes);
  __syncthreads();
  int rank = __popc(lanes & ((1u << lane) - 1));
  for (int below = 0; below < warp; ++below) rank += warps[below];
  __syncthreads();  // before the next item's counts
  return rank;
}

__global__ void __launch_bounds__(kThreads)
list_block(PairSearch search, PairPlaces places, bool turned, int64_t* in_rows, int64_t* out_rows) {
  for (int64_t item = blockIdx.x; item < search.searched * places.blocks; item += gridDim.x) {
    const int64_t element = item / places.blocks, out = item % places.blocks * kThreads + threadIdx.x;
    const int64_t in = search.input(element, out);
    const int64_t place = places.start(item) + rank_in_block(in >= 0);
    if (in < 0) continue;
    in_rows[place] = in;
    out_rows[place] = out;
    if (!turned) continue;
    const int64_t opposite = places.opposite(place, element, search.searched, search.outputs);
    in_rows[opposite] = out;
    out_rows[opposite] = in;
  }
}

__global__ void __launch_bounds__(kThreads) list_middle(PairPlaces places, int64_t searched, int64_t voxels, int64_t* in_rows, int64_t* out_rows) {
  const int64_t start = places.element_start(searched);
  for (int64_t voxel = global_thread(); voxel < voxels; voxel += grid_threads()) {
    in_rows[start + voxel] = voxel;
    out_rows[start + voxel] = voxel;
  }
}

inline unsigned grid_of(const PairSearch& search) {
  return unsigned(std::clamp<int64_t>(search.searched * pair_blocks(search.outputs), 1, kMostBlocks));
}

}  // namespace

int64_t pair_blocks(int64_t outputs) { return (outputs + kThreads - 1) / kThreads; }

Status count_pairs(const PairSearch& search, int64_t* counts, void* stream) {
  count_block<<<grid_of(search), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(search, pair_blocks(search.outputs), counts);
  return launched();
}

Status list_pairs(
    const PairSearch& search, const PairPlaces& places, bool turned, int64_t* in_rows, int64_t* out_rows, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  list_block<<<grid_of(search), kThreads, 0, queue>>>(search, places, turned, in_rows, out_rows);
  if (turned)
    list_middle<<<blocks_for(search.outputs), kThreads, 0, queue>>>(places, search.searched, search.outputs, in_rows, out_rows);
  return launched();
}

}  // namespace fusion3d::cuda

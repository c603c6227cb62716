// GEMM 2 of the staircase for Hopper (sm_90a): the same result as plugins/kernels/down.py, for T of 16 bits.
//
// ACM_BFLOAT16, ACM_BLOCK_N, ACM_STAGES and ACM_SHARED_BYTES are set by compile.py.
#include "pipeline.cuh"

namespace acm {

using DownRing = Ring<ACM_BLOCK_N, ACM_STAGES>;
using DownPosition = Position<ACM_STAGES>;
using DownSums = Sums<ACM_BLOCK_N, ACM_STAGES, ACM_BFLOAT16>;

constexpr int kLoaderRegisters = 40;
constexpr int kMultiplierRegisters = 232;  // 128 x 40 + 256 x 232 of the 65,536 registers of a multiprocessor

static_assert(DownRing::kBytes == ACM_SHARED_BYTES, "the host would give another amount of shared memory");

// Run by one thread: copies hidden values through their map {h, N, rows} and W2 through {D, h, N}, from the last
// learner to the first. Returns arrivals[0] as it was before this block's next tile was added; it is added at the last
// learner, whose copies hide the latency of the atomic.
__device__ __forceinline__ int load(const DownRing& ring, const TensorMap* hidden_map, const TensorMap* w2_map,
                                    const DownTile& tile, int steps, int* arrivals, DownPosition& at) {
  int taken = tile.most == 0 ? atomicAdd(arrivals, 1) : 0;
  for (int learner = tile.most - 1; learner >= 0; --learner) {
    if (learner == 0) taken = atomicAdd(arrivals, 1);
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      const Address full = ring.full(at.stage);
      barrier_arrive_expecting(full, DownRing::kBytesStage);
      copy_box(ring.a(at.stage), hidden_map, full, step * kBlockK, learner, tile.row);
      for (int box = 0; box < ACM_BLOCK_N / 64; ++box) {
        copy_box(ring.b(at.stage) + box * kBytesBox, w2_map, full, tile.column + 64 * box, step * kBlockK, learner);
      }
      at.next();
    }
  }
  return taken;
}

// Puts the index of a tile into the queue. Run by the thread that loads.
__device__ __forceinline__ void fill_slot(const DownRing& ring, Position<kSlots>& queue, int index) {
  barrier_wait(ring.taken(queue.stage), queue.parity ^ 1);
  store_shared(ring.tile_index(queue.stage), index);
  barrier_arrive(ring.filled(queue.stage));
  queue.next();
}

// Takes the next index from the queue. Run by the threads that multiply.
__device__ __forceinline__ int take_slot(const DownRing& ring, Position<kSlots>& queue) {
  barrier_wait(ring.filled(queue.stage), queue.parity);
  const int index = load_shared_int(ring.tile_index(queue.stage));
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(ring.taken(queue.stage));
  queue.next();
  return index;
}

// Grid: at most as many blocks as multiprocessors. Each block takes its next tile shortly before it finishes the
// current one. Tiles with many learners come first, so that the short ones balance the blocks at the end. arrivals[0],
// which `up` sets to 0, counts the tiles taken after each block's first.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    down_hopper(const __grid_constant__ TensorMap hidden_map, const __grid_constant__ TensorMap w2_map,
                const int* order, const int* reach, const unsigned short* b2, int* arrivals, unsigned short* y,
                int first_row, int num_rows, int model_dim, int hidden_dim, int num_learners) {
  const DownRing ring;
  ring.init(1);
  next_kernel_may_start();
  wait_for_kernels_before();
  const int steps = ceil_div(hidden_dim, kBlockK);  // of one learner
  const int columns = ceil_div(model_dim, ACM_BLOCK_N);
  const int tiles = ceil_div(num_rows, kBlockM) * columns;
  const auto tile_of = [&](int index) {
    return DownTile(index, columns, ACM_BLOCK_N, reach, first_row, num_rows, num_learners);
  };
  DownPosition at;
  Position<kSlots> queue;
  if (threadIdx.x < 128) {
    registers_release<kLoaderRegisters>();
    if (threadIdx.x == 0) {
      prefetch_map(&hidden_map);
      prefetch_map(&w2_map);
      int index = blockIdx.x;
      while (index < tiles) {
        fill_slot(ring, queue, index);
        index = gridDim.x + load(ring, &hidden_map, &w2_map, tile_of(index), steps, arrivals, at);
      }
      fill_slot(ring, queue, index);
    }
  } else {
    registers_take<kMultiplierRegisters>();
    int index;
    for (int round = 0; (index = take_slot(ring, queue)) < tiles; ++round) {
      const DownTile tile = tile_of(index);
      if (round % 2 != multiplier()) {
        at.skip(tile.most * steps);
        continue;
      }
      int tokens[4];  // of the thread's rows
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = tile.row + row_of(j);
        tokens[j] = row < num_rows ? order[first_row + row] : -1;
      }
      const auto bias_of = [&](int count) { return b2 + static_cast<long long>(count) * model_dim + tile.column; };
      DownSums sums;
      sums.begin(0, bias_of(tile.most), model_dim - tile.column);
      wait_for_turn(ring, round);
      // First the learners that only some of the rows run, one at a time; then all learners that every row runs, at
      // once. After each, the sums of rows that do not run it are reset: 0 times a weight is NaN if it is not finite.
      for (int learner = tile.most;; --learner) {
        const bool rest = learner == tile.fewest;
        sums.add(ring, at, rest ? learner * steps : steps, rest ? ring.turn(1 - multiplier()) : 0);
        if (rest) break;
        sums.begin(reach[learner] - first_row - tile.row, bias_of(learner - 1), model_dim - tile.column);
      }
      sums.store(ring, y + tile.column, tokens, model_dim, model_dim - tile.column, [](float sum) { return sum; });
    }
  }
}

}  // namespace acm

// GEMM 2 of the staircase for Hopper (sm_90a): what plugins/kernels/down.py computes, for T of 16 bits.
//
// ACM_BFLOAT16, ACM_BLOCK_N, ACM_STAGES and ACM_SHARED_BYTES are set by compile.py.
#include "pipeline.cuh"

namespace acm {

using DownRing = Ring<ACM_BLOCK_N, ACM_STAGES>;
using DownPosition = Position<ACM_STAGES>;
using DownSums = Sums<ACM_BLOCK_N, ACM_STAGES, ACM_BFLOAT16>;

constexpr int kLoaderRegisters = 40;
constexpr int kMultiplierRegisters = 232;  // 128 x 40 + 256 x 232 of the 65,536 of a multiprocessor

static_assert(DownRing::kBytes == ACM_SHARED_BYTES, "the host would give another amount of shared memory");

// By one thread: hidden values through their map {h, N, rows} and W2 through {D, h, N}, learners from the last to the
// first.
__device__ __forceinline__ void load(const DownRing& ring, const TensorMap* hidden_map, const TensorMap* w2_map,
                                     const DownTile& tile, int steps, DownPosition& at) {
  for (int learner = tile.most - 1; learner >= 0; --learner) {
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
}

// Drops the sums of rows from `end` on, which do not run a learner: 0 times a weight is NaN where it is not finite.
// `first`: sorted row of the thread's first sum.
__device__ __forceinline__ void drop_rows(DownSums& sums, int first, int end) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < ACM_BLOCK_N / 2; ++i) {
      const int row = first + half * 64 + (i % 4 / 2) * 8;
      if (row >= end) sums.values[half][i] = 0.0f;
    }
  }
}

// Output bias and store of one tile, each row to its token.
__device__ __forceinline__ void store(const DownRing& ring, DownSums& sums, const int* order, const int* counts,
                                      const unsigned short* b2, unsigned short* y, const DownTile& tile, int first_row,
                                      int num_rows, int model_dim) {
  constexpr int kChunks = ACM_BLOCK_N / 8;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 - 4;  // among those that multiply
  const Address staging = ring.staging(warp);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int first = tile.row + half * 64 + warp % 4 * 16;
    const unsigned short* bias[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = min(first + lane / 4 + 8 * j, num_rows - 1);
      bias[j] = b2 + static_cast<long long>(counts[order[first_row + row]]) * model_dim + tile.column;
    }
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int column = column_of(i);
      const bool inside = tile.column + column < model_dim;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float low, high;
        unpack<ACM_BFLOAT16>(inside ? load_in_place(bias[j] + column) : 0, low, high);
        const float* v = &sums.values[half][4 * i + 2 * j];
        store_shared(staging + (lane / 4 + 8 * j) * DownRing::kPitch + 2 * column,
                     pack<ACM_BFLOAT16>(v[0] + low, v[1] + high));
      }
    }
    __syncwarp();
#pragma unroll 4
    for (int i = lane; i < 16 * kChunks; i += 32) {
      const int row = i / kChunks, column = i % kChunks * 8;
      if (first + row < num_rows && tile.column + column < model_dim) {
        const long long token = order[first_row + first + row];
        *reinterpret_cast<uint4*>(y + token * model_dim + tile.column + column) =
            load_shared(staging + row * DownRing::kPitch + 2 * column);
      }
    }
    __syncwarp();
  }
}

// Grid: at most as many blocks as multiprocessors. Rows with many learners come first.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    down_hopper(const __grid_constant__ TensorMap hidden_map, const __grid_constant__ TensorMap w2_map,
                const int* order, const int* counts, const int* reach, const unsigned short* b2, unsigned short* y,
                int first_row, int num_rows, int model_dim, int hidden_dim, int num_learners) {
  const DownRing ring;
  ring.init(1);
  const int columns = ceil_div(model_dim, ACM_BLOCK_N);
  const int steps = ceil_div(hidden_dim, kBlockK);  // of one learner
  const auto tile_of = [&](int round) {
    return DownTile(balanced_index(round), columns, reach, first_row, num_rows, num_learners, ACM_BLOCK_N);
  };
  if (threadIdx.x < 128) {
    registers_release<kLoaderRegisters>();
    if (threadIdx.x == 0) {
      prefetch_map(&hidden_map);
      prefetch_map(&w2_map);
      DownPosition at;
      for (int round = 0;; ++round) {
        const DownTile tile = tile_of(round);
        if (tile.row >= num_rows) break;
        load(ring, &hidden_map, &w2_map, tile, steps, at);
      }
    }
  } else {
    registers_take<kMultiplierRegisters>();
    DownPosition at;
    for (int round = 0;; ++round) {
      const DownTile tile = tile_of(round);
      if (tile.row >= num_rows) break;
      if (round % 2 != multiplier()) {
        at.skip(tile.most * steps);
        continue;
      }
      wait_for_turn(ring, round);
      DownSums sums;
      sums.clear();
      // First the learners that only some of the rows run, one at a time; then, in one go, those that all rows run.
      for (int learner = tile.most;; --learner) {
        const bool rest = learner == tile.fewest;
        sums.add<false>(ring, at, rest ? learner * steps : steps, rest ? ring.turn(1 - multiplier()) : 0);
        if (rest) break;
        const int row = first_row + tile.row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        drop_rows(sums, row, reach[learner]);
      }
      store(ring, sums, order, counts, b2, y, tile, first_row, num_rows, model_dim);
    }
  }
}

}  // namespace acm

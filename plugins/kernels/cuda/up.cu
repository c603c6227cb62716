// GEMM 1 of the staircase for Hopper (sm_90a): the same result as plugins/kernels/up.py, for T of 16 bits.
//
// ACM_BFLOAT16, ACM_BLOCK_N, ACM_STAGES, ACM_SHARED_BYTES and ACM_ACTIVATION are set by compile.py.
#include "activation.cuh"
#include "pipeline.cuh"

namespace acm {

using UpRing = Ring<ACM_BLOCK_N, ACM_STAGES>;
using UpPosition = Position<ACM_STAGES>;
using UpSums = Sums<ACM_BLOCK_N, ACM_STAGES, ACM_BFLOAT16>;

// Of the 65,536 registers of a multiprocessor: 128 x 40 + 256 x 232, or 128 x 56 + 256 x 224 if sums need fewer.
constexpr int kLoaderRegisters = ACM_BLOCK_N > 128 ? 40 : 56;
constexpr int kMultiplierRegisters = ACM_BLOCK_N > 128 ? 232 : 224;

// Threads that copy x: two warps. One thread of the next warp copies W1, one of the last runs the fences.
constexpr int kCopiers = 64;

static_assert(UpRing::kBytes == ACM_SHARED_BYTES, "the host would give another amount of shared memory");

// Copies the rows of x of every tile, through the order. Each thread copies 16 bytes of every eighth row.
__device__ __forceinline__ void copy_x(const UpRing& ring, const unsigned char* x, const int* order, UpTiles tiles,
                                       int model_dim) {
  constexpr int kRows = kBlockM * 8 / kCopiers;
  const int thread = threadIdx.x;
  const int chunk = thread % 8;  // index of its 16 bytes in a row's 128
  const int steps = ceil_div(model_dim, kBlockK);
  UpPosition at;
  for (int index = blockIdx.x; tiles.advance(index); index += gridDim.x) {
    unsigned rows[kRows];  // start of each row of x, in units of 16 bytes
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = min(tiles.row_tile * kBlockM + thread / 8 + kCopiers / 8 * i, tiles.rows - 1);
      rows[i] = static_cast<unsigned>(order[tiles.first_row + row]) * static_cast<unsigned>(model_dim / 8);
    }
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      const int column = step * kBlockK + 8 * chunk;
      const bool inside = column < model_dim;
      const Address to = ring.a(at.stage) + thread / 8 * 128 + ((chunk ^ (thread / 8 % 8)) << 4);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const unsigned from = rows[i] + (inside ? column / 8 : 0);
        copy_16(to + i * (kCopiers / 8) * 128, x + (static_cast<unsigned long long>(from) << 4), inside ? 16 : 0);
      }
      barrier_arrive_after_copies(ring.copied(at.stage));
      at.next();
    }
  }
  copies_wait();
}

// Copies W1 of every tile through its map {h, N, D}. Run by one thread.
__device__ __forceinline__ void copy_w1(const UpRing& ring, const TensorMap* w1_map, UpTiles tiles, int steps) {
  UpPosition at;
  for (int index = blockIdx.x; tiles.advance(index); index += gridDim.x) {
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      barrier_arrive_expecting(ring.full(at.stage), UpRing::kBytesB);
      for (int box = 0; box < ACM_BLOCK_N / 64; ++box) {
        copy_box(ring.b(at.stage) + box * kBytesBox, w1_map, ring.full(at.stage),
                 tiles.column_tile * ACM_BLOCK_N + 64 * box, tiles.learner, step * kBlockK);
      }
      at.next();
    }
  }
}

// Makes the writes of copy_x visible to the products, in a dedicated thread. This relies on transitive memory order:
// the copies complete before `copied` ends, the fence is between `copied` and `full`, and products begin after `full`.
// The fence also waits for all outstanding copies and stores of its own thread: in the copying threads it would prevent
// prefetching, and in the threads that multiply it cost 3 to 5% of the kernel's time.
__device__ __forceinline__ void fence_x(const UpRing& ring, UpTiles tiles, int steps) {
  UpPosition at;
  for (int index = blockIdx.x; tiles.advance(index); index += gridDim.x) {
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.copied(at.stage), at.parity);
      fence_copies_for_products();
      barrier_arrive(ring.full(at.stage));
      at.next();
    }
  }
}

// Grid: at most as many blocks as multiprocessors. `hidden` has the rows of the chunk, rounded up to a multiple of 128.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    up_hopper(const __grid_constant__ TensorMap w1_map, const unsigned char* x, const int* order, const int* reach,
              const unsigned short* b1, int* arrivals, unsigned short* hidden, int first_row, int num_rows,
              int model_dim, int hidden_dim, int num_learners) {
  const UpRing ring;
  ring.init(2, kCopiers);  // a stage is full after two arrivals: W1 and the fence of x
  next_kernel_may_start();
  wait_for_kernels_before();
  if (blockIdx.x == 0 && threadIdx.x == 0) *arrivals = 0;  // for GEMM 2
  UpTiles tiles(reach, first_row, num_rows, num_learners, ceil_div(hidden_dim, ACM_BLOCK_N));
  const int steps = ceil_div(model_dim, kBlockK);
  if (threadIdx.x < 128) {
    registers_release<kLoaderRegisters>();
    const int warp = threadIdx.x / 32;
    if (warp < kCopiers / 32) {
      copy_x(ring, x, order, tiles, model_dim);
    } else if (threadIdx.x == 64) {
      prefetch_map(&w1_map);
      copy_w1(ring, &w1_map, tiles, steps);
    } else if (threadIdx.x == 96) {
      fence_x(ring, tiles, steps);
    }
  } else {
    registers_take<kMultiplierRegisters>();
    UpPosition at;
    for (int round = 0; tiles.advance(round * gridDim.x + blockIdx.x); ++round) {
      if (round % 2 != multiplier()) {
        at.skip(steps);
        continue;
      }
      const int column = tiles.column_tile * ACM_BLOCK_N;
      const long long place = static_cast<long long>(tiles.learner) * hidden_dim + column;
      UpSums sums;
      sums.begin(0, b1 + place, hidden_dim - column);
      wait_for_turn(ring, round);
      sums.add(ring, at, steps, ring.turn(1 - multiplier()));
      int rows[4];  // rows that do not run the learner are written, too; GEMM 2 drops them
#pragma unroll
      for (int j = 0; j < 4; ++j) rows[j] = tiles.row_tile * kBlockM + row_of(j);
      const long long width = static_cast<long long>(num_learners) * hidden_dim;
      sums.store(ring, hidden + place, rows, width, hidden_dim - column, activate<ACM_ACTIVATION>);
    }
  }
}

}  // namespace acm

// GEMM 1 of the staircase for Hopper (sm_90a): what plugins/kernels/up.py computes, for T of 16 bits.
//
// ACM_BFLOAT16, ACM_BLOCK_N, ACM_STAGES, ACM_SHARED_BYTES and ACM_ACTIVATION are set by compile.py.
#include "activation.cuh"
#include "pipeline.cuh"

namespace acm {

using UpRing = Ring<ACM_BLOCK_N, ACM_STAGES>;
using UpPosition = Position<ACM_STAGES>;
using UpSums = Sums<ACM_BLOCK_N, ACM_STAGES, ACM_BFLOAT16>;

constexpr int kLoaderRegisters = 40;
constexpr int kMultiplierRegisters = 232;  // 128 x 40 + 256 x 232 of the 65,536 of a multiprocessor

static_assert(UpRing::kBytes == ACM_SHARED_BYTES, "the host would give another amount of shared memory");

// By the 128 threads that load: rows of x through the order, and W1 through its map {h, N, D}.
__device__ __forceinline__ void load(const UpRing& ring, const TensorMap* w1_map, const unsigned char* x,
                                     const int* order, UpTiles tiles, int model_dim) {
  const int thread = threadIdx.x;
  const int chunk = thread % 8;  // of a row's 128 bytes, of 16 bytes
  const int steps = ceil_div(model_dim, kBlockK);
  UpPosition at;
  for (int index = blockIdx.x; tiles.advance(index); index += gridDim.x) {
    unsigned rows[8];  // where each of this thread's rows of x begins, in units of 16 bytes
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = min(tiles.row_tile * kBlockM + thread / 8 + 16 * i, tiles.rows - 1);
      rows[i] = static_cast<unsigned>(order[tiles.first_row + row]) * static_cast<unsigned>(model_dim / 8);
    }
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.empty(at.stage), at.parity ^ 1);
      if (thread == 0) {
        barrier_arrive_expecting(ring.full(at.stage), UpRing::kBytesB);
        for (int box = 0; box < ACM_BLOCK_N / 64; ++box) {
          copy_box(ring.b(at.stage) + box * kBytesBox, w1_map, ring.full(at.stage),
                   tiles.column_tile * ACM_BLOCK_N + 64 * box, tiles.learner, step * kBlockK);
        }
      }
      const int column = step * kBlockK + 8 * chunk;
      const bool inside = column < model_dim;
      const Address to = ring.a(at.stage) + (thread / 8) * 128 + ((chunk ^ (thread / 8 % 8)) << 4);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const unsigned from = rows[i] + (inside ? column / 8 : 0);
        copy_16(to + i * 16 * 128, x + (static_cast<unsigned long long>(from) << 4), inside ? 16 : 0);
      }
      barrier_arrive_after_copies(ring.full(at.stage));
      at.next();
    }
  }
  copies_wait();
}

// Activation and store of one tile. Rows that do not run the learner are written too; GEMM 2 drops them.
__device__ __forceinline__ void store(const UpRing& ring, UpSums& sums, const unsigned short* b1,
                                      unsigned short* hidden, const UpTiles& tiles, int hidden_dim) {
  constexpr int kChunks = ACM_BLOCK_N / 8;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 - 4;  // among those that multiply
  const Address staging = ring.staging(warp);
  const int first_column = tiles.column_tile * ACM_BLOCK_N;
  const unsigned short* bias = b1 + static_cast<long long>(tiles.learner) * hidden_dim + first_column;
  const long long width = static_cast<long long>(tiles.num_learners) * hidden_dim;
  unsigned short* out = hidden + static_cast<long long>(tiles.row_tile * kBlockM + warp % 4 * 16) * width +
                        static_cast<long long>(tiles.learner) * hidden_dim + first_column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int column = column_of(i);
      float low = 0.0f, high = 0.0f;
      if (first_column + column < hidden_dim) {
        unpack<ACM_BFLOAT16>(__ldg(reinterpret_cast<const unsigned*>(bias + column)), low, high);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float* v = &sums.values[half][4 * i + 2 * j];
        store_shared(
            staging + (lane / 4 + 8 * j) * UpRing::kPitch + 2 * column,
            pack<ACM_BFLOAT16>(activate<ACM_ACTIVATION>(v[0] + low), activate<ACM_ACTIVATION>(v[1] + high)));
      }
    }
    __syncwarp();
#pragma unroll 4
    for (int i = lane; i < 16 * kChunks; i += 32) {
      const int row = i / kChunks, column = i % kChunks * 8;
      if (first_column + column < hidden_dim) {
        *reinterpret_cast<uint4*>(out + (half * 64 + row) * width + column) =
            load_shared(staging + row * UpRing::kPitch + 2 * column);
      }
    }
    __syncwarp();
  }
}

// Grid: at most as many blocks as multiprocessors. hidden: rows of the chunk up to a multiple of 128.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    up_hopper(const __grid_constant__ TensorMap w1_map, const unsigned char* x, const int* order, const int* reach,
              const unsigned short* b1, unsigned short* hidden, int first_row, int num_rows, int model_dim,
              int hidden_dim, int num_learners) {
  const UpRing ring;
  ring.init(129);  // 128 threads when their copies are done, and the one that expects the bytes of W1
  UpTiles tiles(reach, first_row, num_rows, num_learners, ceil_div(hidden_dim, ACM_BLOCK_N));
  if (threadIdx.x < 128) {
    registers_release<kLoaderRegisters>();
    if (threadIdx.x == 0) prefetch_map(&w1_map);
    load(ring, &w1_map, x, order, tiles, model_dim);
  } else {
    registers_take<kMultiplierRegisters>();
    const int steps = ceil_div(model_dim, kBlockK);
    UpPosition at;
    for (int round = 0; tiles.advance(round * gridDim.x + blockIdx.x); ++round) {
      if (round % 2 != multiplier()) {
        at.skip(steps);
        continue;
      }
      wait_for_turn(ring, round);
      UpSums sums;
      sums.clear();
      sums.add<true>(ring, at, steps, ring.turn(1 - multiplier()));
      store(ring, sums, b1, hidden, tiles, hidden_dim);
    }
  }
}

}  // namespace acm

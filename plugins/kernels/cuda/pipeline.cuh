// The ring of shared memory between the warpgroup that loads and the two that multiply, and the products over it.
//
// Warpgroup 0 loads step after step into the ring. Warpgroups 1 and 2 take the block's tiles in turn: while one
// multiplies, the other applies the activation and stores. A stage is full when its bytes have arrived, and empty when
// the four warps that read it have said so. A warpgroup begins its tile only after the other has seen all stages of the
// tile before full; otherwise it could wait for a phase two ahead, which a barrier cannot tell from the present one.
#pragma once

#include "device.cuh"
#include "tiles.cuh"
#include "wgmma.cuh"

namespace acm {

constexpr int kThreads = 384;
constexpr int kBytesA = kBlockM * kBlockK * 2;
constexpr int kBytesBox = kBlockK * 64 * 2;  // 64 columns of B

template <int BlockN, int Stages>
struct Ring {
  static constexpr int kBytesB = BlockN * kBlockK * 2;
  static constexpr int kBytesStage = kBytesA + kBytesB;
  static constexpr int kPitch = BlockN * 2 + 16;  // bytes of a staged row; 16 more keep the banks apart
  static constexpr int kBytesStaging = 8 * 16 * kPitch;
  static constexpr int kBytes = Stages * kBytesStage + kBytesStaging + (2 * Stages + 2) * 8 + 1024;

  Address base;  // a multiple of 1,024, as the swizzle needs

  __device__ Ring() {
    extern __shared__ unsigned char memory[];
    base = (shared_address(memory) + 1023u) & ~1023u;
  }

  __device__ __forceinline__ Address a(int stage) const { return base + stage * kBytesStage; }
  __device__ __forceinline__ Address b(int stage) const { return a(stage) + kBytesA; }

  // 16 rows of a warp's results, on their way to global memory.
  __device__ __forceinline__ Address staging(int warp) const {
    return base + Stages * kBytesStage + warp * 16 * kPitch;
  }

  __device__ __forceinline__ Address full(int stage) const {
    return base + Stages * kBytesStage + kBytesStaging + 8 * stage;
  }
  __device__ __forceinline__ Address empty(int stage) const { return full(Stages + stage); }
  __device__ __forceinline__ Address turn(int warpgroup) const { return full(2 * Stages + warpgroup); }

  // By all threads of the block. `arrivals`: of the loading threads, for a stage to be full.
  __device__ __forceinline__ void init(int arrivals) const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Stages; ++stage) {
        barrier_init(full(stage), arrivals);
        barrier_init(empty(stage), 4);
      }
      barrier_init(turn(0), 4);
      barrier_init(turn(1), 4);
      barriers_visible();
    }
    __syncthreads();
  }
};

// A position in the ring.
template <int Stages>
struct Position {
  int stage = 0;
  int parity = 0;  // of how often the ring went round

  __device__ __forceinline__ void next() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1;
    }
  }

  __device__ __forceinline__ void skip(int steps) {
    stage += steps;
    parity ^= (stage / Stages) & 1;
    stage %= Stages;
  }
};

// Which of the two warpgroups that multiply this thread belongs to: 0 for threads 128..255, 1 for 256..383. It has the
// tiles of every other round.
__device__ __forceinline__ int multiplier() { return threadIdx.x / 256; }

// Waits until the other warpgroup has seen its tile of the round before; in round 0 there was none.
template <typename AnyRing>
__device__ __forceinline__ void wait_for_turn(const AnyRing& ring, int round) {
  barrier_wait(ring.turn(multiplier()), (round / 2 + multiplier() + 1) % 2);
}

// The sums of one tile: two products of 64 rows, each thread with BlockN / 2 sums of each.
template <int BlockN, int Stages, bool IsBfloat16>
struct Sums {
  float values[2][BlockN / 2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < BlockN / 2; ++i) values[half][i] = 0.0f;
    }
  }

  // Adds the products of `steps` stages, which are released when they are read; all are done afterwards. `seen`: the
  // barrier to arrive at once the last stage has been seen full, or 0. FenceCopies: A was copied by copy_16.
  template <bool FenceCopies>
  __device__ __forceinline__ void add(const Ring<BlockN, Stages>& ring, Position<Stages>& at, int steps, Address seen) {
    const bool speaks = threadIdx.x % 32 == 0;
    int previous = -1;
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.full(at.stage), at.parity);
      if constexpr (FenceCopies) fence_copies_for_products();
      const unsigned long long a = descriptor(ring.a(at.stage), 0);
      const unsigned long long b = descriptor(ring.b(at.stage), kBytesBox);
      products_begin();
#pragma unroll
      for (int k = 0; k < kBlockK / 16; ++k) {
        multiply<BlockN, IsBfloat16>(values[0], a + 2 * k, b + 128 * k);        // 16 columns of A are 32 bytes,
        multiply<BlockN, IsBfloat16>(values[1], a + 2 * k + 512, b + 128 * k);  // 64 rows of A 8,192, 16 of B 2,048
      }
      products_commit();
      if (previous >= 0) {
        products_wait<1>();
        if (speaks) barrier_arrive(ring.empty(previous));
      }
      previous = at.stage;
      at.next();
    }
    if (seen && speaks) barrier_arrive(seen);
    products_wait<0>();
    if (previous >= 0 && speaks) barrier_arrive(ring.empty(previous));
  }

 private:
  // Swizzle of 128 bytes; 1,024 bytes between groups of 8 rows (of A: rows, of B: steps of K); `columns`: bytes between
  // groups of 64 columns of B. In units of 16 bytes.
  static __device__ __forceinline__ unsigned long long descriptor(Address address, unsigned columns) {
    return (1ull << 62) | (64ull << 32) | (static_cast<unsigned long long>(columns >> 4) << 16) |
           ((address & 0x3ffff) >> 4);
  }
};

// Where a thread's sums lie: group i of 4 holds columns column_of(i) and the next one of row lane / 4, then of that
// row plus 8.
__device__ __forceinline__ int column_of(int i) { return 8 * i + 2 * (threadIdx.x % 4); }

}  // namespace acm

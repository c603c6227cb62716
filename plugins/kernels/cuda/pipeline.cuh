// The ring in shared memory between the warpgroup that loads and the two that multiply, and the products on it.
//
// Warpgroup 0 loads step after step into the ring. Warpgroups 1 and 2 take the block's tiles in turn: while one
// multiplies, the other applies the activation and stores. A stage is full when its bytes have arrived, and empty when
// the four warps that read it have arrived. In GEMM 1, which copies with copy_16, a stage is first copied and, after
// the fence, full. A warpgroup begins its tile only after the other has seen all stages of the tile before as full;
// otherwise it could wait for a phase two ahead, which a barrier cannot distinguish from the current one.
#pragma once

#include "device.cuh"
#include "tiles.cuh"
#include "wgmma.cuh"

namespace acm {

constexpr int kThreads = 384;
constexpr int kBytesA = kBlockM * kBlockK * 2;
constexpr int kBytesBox = kBlockK * 64 * 2;  // 64 columns of B
constexpr int kSlots = 4;                    // of the queue of tiles

template <int BlockN, int Stages>
struct Ring {
  static constexpr int kBytesB = BlockN * kBlockK * 2;
  static constexpr int kBytesStage = kBytesA + kBytesB;
  static constexpr int kPitch = BlockN + 16;  // bytes of half a staged row; 16 more avoid bank conflicts
  static constexpr int kBytesStaging = 8 * 16 * kPitch;
  static constexpr int kBytes = Stages * kBytesStage + kBytesStaging + (3 * Stages + 2 + 3 * kSlots) * 8;

  Address base;

  __device__ Ring() {
    extern __shared__ __align__(1024) unsigned char memory[];
    base = shared_address(memory);
    if (base % 1024) __trap();  // required by the swizzle; dynamic shared memory is aligned like this
  }

  __device__ __forceinline__ Address a(int stage) const { return base + stage * kBytesStage; }
  __device__ __forceinline__ Address b(int stage) const { return a(stage) + kBytesA; }

  // Staging area for half of 16 rows of a warp's results, on their way to global memory.
  __device__ __forceinline__ Address staging(int warp) const {
    return base + Stages * kBytesStage + warp * 16 * kPitch;
  }

  __device__ __forceinline__ Address full(int stage) const {
    return base + Stages * kBytesStage + kBytesStaging + 8 * stage;
  }
  __device__ __forceinline__ Address empty(int stage) const { return full(Stages + stage); }
  __device__ __forceinline__ Address copied(int stage) const { return full(2 * Stages + stage); }
  __device__ __forceinline__ Address turn(int warpgroup) const { return full(3 * Stages + warpgroup); }

  // The queue of tiles: a slot is filled with the index of a tile and read by each warp that multiplies.
  __device__ __forceinline__ Address filled(int slot) const { return turn(2 + slot); }
  __device__ __forceinline__ Address taken(int slot) const { return filled(kSlots + slot); }
  __device__ __forceinline__ Address tile_index(int slot) const { return filled(2 * kSlots + slot); }

  // Run by all threads of the block. Arguments: arrivals that make a stage full, and that make it copied.
  __device__ __forceinline__ void init(int for_full, int for_copied = 1) const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Stages; ++stage) {
        barrier_init(full(stage), for_full);
        barrier_init(empty(stage), 4);
        barrier_init(copied(stage), for_copied);
      }
      for (int slot = 0; slot < kSlots; ++slot) {
        barrier_init(filled(slot), 1);
        barrier_init(taken(slot), 8);
      }
      barrier_init(turn(0), 4);
      barrier_init(turn(1), 4);
      barriers_visible();
    }
    __syncthreads();
  }
};

// A position in a ring of stages or slots.
template <int Stages>
struct Position {
  int stage = 0;
  int parity = 0;  // of the number of rounds

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

// Which of the two multiplying warpgroups this thread belongs to: 0 for threads 128..255, 1 for 256..383. Each has the
// tiles of every other round.
__device__ __forceinline__ int multiplier() { return threadIdx.x / 256; }

// Waits until the other warpgroup has seen its tile of the previous round; in round 0 there is none.
template <typename AnyRing>
__device__ __forceinline__ void wait_for_turn(const AnyRing& ring, int round) {
  barrier_wait(ring.turn(multiplier()), (round / 2 + multiplier() + 1) % 2);
}

// Layout of a thread's sums: group i of 4 has columns column_of(i) and the next one, of row lane / 4 of its warp's 16
// rows, then of the row 8 below. The thread has four rows of the tile, row_of(0..3): row_of(j) is j % 2 of product j /
// 2.
__device__ __forceinline__ int column_of(int i) { return 8 * i + 2 * (threadIdx.x % 4); }
__device__ __forceinline__ int row_of(int j) {
  return j / 2 * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + j % 2 * 8;
}

// The sums of one tile: two products of 64 rows, each thread with BlockN / 2 sums of each.
template <int BlockN, int Stages, bool IsBfloat16>
struct Sums {
  float values[2][BlockN / 2];

  // Sets the sums of the tile's rows from `first_row` on to the bias. `bias` points to the tile's first column; the
  // tile has `end` valid columns.
  __device__ __forceinline__ void begin(int first_row, const unsigned short* bias, int end) {
#pragma unroll
    for (int i = 0; i < BlockN / 8; ++i) {
      float low, high;
      unpack<IsBfloat16>(column_of(i) < end ? load_in_place(bias + column_of(i)) : 0, low, high);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float* v = &values[j / 2][4 * i + j % 2 * 2];
        v[0] = row_of(j) < first_row ? v[0] : low;
        v[1] = row_of(j) < first_row ? v[1] : high;
      }
    }
  }

  // Rounds finish(sum) to T and stores row row_of(j) of the tile at out + rows[j] * width, unless rows[j] is negative.
  // The tile has `end` valid columns. A quarter of the sums at a time goes through the staging area, so that each
  // thread stores 16 bytes at once.
  template <typename Function>
  __device__ __forceinline__ void store(const Ring<BlockN, Stages>& ring, unsigned short* out, const int (&rows)[4],
                                        long long width, int end, const Function& finish) {
    constexpr int kColumns = BlockN / 2;
    constexpr int kPitch = Ring<BlockN, Stages>::kPitch;
    const int lane = threadIdx.x % 32;
    const Address staging = ring.staging(threadIdx.x / 32 - 4);
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int half = part / 2, first = part % 2 * kColumns;
#pragma unroll
      for (int i = 0; i < kColumns / 8; i += 2) {
        const float* v = &values[half][first / 2 + 4 * i];
        store_matrices(staging + lane % 16 * kPitch + lane / 16 * 16 + 16 * i,
                       pack<IsBfloat16>(finish(v[0]), finish(v[1])), pack<IsBfloat16>(finish(v[2]), finish(v[3])),
                       pack<IsBfloat16>(finish(v[4]), finish(v[5])), pack<IsBfloat16>(finish(v[6]), finish(v[7])));
      }
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int row = rows[2 * half + j];
#pragma unroll
        for (int i = 0; i < kColumns / 32; ++i) {
          const int column = first + 32 * i + lane % 4 * 8;
          const uint4 words = load_shared(staging + (lane / 4 + 8 * j) * kPitch + 64 * i + lane % 4 * 16);
          if (row >= 0 && column < end) *reinterpret_cast<uint4*>(out + row * width + column) = words;
        }
      }
      __syncwarp();
    }
  }

  // Adds the products of `steps` stages, which are released after they are read; all products are done on return.
  // `seen`: barrier to arrive at when the last stage has been seen as full, or 0.
  __device__ __forceinline__ void add(const Ring<BlockN, Stages>& ring, Position<Stages>& at, int steps, Address seen) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < BlockN / 2; ++i) settle(values[half][i]);
    }
    const bool first_lane = threadIdx.x % 32 == 0;
    int previous = -1;
    for (int step = 0; step < steps; ++step) {
      barrier_wait(ring.full(at.stage), at.parity);
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
        if (first_lane) barrier_arrive(ring.empty(previous));
      }
      previous = at.stage;
      at.next();
    }
    __syncwarp();  // without any step, a thread may still wait for its turn and must not miss the phase
    if (seen && first_lane) barrier_arrive(seen);
    products_wait<0>();
    if (previous >= 0 && first_lane) barrier_arrive(ring.empty(previous));
  }

 private:
  // Shared memory descriptor: 128-byte swizzle, 1,024 bytes between groups of 8 rows (of B: steps of K), and `columns`
  // bytes between groups of 64 columns of B. In units of 16 bytes.
  static __device__ __forceinline__ unsigned long long descriptor(Address address, unsigned columns) {
    return (1ull << 62) | (64ull << 32) | (static_cast<unsigned long long>(columns >> 4) << 16) |
           ((address & 0x3ffff) >> 4);
  }
};

}  // namespace acm

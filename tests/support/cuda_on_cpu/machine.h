// What CUDA C++ adds to C++, for one block of 384 threads at a time on ordinary threads.
//
// The tests compile plugins/kernels/cuda with this, and with device.cuh and wgmma.cuh of this folder instead of the
// real ones, which are the instructions of the GPU. Copies complete late and in any order, and products read shared
// memory only when they are waited for, so a stage that is released or read too early gives wrong values.
#pragma once

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(...)
#define __trap() std::abort()

struct Index {
  int x = 0;
};

struct uint4 {
  unsigned x, y, z, w;
};

inline thread_local Index threadIdx;
inline Index blockIdx, gridDim;

using std::max;
using std::min;

template <typename T>
T __ldg(const T* from) {
  return *from;
}

inline int atomicAdd(int* address, int value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }

constexpr int kBlockThreads = 384;
constexpr int kSharedBytes = 227 << 10;
constexpr auto kPatience = std::chrono::minutes(1);

namespace acm {
alignas(1024) inline unsigned char memory[kSharedBytes];  // of the block that runs
}

// A barrier in shared memory (mbarrier).
struct MemoryBarrier {
  int arrivals;
  int pending;
  int bytes = 0;
  int phase = 0;
};

class Machine {
 public:
  static Machine& instance() {
    static Machine machine;
    return machine;
  }

  // Runs a kernel on each block, one block after the other.
  void run(int blocks, unsigned seed, const std::function<void()>& kernel) {
    gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
      begin(seed + static_cast<unsigned>(blockIdx.x));
      std::vector<std::thread> threads;
      for (int i = 0; i < kBlockThreads; ++i) {
        threads.emplace_back([i, &kernel] {
          threadIdx.x = i;
          kernel();
        });
      }
      for (std::thread& thread : threads) thread.join();
      end();
    }
  }

  void sync_block() { block_->arrive_and_wait(); }
  void sync_warp() { warps_[static_cast<std::size_t>(threadIdx.x / 32)]->arrive_and_wait(); }

  // One word of each thread of this warp, for what they exchange between two calls of sync_warp.
  unsigned* warp_words() { return words_[threadIdx.x / 32]; }

  void init_barrier(unsigned address, int arrivals) {
    const std::lock_guard<std::mutex> lock(mutex_);
    barriers_[address] = {arrivals, arrivals};
  }

  void arrive(unsigned address, int expected_bytes = 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    barriers_.at(address).bytes += expected_bytes;
    arrived(barriers_.at(address));
  }

  void wait(unsigned address, int parity) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return barriers_.at(address).phase % 2 != parity; })) {
      std::fprintf(stderr, "thread %d of block %d waits in vain for the barrier at %u\n", threadIdx.x, blockIdx.x, address);
      std::abort();
    }
    lock.unlock();
    linger();
  }

  // Hands work to the copy engine, which does it later; `bytes` and one arrival, or either, complete on the barrier.
  void copy_later(std::function<void()> copy, unsigned address, int bytes, bool arrives) {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back([this, copy = std::move(copy), address, bytes, arrives] {
      copy();
      const std::lock_guard<std::mutex> inner(mutex_);
      MemoryBarrier& barrier = barriers_.at(address);
      barrier.bytes -= bytes;
      if (arrives) {
        arrived(barrier);
      } else {
        flip(barrier);
      }
    });
    changed_.notify_all();
  }

 private:
  void begin(unsigned seed) {
    std::memset(acm::memory, 0xff, sizeof acm::memory);  // NaN in every T
    barriers_.clear();
    block_ = std::make_unique<std::barrier<>>(kBlockThreads);
    warps_.clear();
    for (int i = 0; i < kBlockThreads / 32; ++i) warps_.push_back(std::make_unique<std::barrier<>>(32));
    random_.seed(seed);
    stopping_ = false;
    engine_ = std::thread([this] { copy_all(); });
  }

  void end() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    engine_.join();
  }

  void copy_all() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        const auto next = queue_.begin() + static_cast<std::ptrdiff_t>(random_() % queue_.size());
        job = std::move(*next);
        queue_.erase(next);
      }
      job();
    }
  }

  // Sometimes a thread continues late, so that the others of its warp and the next phases run ahead of it.
  static void linger() {
    thread_local std::minstd_rand random(static_cast<unsigned>(threadIdx.x + 1));
    if (random() % 32 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }

  void arrived(MemoryBarrier& barrier) {
    --barrier.pending;
    flip(barrier);
  }

  void flip(MemoryBarrier& barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) {
      barrier.pending = barrier.arrivals;
      ++barrier.phase;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<unsigned, MemoryBarrier> barriers_;
  std::deque<std::function<void()>> queue_;
  std::mt19937 random_;
  std::thread engine_;
  bool stopping_ = false;
  std::unique_ptr<std::barrier<>> block_;
  std::vector<std::unique_ptr<std::barrier<>>> warps_;
  unsigned words_[kBlockThreads / 32][32];
};

inline void __syncthreads() { Machine::instance().sync_block(); }
inline void __syncwarp() { Machine::instance().sync_warp(); }

// The products of plugins/kernels/cuda/wgmma.cuh on a CPU: each thread computes its own sums, as late as possible.
#pragma once

#include "device.cuh"

namespace acm {

using Group = std::vector<std::function<void()>>;

inline thread_local std::deque<Group> groups;  // committed, not done yet
inline thread_local Group open_group;

// A descriptor of shared memory, in bytes.
struct Operand {
  Address start;
  unsigned columns;  // between groups of 64 columns
  unsigned rows;     // between groups of 8 rows

  explicit Operand(unsigned long long descriptor)
      : start(static_cast<Address>(descriptor & 0x3fff) << 4),
        columns(static_cast<unsigned>(descriptor >> 16 & 0x3fff) << 4),
        rows(static_cast<unsigned>(descriptor >> 32 & 0x3fff) << 4) {}

  template <bool IsBfloat16>
  float value(int row, int column) const {
    const Address address = start + row / 8 * rows + row % 8 * 128 + column / 64 * columns + column % 64 * 2;
    std::uint16_t bits;
    std::memcpy(&bits, at(swizzled(address)), 2);
    return value_of<IsBfloat16>(bits);
  }
};

template <int N, bool IsBfloat16>
void multiply(float (&sums)[N / 2], unsigned long long a, unsigned long long b) {
  open_group.push_back([&sums, a = Operand(a), b = Operand(b)] {
    const int lane = threadIdx.x % 32, first_row = threadIdx.x % 128 / 32 * 16 + lane / 4;
    for (int i = 0; i < N / 2; ++i) {
      const int row = first_row + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) {
        sums[i] += a.value<IsBfloat16>(row, k) * b.value<IsBfloat16>(k, column);
      }
    }
  });
}

// These instructions are one for all threads of a warp: none continues before all have arrived.
inline void products_begin() { __syncwarp(); }

inline void products_commit() { groups.push_back(std::exchange(open_group, {})); }

template <int Pending>
void products_wait() {
  for (; groups.size() > Pending; groups.pop_front()) {
    for (const auto& product : groups.front()) product();
  }
  __syncwarp();
}

}  // namespace acm

// The functions of plugins/kernels/cuda/device.cuh on a CPU.
#pragma once

#include "machine.h"

namespace acm {

using Address = unsigned;

// Content of the 128 bytes of a tensor map in the tests.
struct alignas(64) TensorMap {
  const unsigned char* tensor;
  std::int64_t dims[3];
  std::int64_t strides[2];  // bytes
  std::int32_t box[3];
  unsigned char unused[128 - 8 - 24 - 16 - 12];
};
static_assert(sizeof(TensorMap) == 128);

constexpr Address kFirstAddress = 1024;

inline Address shared_address(const void* pointer) {
  return static_cast<Address>(static_cast<const unsigned char*>(pointer) - memory) + kFirstAddress;
}

inline unsigned char* at(Address address) { return memory + (address - kFirstAddress); }

// Where the swizzle of 128 bytes puts an address: bits 4 to 6 change by bits 7 to 9.
inline Address swizzled(Address address) { return address ^ ((address >> 3) & 0x70); }

// --- barriers

inline void barrier_init(Address barrier, int arrivals) { Machine::instance().init_barrier(barrier, arrivals); }
inline void barriers_visible() {}
inline void barrier_arrive(Address barrier) { Machine::instance().arrive(barrier); }
inline void barrier_arrive_expecting(Address barrier, int bytes) { Machine::instance().arrive(barrier, bytes); }
inline void barrier_wait(Address barrier, int parity) { Machine::instance().wait(barrier, parity); }

// --- copies

struct Copy {
  Address to;
  uint4 value;
};

inline thread_local std::vector<Copy> begun;

inline void copy_16(Address to, const void* from, int bytes) {
  Copy copy{to, {}};
  std::memcpy(&copy.value, from, static_cast<std::size_t>(bytes));
  begun.push_back(copy);
}

// Products see what copy_16 wrote only after a fence: until then it is kept here.
inline std::mutex unfenced_mutex;
inline std::vector<Copy> unfenced;

inline void barrier_arrive_after_copies(Address barrier) {
  Machine::instance().copy_later(
      [copies = std::move(begun)] {
        const std::lock_guard<std::mutex> lock(unfenced_mutex);
        unfenced.insert(unfenced.end(), copies.begin(), copies.end());
      },
      barrier, 0, true);
  begun.clear();
}

inline void copies_wait() {}  // a block ends only after all of its copies

inline void copy_box(Address to, const TensorMap* map, Address barrier, int x, int y, int z) {
  const TensorMap box = *map;
  const int bytes = 2 * box.box[0] * box.box[1] * box.box[2];
  Machine::instance().copy_later(
      [=] {
        Address next = to;
        for (int k = 0; k < box.box[2]; ++k) {
          for (int j = 0; j < box.box[1]; ++j) {
            for (int i = 0; i < box.box[0]; ++i, next += 2) {
              std::uint16_t value = 0;
              if (x + i < box.dims[0] && y + j < box.dims[1] && z + k < box.dims[2]) {
                const std::int64_t offset = 2 * (x + i) + (y + j) * box.strides[0] + (z + k) * box.strides[1];
                std::memcpy(&value, box.tensor + offset, 2);
              }
              std::memcpy(at(swizzled(next)), &value, 2);
            }
          }
        }
      },
      barrier, bytes, false);
}

inline void prefetch_map(const TensorMap*) {}

inline unsigned load_in_place(const unsigned short* from) {
  unsigned word;
  std::memcpy(&word, from, 4);
  return word;
}

inline void store_matrices(Address row, unsigned a, unsigned b, unsigned c, unsigned d) {
  const int lane = threadIdx.x % 32;
  Address* rows = Machine::instance().warp_words();
  rows[lane] = row;
  __syncwarp();
  const unsigned words[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) std::memcpy(at(rows[8 * i + lane / 4] + 4 * (lane % 4)), &words[i], 4);
  __syncwarp();
}

inline void store_shared(Address to, int value) { std::memcpy(at(to), &value, 4); }

inline int load_shared_int(Address from) {
  int value;
  std::memcpy(&value, at(from), 4);
  return value;
}

inline uint4 load_shared(Address from) {
  uint4 words;
  std::memcpy(&words, at(from), 16);
  return words;
}

// --- products: wgmma.cuh

inline void fence_copies_for_products() {
  const std::lock_guard<std::mutex> lock(unfenced_mutex);
  for (const Copy& copy : unfenced) std::memcpy(at(copy.to), &copy.value, sizeof copy.value);
  unfenced.clear();
}

inline void next_kernel_may_start() {}
inline void wait_for_kernels_before() {}

inline void settle(float&) {}

template <int Registers>
void registers_release() {}

template <int Registers>
void registers_take() {}

// --- values of T

inline float float_of(unsigned word) {
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

template <bool IsBfloat16>
float value_of(std::uint16_t bits) {
  if constexpr (IsBfloat16) {
    return float_of(static_cast<unsigned>(bits) << 16);
  } else {
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return static_cast<float>(value);
  }
}

template <bool IsBfloat16>
unsigned bits_of(float value) {
  if constexpr (IsBfloat16) {
    unsigned word;
    std::memcpy(&word, &value, 4);
    if (value != value) return 0x7fff;
    return (word + 0x7fff + ((word >> 16) & 1)) >> 16;  // to the nearest, ties to even
  } else {
    const auto half = static_cast<_Float16>(value);
    std::uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
  }
}

template <bool IsBfloat16>
unsigned pack(float low, float high) {
  return bits_of<IsBfloat16>(low) | bits_of<IsBfloat16>(high) << 16;
}

template <bool IsBfloat16>
void unpack(unsigned word, float& low, float& high) {
  low = value_of<IsBfloat16>(static_cast<std::uint16_t>(word));
  high = value_of<IsBfloat16>(static_cast<std::uint16_t>(word >> 16));
}

inline float tanh_approx(float v) { return std::tanh(v); }

}  // namespace acm

// The sequence of kernel launches that runs the operator: the same as plugins/kernels/launch.py.
#pragma once

#include <array>

#include "core/layer_kernels.h"

namespace acm {

// Device pointers of one call; null for tensors that the operator does not have.
struct Pointers {
  std::array<const void*, kNumTensors> tensors{};
  void* workspace = nullptr;
};

constexpr std::int32_t kEntryOfTable = -1;

// Enqueues all kernels on the stream; neither synchronizes nor allocates.
//
// `entry` is the index of the tile sizes to use if they can run the problem. Otherwise, and for
// kEntryOfTable, the table chooses by the number of tokens, which must be at least 1.
void run(const LayerKernels& kernels, const Problem& problem, Activation activation, const Pointers& pointers,
         std::int32_t entry, Stream stream);

}  // namespace acm

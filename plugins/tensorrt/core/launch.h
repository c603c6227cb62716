// The sequence of kernel launches that runs the operator: the same as plugins/kernels/launch.py.
#pragma once

#include "core/layer_kernels.h"

namespace acm {

// Device pointers of one call.
struct Pointers {
  const void* x;
  const void* gate_logits;
  const void* thresholds;
  const void* w1;
  const void* b1;
  const void* w2;
  const void* b2;
  void* y;
  void* counts;
  void* workspace;
};

constexpr std::int32_t kEntryOfTable = -1;

// Enqueues all kernels on the stream; neither synchronizes nor allocates.
//
// `entry` is the index of the tile sizes to use if they can run the problem. Otherwise, and for
// kEntryOfTable, the table chooses by the number of tokens, which must be at least 1.
void run(const LayerKernels& kernels, const Problem& problem, Activation activation, const Pointers& pointers,
         std::int32_t entry, Stream stream);

}  // namespace acm

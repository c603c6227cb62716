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

// Queues everything on the stream; waits for nothing and allocates nothing.
//
// `entry` is the index of the tile sizes to use where they can run the problem; otherwise, and for
// kEntryOfTable, the table chooses by the number of tokens, which is at least 1.
void run(const LayerKernels& kernels, const Problem& problem, Activation activation, const Pointers& pointers,
         std::int32_t entry, Stream stream);

}  // namespace acm

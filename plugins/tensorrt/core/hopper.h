// What the kernels of plugins/kernels/cuda need besides pointers and sizes: the same arithmetic as
// plugins/kernels/hopper.py. tests/plugins/tensorrt/test_plugin_plan.py holds the two together. An Error is thrown where a
// result does not fit into 64 bits.
#pragma once

#include <cstdint>

#include "core/driver.h"
#include "core/tiles.h"

namespace acm {

// Of W1 as {h, N, D}, the hidden values of a chunk as {h, N, rows}, and W2 as {D, h, N}.
struct HopperMaps {
  TensorMap w1;
  TensorMap hidden;
  TensorMap w2;
};

HopperMaps hopper_maps(const Problem& problem, const Entry& entry, std::int64_t num_rows);

// Blocks of both GEMMs for a chunk: one for each multiprocessor, or for each tile where there are fewer.
struct HopperGrids {
  std::int64_t up;
  std::int64_t down;
};

HopperGrids hopper_grids(const Problem& problem, const Entry& entry, std::int64_t num_rows,
                         std::int32_t multiprocessors);

}  // namespace acm

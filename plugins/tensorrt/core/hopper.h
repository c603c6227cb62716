// Tensor maps and grids of the kernels in plugins/kernels/cuda: the same arithmetic as
// plugins/kernels/hopper.py, which tests/plugins/tensorrt/test_plugin_plan.py checks. An Error is thrown if a
// result does not fit into 64 bits.
#pragma once

#include <cstdint>

#include "core/driver.h"
#include "core/tiles.h"

namespace acm {

// Maps of W1 as {h, N, D}, of the hidden values of a chunk as {h, N, rows}, and of W2 as {D, h, N}.
struct HopperMaps {
  TensorMap w1;
  TensorMap hidden;
  TensorMap w2;
};

HopperMaps hopper_maps(const Problem& problem, const Entry& entry, std::int64_t num_rows);

// Blocks of both GEMMs for a chunk: one per multiprocessor, or one per tile if there are fewer tiles.
struct HopperGrids {
  std::int64_t up;
  std::int64_t down;
};

HopperGrids hopper_grids(const Problem& problem, const Entry& entry, std::int64_t num_rows,
                         std::int32_t multiprocessors);

}  // namespace acm

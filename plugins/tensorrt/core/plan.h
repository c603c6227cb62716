// What a launch needs besides pointers: the same arithmetic over shapes as plugins/kernels/plan.py, which has
// the reasons; tests/plugins/tensorrt/test_plugin_plan.py checks that they agree. Sizes are positive. An
// Error is thrown if a result does not fit into 64 bits.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/driver.h"

namespace acm {

struct Entry;

constexpr std::int64_t kMaxTokens = std::int64_t{1} << 29;

// The width of a learner is padded to a multiple of this.
constexpr std::int64_t kHiddenMultiple = 16;

constexpr std::int64_t kInt8Bytes = 1;

// Shapes of one call.
struct Problem {
  std::int64_t tokens;
  std::int64_t model_dim;     // D
  std::int64_t hidden_dim;    // h
  std::int64_t num_learners;  // N
  std::int64_t min_learners;
  std::int64_t element_size;  // bytes of a hidden value: those of T, or 1 for the int8 operators
  bool glu;                   // whether learners are GLUs, whose GEMM 1 computes two products

  std::int64_t num_choices() const { return num_learners - min_learners + 1; }
  std::int64_t hidden_row_bytes() const;

  // Bytes of one token of x in int8; 0 for the operators in float.
  std::int64_t quantized_row_bytes() const;
  std::int64_t chunk_rows() const;
  std::int64_t partial_bytes() const;

  // Most tiles of GEMM 2 where K is split, at least one.
  std::int64_t arrivals() const;

  // Whether K can be split into `split` slices per learner: the partial sums fit, and all tokens are in one
  // chunk.
  bool splits(std::int64_t split) const;
};

// How tokens are cut for routing.
struct Routing {
  std::int64_t block;       // tokens that a block handles at a time; up to this many are routed in one launch
  std::int64_t choices;     // C, rounded up to a size for which kernels exist
  std::int64_t num_pieces;  // pieces of `block` consecutive tokens that each block handles
  std::int64_t num_blocks;  // at most kMaxRoutingBlocks (plan.cpp)
};

Routing routing(const Problem& problem);

// Byte offsets into the workspace, and its size, which never shrinks with more tokens.
struct Workspace {
  std::int64_t reach;       // int32 [N + 1]
  std::int64_t order;       // int32 [tokens]
  std::int64_t histograms;  // int32 [blocks, C], with room for the blocks of every smaller call
  std::int64_t arrivals;    // int32 [tiles]: finished slices of each tile; the kernels in CUDA use the first
                            // element as the counter of tiles taken
  std::int64_t q;           // int8 [chunk rows, padded D]; empty for the operators in float
  std::int64_t hidden;      // T or int8 [chunk rows, N * padded h]
  std::int64_t partial;     // float32 or int32 [N * slices, tokens, D]
  std::int64_t size;
};

Workspace workspace(const Problem& problem);

// Whether kernels that load 16 bytes at a time may be used.
bool aligned(const Problem& problem, std::initializer_list<const void*> pointers);

// Blocks of GEMM 1 and of GEMM 2 for a chunk of sorted rows.
std::int64_t up_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows);
std::int64_t down_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows);

// Blocks of quantize_rows for a chunk.
Grid quantize_grid(const Problem& problem, std::int64_t num_rows);

// Whether the tiles of each GEMM never reach past D or h.
struct Even {
  bool up;
  bool down;
};

Even even(const Problem& problem, const Entry& entry);

// For numbers >= 0. Throws if the product does not fit into 64 bits.
std::int64_t checked_multiply(std::int64_t a, std::int64_t b);

// For a >= 0; a + b - 1 could overflow.
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

}  // namespace acm

// What a launch needs besides pointers: arithmetic over shapes, the same as plugins/kernels/plan.py, which
// has the reasons. tests/plugins/tensorrt/test_plugin_plan.py holds the two together. Sizes are positive. An Error is thrown
// where a result does not fit into 64 bits.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace acm {

struct Entry;

constexpr std::int64_t kMaxTokens = std::int64_t{1} << 29;

// Hidden values of a learner are padded to a multiple of it.
constexpr std::int64_t kHiddenMultiple = 16;

// Shapes of one call.
struct Problem {
  std::int64_t tokens;
  std::int64_t model_dim;     // D
  std::int64_t hidden_dim;    // h
  std::int64_t num_learners;  // N
  std::int64_t min_learners;
  std::int64_t element_size;  // bytes of T

  std::int64_t num_choices() const { return num_learners - min_learners + 1; }
  std::int64_t hidden_row_bytes() const;
  std::int64_t chunk_rows() const;
  std::int64_t partial_bytes() const;

  // Most tiles of GEMM 2 where K is split, whatever their sizes; at least one.
  std::int64_t arrivals() const;

  // Whether K is cut into `split` slices in each learner: the partial sums fit and all tokens are one chunk.
  bool splits(std::int64_t split) const;
};

// How tokens are cut for routing.
struct Routing {
  std::int64_t block;       // tokens that a block handles at a time; as many are routed in one launch
  std::int64_t choices;     // C, rounded up to a size that kernels exist for
  std::int64_t num_pieces;  // how many times `block` consecutive tokens each block handles
  std::int64_t num_blocks;  // at most kMaxRoutingBlocks (plan.cpp)
};

Routing routing(const Problem& problem);

// Byte offsets into the workspace and its size; never smaller for more tokens.
struct Workspace {
  std::int64_t reach;       // int32 [N + 1]
  std::int64_t order;       // int32 [tokens]
  std::int64_t histograms;  // int32 [blocks, C], with room for the blocks of every smaller call
  std::int64_t arrivals;    // int32 [tiles]: of each tile, the blocks that have stored their pieces; in CUDA, the
                            // first counts the tiles of GEMM 2 that are taken
  std::int64_t hidden;      // T [chunk rows, N * padded h]
  std::int64_t partial;     // float32 [N * slices, tokens, D]
  std::int64_t size;
};

Workspace workspace(const Problem& problem);

// Whether kernels that load 16 bytes at a time may be used.
bool aligned(const Problem& problem, std::initializer_list<const void*> pointers);

// Blocks of GEMM 1 and of GEMM 2 for a chunk of sorted rows.
std::int64_t up_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows);
std::int64_t down_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows);

// Whether tiles of each GEMM never reach beyond D or h.
struct Even {
  bool up;
  bool down;
};

Even even(const Problem& problem, const Entry& entry);

// Of numbers of at least 0. Throws where the product does not fit into 64 bits.
std::int64_t checked_multiply(std::int64_t a, std::int64_t b);

// For a of at least 0; a + b - 1 could overflow.
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

}  // namespace acm

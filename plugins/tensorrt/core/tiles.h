// Which tile sizes run which problem: the table plugins/kernels/tiles.json as embed.py writes it into the
// library.
#pragma once

#include <cstdint>

#include "core/plan.h"
#include "core/span.h"

namespace acm {

enum class Precision { kHalf, kFp32, kTf32 };

// Of an entry's kernels; those in CUDA (plugins/kernels/cuda) take tensor maps.
enum class Language { kTriton, kCuda };

struct Tile {
  std::int32_t block_m;
  std::int32_t block_n;
  std::int32_t block_k;
};

// One row of the table.
struct Entry {
  Span<std::int32_t> archs;  // 80 for sm_80 and so on
  Precision precision;
  std::int32_t alignment;   // D and h must be multiples of it, and pointers of 16 bytes; 1: for any
  std::int64_t max_tokens;  // 0: no limit
  Tile up;
  Tile down;
  std::int32_t split;  // slices of K in each learner; 0 for a whole K in one block
  Language language;

  // `tensor_maps`: whether the driver encodes them.
  bool is_for(std::int32_t arch, Precision wanted, bool tensor_maps) const;

  // Whether its alignment divides D and h.
  bool divides(const Problem& problem) const;

  // Whether it computes the problem correctly, be it the fastest choice or not.
  bool can_run(const Problem& problem, bool is_aligned) const;
};

// Index of the entry for a problem: the first that fits. Throws where the table has none.
std::int32_t select_entry(std::int32_t arch, Precision precision, const Problem& problem, bool is_aligned,
                          bool tensor_maps);

}  // namespace acm

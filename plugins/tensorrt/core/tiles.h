// The tile table plugins/kernels/tiles.json, which embed.py writes into the library.
#pragma once

#include <cstdint>

#include "core/plan.h"
#include "core/span.h"

namespace acm {

enum class Precision { kHalf, kFp32, kTf32, kInt8 };

// Language of the kernels of an entry; those in CUDA (plugins/kernels/cuda) take tensor maps.
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
  std::int32_t alignment;   // D and h must be multiples of this, and pointers of 16 bytes; 1 allows any
  std::int64_t max_tokens;  // 0: no limit
  Tile up;
  Tile glu;  // of GEMM 1 of GLU learners; block_m is 0 if the entry is not for them
  Tile down;
  std::int32_t split;  // slices of K per learner; 0 to compute all of K in one block
  Language language;

  // `tensor_maps`: whether the driver can encode them.
  bool is_for(std::int32_t arch, Precision wanted, bool tensor_maps) const;

  // Tile of GEMM 1.
  const Tile& up_for(const Problem& problem) const { return problem.glu ? glu : up; }

  // Whether its alignment divides D and h, and it has a tile for the learners.
  bool fits(const Problem& problem) const;

  // Whether the entry computes the problem correctly, even if it is not the fastest choice.
  bool can_run(const Problem& problem, bool is_aligned) const;
};

// Index of the first entry that fits a problem. Throws if there is none.
std::int32_t select_entry(std::int32_t arch, Precision precision, const Problem& problem, bool is_aligned,
                          bool tensor_maps);

}  // namespace acm

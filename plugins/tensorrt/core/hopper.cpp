#include "core/hopper.h"

#include <algorithm>

namespace acm {
namespace {

constexpr std::uint32_t kBoxColumns = 64;  // 128 bytes, the width of the swizzle
constexpr std::int64_t kValueBytes = 2;

std::uint64_t extent(std::int64_t size) { return static_cast<std::uint64_t>(size); }
std::uint64_t bytes(std::int64_t values) { return extent(checked_multiply(kValueBytes, values)); }
std::uint32_t box(std::int32_t block) { return static_cast<std::uint32_t>(block); }

}  // namespace

HopperMaps hopper_maps(const Problem& problem, const Entry& entry, std::int64_t num_rows) {
  const std::int64_t d = problem.model_dim;
  const std::int64_t h = problem.hidden_dim;
  const std::int64_t n = problem.num_learners;
  const std::int64_t rows = checked_multiply(ceil_div(num_rows, entry.down.block_m), entry.down.block_m);
  const std::array<std::uint64_t, 2> learners_then_rows = {bytes(h), bytes(checked_multiply(n, h))};
  return {
      {{extent(h), extent(n), extent(d)}, learners_then_rows, {kBoxColumns, 1, box(entry.up.block_k)}},
      {{extent(h), extent(n), extent(rows)}, learners_then_rows, {kBoxColumns, 1, box(entry.down.block_m)}},
      {{extent(d), extent(h), extent(n)},
       {bytes(d), bytes(checked_multiply(h, d))},
       {kBoxColumns, box(entry.down.block_k), 1}},
  };
}

HopperGrids hopper_grids(const Problem& problem, const Entry& entry, std::int64_t num_rows,
                         std::int32_t multiprocessors) {
  return {std::min<std::int64_t>(up_grid(problem, entry, num_rows), multiprocessors),
          std::min<std::int64_t>(down_grid(problem, entry, num_rows), multiprocessors)};
}

}  // namespace acm

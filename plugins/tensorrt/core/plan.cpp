#include "core/plan.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/tiles.h"

namespace acm {
namespace {

constexpr std::int64_t kHiddenLimit = std::int64_t{192} << 20;
constexpr std::int64_t kPartialLimit = std::int64_t{32} << 20;
constexpr std::int64_t kRows = 128;
constexpr std::int64_t kMaxSplit = 4;
constexpr std::int64_t kAlignment = 256;
constexpr std::int64_t kFloatBytes = 4;

struct RoutingBlock {
  std::int64_t choices;
  std::int64_t tokens;
};

constexpr RoutingBlock kRoutingBlocks[] = {{8, 256}, {32, 128}, {128, 32}};

}  // namespace

std::int64_t Problem::hidden_row_bytes() const {
  return num_learners * round_up(hidden_dim, 16) * element_size;
}

std::int64_t Problem::chunk_rows() const {
  const std::int64_t fitting = kHiddenLimit / hidden_row_bytes() / kRows * kRows;
  return std::min(std::max(fitting, kRows), round_up(tokens, kRows));
}

// tokens * model_dim stays below 2^62; the whole product might not, so the limit is divided instead.
std::int64_t Problem::partial_bytes() const {
  const std::int64_t bytes_per_value = num_learners * kMaxSplit * kFloatBytes;
  const std::int64_t values = tokens * model_dim;
  return values <= kPartialLimit / bytes_per_value ? values * bytes_per_value : kPartialLimit;
}

bool Problem::splits(std::int64_t split) const {
  return split > 0 && tokens * model_dim <= partial_bytes() / (num_learners * split * kFloatBytes) &&
         tokens <= chunk_rows();
}

Routing routing(const Problem& problem) {
  for (const RoutingBlock& block : kRoutingBlocks) {
    if (block.choices >= problem.num_choices()) {
      return {block.tokens, block.choices, ceil_div(problem.tokens, block.tokens)};
    }
  }
  fail(problem.num_choices(), " choices; the routing kernels take up to ",
       std::end(kRoutingBlocks)[-1].choices);
}

Workspace workspace(const Problem& problem) {
  const std::array<std::int64_t, 6> sizes = {
      4 * (problem.num_learners + 1),
      4 * problem.tokens,
      4 * problem.num_choices(),
      4 * problem.num_choices() * routing(problem).num_blocks,
      problem.chunk_rows() * problem.hidden_row_bytes(),
      problem.partial_bytes(),
  };
  std::array<std::int64_t, 7> offsets{};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    offsets[i + 1] = offsets[i] + round_up(sizes[i], kAlignment);
  }
  return {offsets[0], offsets[1], offsets[2], offsets[3], offsets[4], offsets[5], offsets[6]};
}

bool aligned(const Problem& problem, std::initializer_list<const void*> pointers) {
  return problem.model_dim % 16 == 0 && problem.hidden_dim % 16 == 0 &&
         std::all_of(pointers.begin(), pointers.end(),
                     [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; });
}

std::int64_t up_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows) {
  return ceil_div(num_rows, entry.up.block_m) * problem.num_learners *
         ceil_div(problem.hidden_dim, entry.up.block_n);
}

std::int64_t down_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows) {
  return ceil_div(num_rows, entry.down.block_m) * ceil_div(problem.model_dim, entry.down.block_n);
}

Even even(const Problem& problem, const Entry& entry) {
  const std::int64_t d = problem.model_dim;
  const std::int64_t h = problem.hidden_dim;
  return {d % entry.up.block_k == 0 && h % entry.up.block_n == 0,
          h % entry.down.block_k == 0 && d % entry.down.block_n == 0};
}

}  // namespace acm

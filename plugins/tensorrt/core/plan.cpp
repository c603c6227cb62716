#include "core/plan.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"
#include "core/tiles.h"

namespace acm {
namespace {

constexpr std::int64_t kHiddenLimit = std::int64_t{192} << 20;
constexpr std::int64_t kPartialLimit = std::int64_t{32} << 20;
constexpr std::int64_t kRows = 128;
constexpr std::int64_t kRowMultiple = 16;
constexpr std::int64_t kMaxSplit = 4;
constexpr std::int64_t kLeastRows = 16;
constexpr std::int64_t kLeastColumns = 32;
constexpr std::int64_t kAlignment = 256;
constexpr std::int64_t kQuantizeRows = 8;
constexpr std::int64_t kQuantizeColumns = 256;
constexpr std::int64_t kFloatBytes = 4;

struct RoutingBlock {
  std::int64_t choices;
  std::int64_t tokens;
};

constexpr RoutingBlock kRoutingBlocks[] = {{8, 256}, {32, 128}, {128, 32}};
constexpr std::int64_t kMaxRoutingBlocks = 512;

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

// For numbers >= 0, as all sizes here are.
std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  if (a > kMax - b) {
    fail("the size ", a, " + ", b, " is larger than ", kMax);
  }
  return a + b;
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return checked_multiply(ceil_div(value, multiple), multiple);
}

}  // namespace

std::int64_t checked_multiply(std::int64_t a, std::int64_t b) {
  if (b > 0 && a > kMax / b) {
    fail("the size ", a, " * ", b, " is larger than ", kMax);
  }
  return a * b;
}

std::int64_t Problem::hidden_row_bytes() const {
  const std::int64_t padded = round_up(hidden_dim, kHiddenMultiple);
  return checked_multiply(checked_multiply(num_learners, padded), element_size);
}

std::int64_t Problem::quantized_row_bytes() const {
  return element_size == kInt8Bytes ? round_up(model_dim, kRowMultiple) : 0;
}

// The bytes of a row may overflow 64 bits. They are computed only if they cannot; else no row is within the
// limit.
std::int64_t Problem::chunk_rows() const {
  const std::int64_t most_hidden = kHiddenLimit / element_size / num_learners / kHiddenMultiple;
  const bool fit = ceil_div(hidden_dim, kHiddenMultiple) <= most_hidden &&
                   (element_size != kInt8Bytes || model_dim <= kHiddenLimit);
  const std::int64_t rows = fit ? kHiddenLimit / (hidden_row_bytes() + quantized_row_bytes()) : 0;
  return std::min(std::max(rows / kRows * kRows, kRows), round_up(tokens, kRows));
}

// The product may overflow 64 bits here and in `splits`, so the limit is divided by each factor instead.
std::int64_t Problem::partial_bytes() const {
  const std::int64_t tokens_within_limit = kPartialLimit / kMaxSplit / kFloatBytes / num_learners / model_dim;
  return tokens <= tokens_within_limit ? tokens * model_dim * num_learners * kFloatBytes * kMaxSplit
                                       : kPartialLimit;
}

std::int64_t Problem::arrivals() const {
  const std::int64_t most_tokens = std::min(tokens, kPartialLimit / kFloatBytes / model_dim);
  return std::max<std::int64_t>(
      checked_multiply(ceil_div(most_tokens, kLeastRows), ceil_div(model_dim, kLeastColumns)), 1);
}

bool Problem::splits(std::int64_t split) const {
  return split > 0 && tokens <= partial_bytes() / split / kFloatBytes / num_learners / model_dim &&
         tokens <= chunk_rows();
}

Routing routing(const Problem& problem) {
  for (const RoutingBlock& block : kRoutingBlocks) {
    if (block.choices >= problem.num_choices()) {
      // tokens is 0 when kernels are loaded before the number of tokens is known
      const std::int64_t num_pieces =
          std::max<std::int64_t>(ceil_div(problem.tokens, block.tokens * kMaxRoutingBlocks), 1);
      return {block.tokens, block.choices, num_pieces, ceil_div(problem.tokens, block.tokens * num_pieces)};
    }
  }
  fail(problem.num_choices(), " choices; the routing kernels support up to ",
       std::end(kRoutingBlocks)[-1].choices);
}

Workspace workspace(const Problem& problem) {
  const std::int64_t most_blocks =
      std::min(ceil_div(problem.tokens, routing(problem).block), kMaxRoutingBlocks);
  const std::int64_t chunk_rows = problem.chunk_rows();
  const std::array<std::int64_t, 7> sizes = {
      4 * (problem.num_learners + 1),                                                         // reach
      4 * problem.tokens,                                                                     // order
      4 * problem.num_choices() * most_blocks,                                                // histograms
      4 * problem.arrivals(),                                                                 // arrivals
      checked_multiply(std::min(problem.tokens, chunk_rows), problem.quantized_row_bytes()),  // q
      checked_multiply(chunk_rows, problem.hidden_row_bytes()),                               // hidden
      problem.partial_bytes(),                                                                // partial
  };
  std::array<std::int64_t, 8> offsets{};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    offsets[i + 1] = checked_add(offsets[i], round_up(sizes[i], kAlignment));
  }
  return {offsets[0], offsets[1], offsets[2], offsets[3], offsets[4], offsets[5], offsets[6], offsets[7]};
}

bool aligned(const Problem& problem, std::initializer_list<const void*> pointers) {
  return problem.model_dim % 16 == 0 && problem.hidden_dim % 16 == 0 &&
         std::all_of(pointers.begin(), pointers.end(),
                     [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; });
}

std::int64_t up_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows) {
  const Tile& tile = entry.up_for(problem);
  const std::int64_t blocks_of_rows =
      checked_multiply(ceil_div(num_rows, tile.block_m), problem.num_learners);
  return checked_multiply(blocks_of_rows, ceil_div(problem.hidden_dim, tile.block_n));
}

std::int64_t down_grid(const Problem& problem, const Entry& entry, std::int64_t num_rows) {
  return checked_multiply(ceil_div(num_rows, entry.down.block_m),
                          ceil_div(problem.model_dim, entry.down.block_n));
}

Grid quantize_grid(const Problem& problem, std::int64_t num_rows) {
  return {ceil_div(num_rows, kQuantizeRows), ceil_div(problem.model_dim, kQuantizeColumns)};
}

Even even(const Problem& problem, const Entry& entry) {
  const std::int64_t d = problem.model_dim;
  const std::int64_t h = problem.hidden_dim;
  const Tile& up = entry.up_for(problem);
  return {d % up.block_k == 0 && h % up.block_n == 0,
          h % entry.down.block_k == 0 && d % entry.down.block_n == 0};
}

}  // namespace acm

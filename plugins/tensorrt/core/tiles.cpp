#include "core/tiles.h"

#include <algorithm>

#include "core/error.h"
#include "core/pack.h"

namespace acm {
namespace {

// With this many values of x, the kernels in CUDA cannot index its 16-byte pieces with 32 bits.
constexpr std::int64_t kCudaValues = std::int64_t{1} << 35;

}  // namespace

bool Entry::is_for(std::int32_t arch, Precision wanted, bool tensor_maps) const {
  return precision == wanted && (tensor_maps || language == Language::kTriton) &&
         std::find(archs.begin(), archs.end(), arch) != archs.end();
}

bool Entry::fits(const Problem& problem) const {
  return problem.model_dim % alignment == 0 && problem.hidden_dim % alignment == 0 &&
         up_for(problem).block_m > 0;
}

bool Entry::can_run(const Problem& problem, bool is_aligned) const {
  const bool in_range =
      language == Language::kTriton || problem.tokens <= (kCudaValues - 1) / problem.model_dim;
  return (is_aligned || alignment == 1) && fits(problem) && in_range && (split == 0 || problem.splits(split));
}

std::int32_t select_entry(std::int32_t arch, Precision precision, const Problem& problem, bool is_aligned,
                          bool tensor_maps) {
  const Span<Entry> entries = pack().entries;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const bool in_limit = entry.max_tokens == 0 || problem.tokens <= entry.max_tokens;
    if (in_limit && entry.is_for(arch, precision, tensor_maps) && entry.can_run(problem, is_aligned)) {
      return static_cast<std::int32_t>(i);
    }
  }
  fail("no tile sizes for sm_", arch, "; the pack has kernels for ", architectures());
}

}  // namespace acm

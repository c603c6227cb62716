#include "core/tiles.h"

#include <algorithm>

#include "core/error.h"
#include "core/pack.h"

namespace acm {

bool Entry::is_for(std::int32_t arch, Precision wanted) const {
  return precision == wanted && std::find(archs.begin(), archs.end(), arch) != archs.end();
}

bool Entry::can_run(const Problem& problem, bool is_aligned) const {
  return (is_aligned || alignment == 1) && (split == 0 || problem.splits(split));
}

std::int32_t select_entry(std::int32_t arch, Precision precision, const Problem& problem, bool is_aligned) {
  const Span<Entry> entries = pack().entries;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const bool meant = entry.max_tokens == 0 || problem.tokens <= entry.max_tokens;
    if (meant && entry.is_for(arch, precision) && entry.can_run(problem, is_aligned)) {
      return static_cast<std::int32_t>(i);
    }
  }
  fail("no tile sizes for sm_", arch, "; the pack holds ", architectures());
}

}  // namespace acm

#include "core/pack.h"

#include <algorithm>
#include <set>

#include "core/error.h"

namespace acm {
namespace {

bool holds(std::int32_t arch) {
  const Span<Kernel> kernels = pack().kernels;
  return std::any_of(kernels.begin(), kernels.end(),
                     [arch](const Kernel& kernel) { return kernel.arch == arch; });
}

}  // namespace

std::string architectures() {
  std::set<std::int32_t> archs;
  for (const Kernel& kernel : pack().kernels) {
    archs.insert(kernel.arch);
  }
  std::string names;
  for (const std::int32_t arch : archs) {
    names += text(names.empty() ? "sm_" : ", sm_", arch);
  }
  return names;
}

std::int32_t architecture_for(std::int32_t major, std::int32_t minor, bool integrated) {
  const std::int32_t exact = 10 * major + minor;
  if (holds(exact)) {
    return exact;
  }
  if (major == 8 && !integrated && holds(80)) {
    return 80;
  }
  fail("no kernels for ", integrated ? "an integrated" : "a discrete", " GPU of architecture sm_", exact,
       "; the pack has ", architectures());
}

const Kernel& find_kernel(std::int32_t arch, KernelName name, KernelType type, std::int32_t entry, bool even,
                          std::int32_t activation) {
  for (const Kernel& kernel : pack().kernels) {
    if (kernel.arch == arch && kernel.name == name && kernel.type == type && kernel.entry == entry &&
        kernel.even == even && kernel.activation == activation) {
      return kernel;
    }
  }
  fail("the pack has no kernel ", static_cast<int>(name), " of type ", static_cast<int>(type), " for entry ",
       entry, " and activation ", activation, " on sm_", arch);
}

}  // namespace acm

// Values of kernel arguments by name, laid out for a launch in the order of the kernel.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "core/driver.h"
#include "core/modules.h"

namespace acm {

class Arguments {
 public:
  void set(Argument argument, const void* pointer) { std::memcpy(slot(argument), &pointer, sizeof pointer); }

  void set(Argument argument, std::int64_t number) {
    const auto narrow = static_cast<std::int32_t>(number);
    std::memcpy(slot(argument), &narrow, sizeof narrow);
  }

  void launch(const LoadedKernel& loaded, Grid grid, Stream stream);

 private:
  static constexpr std::size_t kCount = static_cast<std::size_t>(Argument::kCount);

  void* slot(Argument argument) { return &slots_[static_cast<std::size_t>(argument)]; }

  std::array<std::uint64_t, kCount> slots_{};
};

}  // namespace acm

// Kernel arguments by name; a launch passes them in the order of the kernel.
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

  void set(Argument argument, const EncodedTensorMap& map) { maps_[map_index(argument)] = map; }

  void launch(const LoadedKernel& loaded, Grid grid, Stream stream, Start start = Start::in_turn);

 private:
  static constexpr std::size_t kCount = static_cast<std::size_t>(Argument::kCount);

  static constexpr std::size_t kFirstMap = static_cast<std::size_t>(Argument::w1_map);

  static std::size_t map_index(Argument argument) { return static_cast<std::size_t>(argument) - kFirstMap; }

  void* slot(Argument argument) {
    const auto index = static_cast<std::size_t>(argument);
    return index < kFirstMap ? static_cast<void*>(&slots_[index]) : &maps_[index - kFirstMap];
  }

  std::array<std::uint64_t, kFirstMap> slots_{};
  std::array<EncodedTensorMap, kCount - kFirstMap> maps_{};
};

}  // namespace acm

// Kernels that were loaded into a CUDA context, each once per process.
#pragma once

#include <map>
#include <mutex>
#include <tuple>

#include "core/driver.h"
#include "core/pack.h"

namespace acm {

// A kernel and its handle in one context.
struct LoadedKernel {
  const Kernel* kernel = nullptr;
  Function function = nullptr;
};

class Modules {
 public:
  // Loads the kernel unless it is loaded already. The device must be current. Thread-safe.
  LoadedKernel load(const Device& device, const Kernel& kernel);

 private:
  using Key = std::tuple<Context, std::uint64_t, const Kernel*>;

  std::mutex mutex_;
  std::map<Key, Function> functions_;
};

Modules& modules();

}  // namespace acm

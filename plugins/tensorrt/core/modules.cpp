#include "core/modules.h"

namespace acm {

LoadedKernel Modules::load(const Device& device, const Kernel& kernel) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Key key{device.context, device.context_id, &kernel};
  const auto found = functions_.find(key);
  if (found != functions_.end()) {
    return {&kernel, found->second};
  }
  const Module module = driver().load_module(pack().cubins + kernel.offset);
  const Function function = driver().get_function(module, kernel.symbol, kernel.shared_bytes);
  functions_.emplace(key, function);
  return {&kernel, function};
}

// Never destroyed: at exit the driver may be unloaded before this library.
Modules& modules() {
  static Modules& instance = *new Modules;
  return instance;
}

}  // namespace acm

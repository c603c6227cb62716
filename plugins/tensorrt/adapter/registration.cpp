// Two ways to register the creators with TensorRT.
//
// 1. loadLibrary of a registry (Python, trtexec --dynamicPlugins, engines with embedded plugins)
//    calls getCreators, or getPluginCreators before TensorRT 10, and registers the result.
// 2. A plain dlopen (ONNX Runtime's TensorRT provider, trtexec --staticPlugins, ctypes) calls
//    nothing. The library registers itself while it is loaded, if the process has a TensorRT.
//
// loadLibrary also triggers 2, and rejects a creator that is registered already. So getCreators first
// deregisters them, which the registries of TensorRT 8.6, 10 and 11 allow.
#include "adapter/logging.h"
#include "adapter/runtime_library.h"
#include "core/error.h"

#define ACM_EXPORT extern "C" __attribute__((visibility("default")))

namespace acm {
namespace {

constexpr const char* kLibraryName = "GatedLearners";

// Printed once, although loadLibrary gets here twice.
void print_refusal(const RuntimeLibrary& library) {
  static bool printed = false;
  if (printed) {
    return;
  }
  printed = true;
  const std::string message = text(kLibraryName, ": this library was built for TensorRT ",
                                   version_of_headers(), " and cannot run in TensorRT ", library.version(),
                                   "; take the library for it: acm-export plugin-path, or compile it: "
                                   "acm-export build-plugin");
  print_error(message.c_str());
}

// Registers the creators on construction, when the library is loaded.
class SelfRegistration {
 public:
  SelfRegistration() noexcept {
    try {
      register_creators();
    } catch (const std::exception& error) {
      print_error(error.what());
    }
  }

  void take_back(const RuntimeLibrary& caller) {
    if (registry_ && registry_ == caller.registry()) {
      for (CreatorInterface* registered : registered_) {
        caller.deregister(*registered);
      }
      registered_.clear();
      registry_ = nullptr;
    }
  }

 private:
  void register_creators() {
    const RuntimeLibrary* refused = nullptr;
    const std::vector<RuntimeLibrary> libraries = RuntimeLibrary::loaded();
    for (const RuntimeLibrary& library : libraries) {
      if (library.is_of_another_major()) {
        refused = &library;
        continue;
      }
      registry_ = library.registry();
      for (const Operator op : kOperators) {
        if (registry_ && registry_->registerCreator(creator(op), kPluginNamespace)) {
          registered_.push_back(&creator(op));
        }
      }
      if (!registered_.empty()) {
        return;
      }
    }
    if (refused) {
      print_refusal(*refused);
    }
  }

  nvinfer1::IPluginRegistry* registry_ = nullptr;
  std::vector<CreatorInterface*> registered_;
};

SelfRegistration self_registration;

#if ACM_LOADS_LIBRARIES

nvinfer1::ILoggerFinder* logger_finder = nullptr;

// The creators for a registry; `return_address` is in the code of its library.
CreatorInterface* const* creators_for(const void* return_address, std::int32_t& count) noexcept {
  static CreatorInterface* const creators[] = {&creator(kOperators[0]), &creator(kOperators[1]),
                                               &creator(kOperators[2]), &creator(kOperators[3])};
  static_assert(std::size(creators) == std::size(kOperators));
  count = guarded(kOperators[0], "getCreators", 0, [&] {
    const RuntimeLibrary caller = RuntimeLibrary::containing(return_address);
    if (caller.is_of_another_major()) {
      print_refusal(caller);
      return 0;
    }
    self_registration.take_back(caller);
    return static_cast<int>(std::size(creators));
  });
  return creators;
}

#endif

}  // namespace
}  // namespace acm

// "10.3.0": identifies this library and its TensorRT without loading it into one.
ACM_EXPORT const char* acm_built_for_tensorrt() {
  static const std::string version = acm::version_of_headers();
  return version.c_str();
}

#if ACM_LOADS_LIBRARIES

#if ACM_PLUGIN_V3
ACM_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  return acm::creators_for(__builtin_return_address(0), count);
}
#else
ACM_EXPORT nvinfer1::IPluginCreator* const* getPluginCreators(std::int32_t& count) {
  return acm::creators_for(__builtin_return_address(0), count);
}
#endif

ACM_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  using acm::RuntimeLibrary;
  const bool usable =
      finder && !RuntimeLibrary::containing(__builtin_return_address(0)).is_of_another_major();
  acm::logger_finder = usable ? finder : nullptr;
  acm::set_logger_source(usable ? [] { return acm::logger_finder->findLogger(); }
                                : acm::LoggerSource{nullptr});
}

#endif

// A TensorRT that is loaded in this process, found through the dynamic linker, because this library links to
// none.
#pragma once

#include <string>
#include <vector>

#include "adapter/interface.h"

namespace acm {

class RuntimeLibrary {
 public:
  // All that are loaded; libnvinfer comes before the lean and dispatch runtimes.
  static std::vector<RuntimeLibrary> loaded();

  // The library that contains a code address, such as that of a caller.
  static RuntimeLibrary containing(const void* code_address);

  // As in "11.4.0", or empty if unknown.
  std::string version() const;

  // Whether its major version differs from that of the headers. Layouts of IPluginRegistry and ILogger differ
  // between major versions, also between 10 and 11, so nothing of such a library may be called.
  bool is_of_another_major() const;

  nvinfer1::IPluginRegistry* registry() const;

  // Deregisters a creator from registry(). Never call IPluginRegistry::deregisterCreator itself: see
  // kDeregisterIn860.
  bool deregister(const CreatorInterface& creator) const;

  nvinfer1::ILogger* logger() const;

 private:
  explicit RuntimeLibrary(const char* path);

  template <typename F>
  F find(const char* name) const;
  int number() const;

  void* handle_;
};

// The TensorRT version of the headers, as in "10.3.0".
std::string version_of_headers();

}  // namespace acm

// A TensorRT that is loaded in this process. This library links to none, so it asks the dynamic linker.
#pragma once

#include <string>
#include <vector>

#include "adapter/interface.h"

namespace acm {

class RuntimeLibrary {
 public:
  // All that are loaded; libnvinfer before the lean and dispatch runtimes.
  static std::vector<RuntimeLibrary> loaded();

  // The library that holds a code address, such as that of a caller.
  static RuntimeLibrary containing(const void* code_address);

  // "11.4.0", or empty where it does not say.
  std::string version() const;

  // Whether its version says another major than that of the headers. Layouts of IPluginRegistry and ILogger
  // differ between majors (10 and 11 among them), so nothing of such a library may be called.
  bool is_of_another_major() const;

  nvinfer1::IPluginRegistry* registry() const;
  nvinfer1::ILogger* logger() const;

 private:
  explicit RuntimeLibrary(const char* path);

  template <typename F>
  F find(const char* name) const;
  int number() const;

  void* handle_;
};

// "10.3.0": the TensorRT of the headers.
std::string version_of_headers();

}  // namespace acm

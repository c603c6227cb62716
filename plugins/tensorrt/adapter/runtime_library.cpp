#include "adapter/runtime_library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>

#include "core/error.h"

namespace acm {
namespace {

constexpr const char* kLibraries[] = {"libnvinfer.so", "libnvinfer_lean.so", "libnvinfer_dispatch.so"};

int collect_path(dl_phdr_info* info, std::size_t, void* paths) {
  static_cast<std::vector<std::string>*>(paths)->emplace_back(info->dlpi_name ? info->dlpi_name : "");
  return 0;
}

bool is_named(const std::string& path, const char* library) {
  const auto slash = path.rfind('/');
  const std::size_t start = slash == std::string::npos ? 0 : slash + 1;
  return path.compare(start, std::strlen(library), library) == 0;
}

#if !ACM_PLUGIN_V3
// Positions of deregisterCreator among the virtual functions of IPluginRegistry. TensorRT 8.6.0, the
// early-access release, has the functions of loadLibrary before it; 8.5, and 8.6 from 8.6.1 on, do not. So a
// call compiled with the headers of one would run another function of the other: in 8.6.0 the registry's
// destructor.
constexpr int kDeregister = 7, kDeregisterIn860 = 11, k860 = 8600;
#endif

// TensorRT encodes 10.3.0 as 100300, but 8.5.3 as 8503.
int major_of(int number) { return number >= 10000 ? number / 10000 : number / 1000; }

}  // namespace

// Never closed: a TensorRT that uses this library outlives it.
RuntimeLibrary::RuntimeLibrary(const char* path) : handle_(dlopen(path, RTLD_LAZY | RTLD_NOLOAD)) {}

std::vector<RuntimeLibrary> RuntimeLibrary::loaded() {
  std::vector<std::string> paths;
  dl_iterate_phdr(collect_path, &paths);
  std::vector<RuntimeLibrary> found;
  for (const char* library : kLibraries) {
    for (const std::string& path : paths) {
      if (is_named(path, library)) {
        found.push_back(RuntimeLibrary(path.c_str()));
      }
    }
  }
  return found;
}

RuntimeLibrary RuntimeLibrary::containing(const void* code_address) {
  Dl_info info{};
  dladdr(code_address, &info);
  return RuntimeLibrary(info.dli_fname);
}

std::string RuntimeLibrary::version() const {
  const int n = number();
  if (n == 0) {
    return "";
  }
  return n >= 10000 ? text(n / 10000, ".", n / 100 % 100, ".", n % 100)
                    : text(n / 1000, ".", n / 100 % 10, ".", n % 100);
}

bool RuntimeLibrary::is_of_another_major() const {
  return number() != 0 && major_of(number()) != NV_TENSORRT_MAJOR;
}

nvinfer1::IPluginRegistry* RuntimeLibrary::registry() const {
  const auto get = find<nvinfer1::IPluginRegistry* (*)()>("getPluginRegistry");
  return get ? get() : nullptr;
}

bool RuntimeLibrary::deregister(const CreatorInterface& creator) const {
  nvinfer1::IPluginRegistry* const found = registry();
  if (!found) {
    return false;
  }
#if ACM_PLUGIN_V3
  return found->deregisterCreator(creator);
#else
  using Deregister = bool (*)(nvinfer1::IPluginRegistry*, const CreatorInterface&);
  void* const* const functions = *reinterpret_cast<void* const* const*>(found);
  const int position = number() == k860 ? kDeregisterIn860 : kDeregister;
  return reinterpret_cast<Deregister>(functions[position])(found, creator);
#endif
}

nvinfer1::ILogger* RuntimeLibrary::logger() const {
  const auto get = find<nvinfer1::ILogger* (*)()>("getLogger");
  return get ? get() : nullptr;
}

template <typename F>
F RuntimeLibrary::find(const char* name) const {
  return handle_ ? reinterpret_cast<F>(dlsym(handle_, name)) : nullptr;
}

int RuntimeLibrary::number() const {
  const auto get = find<int (*)()>("getInferLibVersion");
  return get ? get() : 0;
}

std::string version_of_headers() {
  return text(NV_TENSORRT_MAJOR, ".", NV_TENSORRT_MINOR, ".", NV_TENSORRT_PATCH);
}

}  // namespace acm

// A double of TensorRT 8's library, compiled with the headers of one version: its registry has that version's
// layout. It records what is called. Loading follows what the real registry of 8.6.0 does: open the library,
// give it a logger finder, ask for its creators, and register them.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <string>
#include <vector>

namespace {

std::string calls;

class Registry final : public nvinfer1::IPluginRegistry {
 public:
  ~Registry() noexcept override { calls += "destructor "; }

  bool registerCreator(nvinfer1::IPluginCreator& creator, const char*) noexcept override {
    calls += std::string("register:") + creator.getPluginName() + " ";
    return true;
  }

  bool deregisterCreator(const nvinfer1::IPluginCreator& creator) noexcept override {
    calls += std::string("deregister:") + creator.getPluginName() + " ";
    return true;
  }

  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override {
    return unexpected("getPluginCreatorList");
  }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
    return unexpected("getPluginCreator");
  }
  bool isParentSearchEnabled() const override { return unexpected("isParentSearchEnabled") != nullptr; }
  void setParentSearchEnabled(bool) override { unexpected("setParentSearchEnabled"); }
  void* loadLibrary(const char*) noexcept override { return unexpected("loadLibrary"); }
  void deregisterLibrary(void*) noexcept override { unexpected("deregisterLibrary"); }
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override { unexpected("setErrorRecorder"); }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override {
    return unexpected("getErrorRecorder");
  }

 private:
  static std::nullptr_t unexpected(const char* name) {
    calls += std::string(name) + " ";
    return nullptr;
  }
};

Registry* registry = new Registry;  // never deleted: its destructor runs only if somebody calls it by mistake

}  // namespace

extern "C" {

std::int32_t getInferLibVersion() noexcept {
  return NV_TENSORRT_MAJOR * 1000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
}

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return registry; }

const char* fake_calls() { return calls.c_str(); }

bool fake_load_library(const char* path) {
  void* const library = dlopen(path, RTLD_LAZY);
  if (!library) {
    return false;
  }
  using Creators = nvinfer1::IPluginCreator* const* (*)(std::int32_t&);
  using SetFinder = void (*)(nvinfer1::ILoggerFinder*);
  const auto set_finder = reinterpret_cast<SetFinder>(dlsym(library, "setLoggerFinder"));
  const auto creators = reinterpret_cast<Creators>(dlsym(library, "getPluginCreators"));
  if (!set_finder || !creators) {
    return false;
  }
  set_finder(nullptr);
  std::int32_t count = 0;
  nvinfer1::IPluginCreator* const* const found = creators(count);
  for (std::int32_t i = 0; i < count; ++i) {
    registry->registerCreator(*found[i], "");
  }
  return true;
}
}

// The plugin creators, which TensorRT looks up by the name of the operator.
#include <string>

#include "adapter/fields.h"
#include "adapter/logging.h"
#include "adapter/plugin_v2.h"
#include "adapter/plugin_v3.h"
#include "adapter/serialized_signature.h"

namespace acm {
namespace {

#if ACM_PLUGIN_V3

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(Operator op) : op_(op) {}

  // The fields are the same in both phases.
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    return guarded(op_, "createPlugin", static_cast<nvinfer1::IPluginV3*>(nullptr),
                   [&]() -> nvinfer1::IPluginV3* { return new PluginV3(read_fields(op_, fields)); });
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &announced_fields(op_); }
  const char* getPluginName() const noexcept override { return name_of(op_); }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  Operator op_;
};

#else

class Creator final : public nvinfer1::IPluginCreator {
 public:
  explicit Creator(Operator op) : op_(op) {}

  nvinfer1::IPluginV2DynamicExt* createPlugin(
      const char*, const nvinfer1::PluginFieldCollection* fields) noexcept override {
    return create("createPlugin", [&] { return read_fields(op_, fields); });
  }

  nvinfer1::IPluginV2DynamicExt* deserializePlugin(const char*, const void* data,
                                                   std::size_t size) noexcept override {
    return create("deserializePlugin", [&] { return deserialize(op_, data, size); });
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &announced_fields(op_); }
  const char* getPluginName() const noexcept override { return name_of(op_); }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }

  void setPluginNamespace(const char* plugin_namespace) noexcept override {
    guarded_action(op_, "setPluginNamespace", [&] { namespace_ = plugin_namespace ? plugin_namespace : ""; });
  }

  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

 private:
  template <typename F>
  nvinfer1::IPluginV2DynamicExt* create(const char* where, F&& read_signature) noexcept {
    return guarded(op_, where, static_cast<nvinfer1::IPluginV2DynamicExt*>(nullptr),
                   [&]() -> nvinfer1::IPluginV2DynamicExt* {
                     auto* plugin = new PluginV2(read_signature());
                     plugin->setPluginNamespace(namespace_.c_str());
                     return plugin;
                   });
  }

  Operator op_;
  std::string namespace_ = kPluginNamespace;
};

#endif

}  // namespace

CreatorInterface& creator(Operator op) {
  static Creator creators[] = {Creator(kOperators[0]), Creator(kOperators[1]), Creator(kOperators[2]),
                               Creator(kOperators[3])};
  static_assert(std::size(creators) == std::size(kOperators));
  return creators[static_cast<std::size_t>(op)];
}

}  // namespace acm

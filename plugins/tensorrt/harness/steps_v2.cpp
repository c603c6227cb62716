// The steps with IPluginV2DynamicExt.
#include "harness/life_cycle.h"

#if !ACM_PLUGIN_V3

namespace acm::harness {
namespace {

using nvinfer1::IPluginV2DynamicExt;

struct Destroy {
  void operator()(IPluginV2DynamicExt* plugin) const { plugin->destroy(); }
};

class V2 final : public Plugin {
 public:
  V2(Operator op, IPluginV2DynamicExt* plugin) : Plugin(op), plugin_(plugin) {}

  bool supports(int pos, Descs& descs) override {
    return plugin_->supportsFormatCombination(pos, descs.data(), num_inputs(), kNumOutputs);
  }

  int output_types(const nvinfer1::DataType* inputs, nvinfer1::DataType* outputs) override {
    for (int i = 0; i < kNumOutputs; ++i) {
      outputs[i] = plugin_->getOutputDataType(i, inputs, num_inputs());
    }
    return 0;
  }

  int output_shapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs) override {
    ExprBuilder builder;
    for (int i = 0; i < kNumOutputs; ++i) {
      outputs[i] = plugin_->getOutputDimensions(i, inputs, num_inputs(), builder);
    }
    return outputs[0].nbDims < 0 ? -1 : 0;
  }

  int configure(const DynamicDescs& descs) override {
    plugin_->configurePlugin(descs.data(), num_inputs(), descs.data() + num_inputs(), kNumOutputs);
    return 0;
  }

  std::size_t workspace(const DynamicDescs& dynamic) override {
    Descs descs;
    for (const auto& each : dynamic) {
      descs.push_back(each.desc);
      descs.back().dims = each.max;
    }
    return plugin_->getWorkspaceSize(descs.data(), num_inputs(), descs.data() + num_inputs(), kNumOutputs);
  }

  std::vector<std::int32_t> tactics() override { return {}; }
  int set_tactic(std::int32_t) override { return -1; }
  const char* timing_id() override { return ""; }
  std::unique_ptr<Plugin> clone() override { return wrap(op(), plugin_->clone()); }

  // TensorRT clones the plugin for each context and initializes the first.
  std::unique_ptr<Plugin> attach() override {
    plugin_->initialize();
    return clone();
  }

  std::unique_ptr<Plugin> round_trip() override {
    std::vector<char> bytes(plugin_->getSerializationSize());
    plugin_->serialize(bytes.data());
    auto& v2 = static_cast<nvinfer1::IPluginCreator&>(creator(op()));
    return wrap(op(),
                static_cast<IPluginV2DynamicExt*>(v2.deserializePlugin("node", bytes.data(), bytes.size())));
  }

  // In the execution phase configurePlugin brings the shapes.
  int change_shapes(const Descs& descs) override {
    DynamicDescs dynamic;
    for (const auto& desc : descs) {
      dynamic.push_back({desc, desc.dims, desc.dims});
    }
    configure(dynamic);
    return plugin_->initialize();
  }

  int enqueue(const Descs& descs, const AcmPointers& p) override {
    return plugin_->enqueue(descs.data(), descs.data() + num_inputs(), p.inputs, p.outputs, p.workspace,
                            static_cast<cudaStream_t>(p.stream));
  }

  static std::unique_ptr<Plugin> wrap(Operator op, IPluginV2DynamicExt* plugin) {
    return plugin ? std::make_unique<V2>(op, plugin) : nullptr;
  }

 private:
  std::unique_ptr<IPluginV2DynamicExt, Destroy> plugin_;
};

}  // namespace

std::unique_ptr<Plugin> create(Operator op, const nvinfer1::PluginFieldCollection* fields, bool) {
  auto& v2 = static_cast<nvinfer1::IPluginCreator&>(creator(op));
  return V2::wrap(op, static_cast<IPluginV2DynamicExt*>(v2.createPlugin("node", fields)));
}

}  // namespace acm::harness

#endif

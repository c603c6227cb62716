// The steps with IPluginV3.
#include "harness/life_cycle.h"

#if ACM_PLUGIN_V3

namespace acm::harness {
namespace {

using nvinfer1::PluginCapabilityType;

nvinfer1::IPluginV3* make(Operator op, const nvinfer1::PluginFieldCollection* fields, bool runtime_phase) {
  auto& v3 = static_cast<nvinfer1::IPluginCreatorV3One&>(creator(op));
  return v3.createPlugin("node", fields,
                         runtime_phase ? nvinfer1::TensorRTPhase::kRUNTIME : nvinfer1::TensorRTPhase::kBUILD);
}

class V3 final : public Plugin {
 public:
  V3(Operator op, nvinfer1::IPluginV3* plugin) : Plugin(op), plugin_(plugin) {}

  bool supports(int pos, Descs& descs) override {
    DynamicDescs dynamic;
    for (const auto& desc : descs) {
      dynamic.push_back({desc, desc.dims, desc.dims, desc.dims});
    }
    return build().supportsFormatCombination(pos, dynamic.data(), num_inputs(), kNumOutputs);
  }

  int output_types(const nvinfer1::DataType* inputs, nvinfer1::DataType* outputs) override {
    return build().getOutputDataTypes(outputs, kNumOutputs, inputs, num_inputs());
  }

  int output_shapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs) override {
    ExprBuilder builder;
    return build().getOutputShapes(inputs, num_inputs(), nullptr, 0, outputs, kNumOutputs, builder);
  }

  int configure(const DynamicDescs& descs) override {
    return build().configurePlugin(descs.data(), num_inputs(), descs.data() + num_inputs(), kNumOutputs);
  }

  std::size_t workspace(const DynamicDescs& descs) override {
    return build().getWorkspaceSize(descs.data(), num_inputs(), descs.data() + num_inputs(), kNumOutputs);
  }

  std::vector<std::int32_t> tactics() override {
    std::vector<std::int32_t> tactics(static_cast<std::size_t>(build().getNbTactics()));
    build().getValidTactics(tactics.data(), static_cast<std::int32_t>(tactics.size()));
    return tactics;
  }

  int set_tactic(std::int32_t tactic) override { return runtime().setTactic(tactic); }
  const char* timing_id() override { return build().getTimingCacheID(); }
  std::unique_ptr<Plugin> clone() override { return wrap(op(), plugin_->clone()); }
  std::unique_ptr<Plugin> attach() override { return wrap(op(), runtime().attachToContext(nullptr)); }
  std::unique_ptr<Plugin> round_trip() override {
    return wrap(op(), make(op(), runtime().getFieldsToSerialize(), true));
  }

  int change_shapes(const Descs& descs) override {
    return runtime().onShapeChange(descs.data(), num_inputs(), descs.data() + num_inputs(), kNumOutputs);
  }

  int enqueue(const Descs& descs, const AcmPointers& p) override {
    return runtime().enqueue(descs.data(), descs.data() + num_inputs(), p.inputs, p.outputs, p.workspace,
                             static_cast<cudaStream_t>(p.stream));
  }

  static std::unique_ptr<Plugin> wrap(Operator op, nvinfer1::IPluginV3* plugin) {
    return plugin ? std::make_unique<V3>(op, plugin) : nullptr;
  }

 private:
  nvinfer1::IPluginV3OneBuild& build() {
    return *static_cast<nvinfer1::IPluginV3OneBuild*>(
        plugin_->getCapabilityInterface(PluginCapabilityType::kBUILD));
  }

  nvinfer1::IPluginV3OneRuntime& runtime() {
    return *static_cast<nvinfer1::IPluginV3OneRuntime*>(
        plugin_->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  }

  std::unique_ptr<nvinfer1::IPluginV3> plugin_;
};

}  // namespace

std::unique_ptr<Plugin> create(Operator op, const nvinfer1::PluginFieldCollection* fields,
                               bool runtime_phase) {
  return V3::wrap(op, make(op, fields, runtime_phase));
}

}  // namespace acm::harness

#endif

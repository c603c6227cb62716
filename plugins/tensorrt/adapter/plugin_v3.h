// The operator as an IPluginV3, for TensorRT 10 and 11.
#pragma once

#include "adapter/interface.h"

#if ACM_PLUGIN_V3

#include <string>
#include <vector>

#include "adapter/fields.h"
#include "core/layer.h"

namespace acm {

class PluginV3 final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit PluginV3(const Signature& signature);
  PluginV3(const PluginV3& other);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return name_of(op()); }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  std::int32_t getNbOutputs() const noexcept override { return kNumOutputs; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t num_outputs,
                                  const nvinfer1::DataType* inputs,
                                  std::int32_t num_inputs) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t num_inputs,
                               const nvinfer1::DimsExprs* shape_inputs, std::int32_t num_shape_inputs,
                               nvinfer1::DimsExprs* outputs, std::int32_t num_outputs,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t pos, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t num_inputs, std::int32_t num_outputs) noexcept override;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t num_outputs) noexcept override;
  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t num_outputs) const noexcept override;
  std::int32_t getNbTactics() noexcept override;
  std::int32_t getValidTactics(std::int32_t* tactics, std::int32_t num_tactics) noexcept override;
  const char* getTimingCacheID() noexcept override;

  std::int32_t setTactic(std::int32_t tactic) noexcept override;
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                             const nvinfer1::PluginTensorDesc* outputs,
                             std::int32_t num_outputs) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                       const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  Operator op() const { return layer_.signature().op; }

  Layer layer_;
  SignatureFields fields_;
  std::vector<std::int32_t> tactics_;
  std::string timing_id_;
};

}  // namespace acm

#endif

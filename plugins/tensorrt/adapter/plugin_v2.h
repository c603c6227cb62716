// The operator as an IPluginV2DynamicExt, for TensorRT 8.5 and 8.6.
#pragma once

#include "adapter/interface.h"

#if !ACM_PLUGIN_V3

#include <optional>
#include <string>

#include "core/layer.h"

namespace acm {

class PluginV2 final : public nvinfer1::IPluginV2DynamicExt {
 public:
  explicit PluginV2(const Signature& signature) : layer_(signature) {}

  nvinfer1::IPluginV2DynamicExt* clone() const noexcept override;
  void destroy() noexcept override { delete this; }

  const char* getPluginType() const noexcept override { return name_of(op()); }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  void setPluginNamespace(const char* plugin_namespace) noexcept override;
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  std::int32_t getNbOutputs() const noexcept override { return kNumOutputs; }
  nvinfer1::DataType getOutputDataType(std::int32_t index, const nvinfer1::DataType* inputs,
                                       std::int32_t num_inputs) const noexcept override;
  nvinfer1::DimsExprs getOutputDimensions(std::int32_t index, const nvinfer1::DimsExprs* inputs,
                                          std::int32_t num_inputs,
                                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t pos, const nvinfer1::PluginTensorDesc* tensors,
                                 std::int32_t num_inputs, std::int32_t num_outputs) noexcept override;
  void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                       const nvinfer1::DynamicPluginTensorDesc* outputs,
                       std::int32_t num_outputs) noexcept override;
  std::size_t getWorkspaceSize(const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                               const nvinfer1::PluginTensorDesc* outputs,
                               std::int32_t num_outputs) const noexcept override;

  std::int32_t initialize() noexcept override;
  void terminate() noexcept override {}
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                       const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  std::size_t getSerializationSize() const noexcept override;
  void serialize(void* buffer) const noexcept override;

 private:
  Operator op() const { return layer_.signature().op; }

  Layer layer_;
  std::string namespace_ = kPluginNamespace;
  std::optional<Tensors> configured_;
};

}  // namespace acm

#endif

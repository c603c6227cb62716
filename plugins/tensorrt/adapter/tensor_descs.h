// TensorRT's descriptions of tensors as the core's.
#pragma once

#include "adapter/interface.h"
#include "core/layer.h"

namespace acm {

Type type_of(nvinfer1::DataType type);

// Whether position `pos` of inputs and outputs may have its type and format, given those before it.
bool supports(std::int32_t pos, const nvinfer1::PluginTensorDesc& desc, nvinfer1::DataType type_of_x);

// All nine tensors. Throws where their number is another or one is not linear.
Tensors tensors_of(const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                   const nvinfer1::PluginTensorDesc* outputs, std::int32_t num_outputs);

// The same where only types of outputs are known: their shapes follow from that of x.
Tensors tensors_of_inputs(const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                          const nvinfer1::PluginTensorDesc* outputs, std::int32_t num_outputs);

// The shapes of an optimization profile, and those that are asked for now: they may have dimensions of -1
// while a network is built.
struct Range {
  Tensors current;
  Tensors smallest;
  Tensors largest;
};

Range range_of(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
               const nvinfer1::DynamicPluginTensorDesc* outputs, std::int32_t num_outputs);

// Whether no dimension is -1.
bool is_known(const Shape& shape);

Pointers pointers_of(const void* const* inputs, void* const* outputs, void* workspace);

// y as x; counts as x without its last dimension.
void set_output_shapes(const nvinfer1::DimsExprs* inputs, std::int32_t num_inputs, nvinfer1::DimsExprs* y,
                       nvinfer1::DimsExprs* counts);

}  // namespace acm

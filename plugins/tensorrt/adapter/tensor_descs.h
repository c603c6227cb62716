// TensorRT's descriptions of tensors as the core's.
#pragma once

#include "adapter/interface.h"
#include "core/layer.h"

namespace acm {

Type type_of(nvinfer1::DataType type);

// Whether position `pos` of inputs and outputs may have its type and format, given those before it.
bool supports(std::int32_t pos, const nvinfer1::PluginTensorDesc& desc, nvinfer1::DataType type_of_x);

// All nine tensors of a call that is about to run. Throws where their number is another or one is not linear.
Tensors tensors_of(const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                   const nvinfer1::PluginTensorDesc* outputs, std::int32_t num_outputs);

// The same before that: TensorRT then sets types and formats of outputs, but does not promise to set their
// dimensions. These are not read; shapes of outputs follow from that of x.
Tensors tensors_of_inputs(const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                          const nvinfer1::PluginTensorDesc* outputs, std::int32_t num_outputs);

// The same with the dimensions that are asked for now: -1 for those of a network that are not known yet.
Tensors current_of(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                   const nvinfer1::DynamicPluginTensorDesc* outputs, std::int32_t num_outputs);

// The same for the bounds of an optimization profile.
struct Range {
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

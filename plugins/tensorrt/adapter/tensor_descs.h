// Converts TensorRT's tensor descriptions to those of the core. Functions throw if the number of tensors is
// not that of the operator, or if one is not linear.
#pragma once

#include "adapter/interface.h"
#include "core/layer.h"

namespace acm {

Type type_of(nvinfer1::DataType type);

// Throws if the operator does not have this many tensors, or if a list of them is null.
void check_numbers(Operator op, const void* inputs, std::int32_t num_inputs, const void* outputs,
                   std::int32_t num_outputs);

// Throws if int8 inputs of an operator are not packed into int32. Without this check TensorRT would only
// report that it found no format.
void check_packed_types(Operator op, const nvinfer1::DataType* inputs);

// Whether the tensor at position `pos` of inputs and outputs may have its type and format, given the type of
// x.
bool supports(Operator op, std::int32_t pos, const nvinfer1::PluginTensorDesc& desc,
              nvinfer1::DataType type_of_x);

// All tensors of a call that is about to run.
Tensors tensors_of(Operator op, const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                   const nvinfer1::PluginTensorDesc* outputs, std::int32_t num_outputs);

// The same at build time: TensorRT then sets types and formats of outputs, but may not set their dimensions,
// so output shapes are derived from that of x.
Tensors tensors_of_inputs(Operator op, const nvinfer1::PluginTensorDesc* inputs, std::int32_t num_inputs,
                          const nvinfer1::PluginTensorDesc* outputs, std::int32_t num_outputs);

// The same with the current dimensions; -1 for dimensions of a network that are not known yet.
Tensors current_of(Operator op, const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                   const nvinfer1::DynamicPluginTensorDesc* outputs, std::int32_t num_outputs);

// The same for the bounds of an optimization profile.
struct Range {
  Tensors smallest;
  Tensors largest;
};

Range range_of(Operator op, const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
               const nvinfer1::DynamicPluginTensorDesc* outputs, std::int32_t num_outputs);

// Whether no dimension is -1.
bool is_known(const Shape& shape);

Pointers pointers_of(Operator op, const void* const* inputs, void* const* outputs, void* workspace);

// y has the shape of x; counts the shape of x without its last dimension.
void set_output_shapes(Operator op, const nvinfer1::DimsExprs* inputs, std::int32_t num_inputs,
                       nvinfer1::DimsExprs* y, nvinfer1::DimsExprs* counts);

}  // namespace acm

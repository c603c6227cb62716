#include "adapter/tensor_descs.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace acm {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

void check_numbers(const void* inputs, std::int32_t num_inputs, const void* outputs,
                   std::int32_t num_outputs) {
  if (num_inputs != kNumInputs || num_outputs != kNumOutputs) {
    fail(num_inputs, " inputs and ", num_outputs, " outputs, expected ", kNumInputs, " and ", kNumOutputs);
  }
  if (!inputs || !outputs) {
    fail("the tensor descriptions are null");
  }
}

Shape shape_of(const nvinfer1::Dims& dims) {
  if (dims.nbDims < 0 || dims.nbDims > kMaxRank) {
    fail("a tensor has rank ", dims.nbDims, ", expected 0 to ", kMaxRank);
  }
  Shape shape;
  shape.rank = dims.nbDims;
  std::copy_n(dims.d, dims.nbDims, shape.dims.begin());
  return shape;
}

Type linear_type(const PluginTensorDesc& desc, TensorIndex index) {
  if (desc.format != nvinfer1::TensorFormat::kLINEAR) {
    fail(name_of(index), " has format ", static_cast<int>(desc.format), ", expected 0 (linear)");
  }
  return type_of(desc.type);
}

void set_shapes_of_outputs(Tensors& tensors) {
  tensors[kY].shape = tensors[kX].shape;
  Shape leading = tensors[kX].shape;
  leading.rank = std::max(leading.rank - 1, 0);
  leading.dims[static_cast<std::size_t>(leading.rank)] = 0;
  tensors[kCounts].shape = leading;
}

// Types of all nine tensors, and shapes with the dimensions that `dims_of` picks from the description of an
// input.
template <typename F>
Tensors tensors_with(const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                     const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs, F&& dims_of) {
  check_numbers(inputs, num_inputs, outputs, num_outputs);
  std::array<PluginTensorDesc, kNumInputs> picked;
  for (std::size_t i = 0; i < picked.size(); ++i) {
    picked[i] = inputs[i].desc;
    picked[i].dims = dims_of(inputs[i]);
  }
  const std::array<PluginTensorDesc, kNumOutputs> typed = {outputs[0].desc, outputs[1].desc};
  return tensors_of_inputs(picked.data(), num_inputs, typed.data(), num_outputs);
}

}  // namespace

Type type_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return Type::float32;
    case DataType::kHALF:
      return Type::float16;
    case DataType::kINT32:
      return Type::int32;
#if NV_TENSORRT_MAJOR >= 10
    case DataType::kBF16:
      return Type::bfloat16;
#endif
    default:
      return Type::other;
  }
}

bool supports(std::int32_t pos, const PluginTensorDesc& desc, DataType type_of_x) {
  if (pos < 0 || pos >= kNumTensors || desc.format != nvinfer1::TensorFormat::kLINEAR) {
    return false;
  }
  const Type type = type_of(desc.type);
  return pos == kX ? is_element_type(type)
                   : type == expected_type(static_cast<TensorIndex>(pos), type_of(type_of_x));
}

Tensors tensors_of(const PluginTensorDesc* inputs, std::int32_t num_inputs, const PluginTensorDesc* outputs,
                   std::int32_t num_outputs) {
  Tensors tensors = tensors_of_inputs(inputs, num_inputs, outputs, num_outputs);
  tensors[kY].shape = shape_of(outputs[0].dims);
  tensors[kCounts].shape = shape_of(outputs[1].dims);
  return tensors;
}

Tensors tensors_of_inputs(const PluginTensorDesc* inputs, std::int32_t num_inputs,
                          const PluginTensorDesc* outputs, std::int32_t num_outputs) {
  check_numbers(inputs, num_inputs, outputs, num_outputs);
  Tensors tensors;
  for (int i = 0; i < kNumInputs; ++i) {
    tensors[i] = {linear_type(inputs[i], static_cast<TensorIndex>(i)), shape_of(inputs[i].dims)};
  }
  tensors[kY].type = linear_type(outputs[0], kY);
  tensors[kCounts].type = linear_type(outputs[1], kCounts);
  set_shapes_of_outputs(tensors);
  return tensors;
}

Tensors current_of(const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                   const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs) {
  return tensors_with(inputs, num_inputs, outputs, num_outputs,
                      [](const DynamicPluginTensorDesc& input) { return input.desc.dims; });
}

Range range_of(const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
               const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs) {
  return {tensors_with(inputs, num_inputs, outputs, num_outputs,
                       [](const DynamicPluginTensorDesc& input) { return input.min; }),
          tensors_with(inputs, num_inputs, outputs, num_outputs,
                       [](const DynamicPluginTensorDesc& input) { return input.max; })};
}

bool is_known(const Shape& shape) {
  return std::all_of(shape.dims.begin(), shape.dims.end(), [](std::int64_t dim) { return dim >= 0; });
}

Pointers pointers_of(const void* const* inputs, void* const* outputs, void* workspace) {
  if (!inputs || !outputs) {
    fail("the addresses of the ", inputs ? "outputs" : "inputs", " are null");
  }
  return {inputs[kX],  inputs[kGateLogits], inputs[kThresholds], inputs[kW1], inputs[kB1],
          inputs[kW2], inputs[kB2],         outputs[0],          outputs[1],  workspace};
}

void set_output_shapes(const DimsExprs* inputs, std::int32_t num_inputs, DimsExprs* y, DimsExprs* counts) {
  if (num_inputs != kNumInputs || !inputs) {
    fail(num_inputs, " inputs, expected ", kNumInputs);
  }
  if (inputs[kX].nbDims < 1 || inputs[kX].nbDims != inputs[kGateLogits].nbDims) {
    fail("x has rank ", inputs[kX].nbDims, " and gate_logits rank ", inputs[kGateLogits].nbDims,
         "; they must be equal and at least 1");
  }
  *y = inputs[kX];
  *counts = inputs[kX];
  --counts->nbDims;
}

}  // namespace acm

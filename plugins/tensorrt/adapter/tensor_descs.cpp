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

// Types of all tensors, and shapes with the dimensions that `dims_of` picks from the description of an
// input.
template <typename F>
Tensors tensors_with(Operator op, const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                     const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs, F&& dims_of) {
  check_numbers(op, inputs, num_inputs, outputs, num_outputs);
  std::array<PluginTensorDesc, kMostInputs> picked;
  for (std::size_t i = 0; i < static_cast<std::size_t>(num_inputs); ++i) {
    picked[i] = inputs[i].desc;
    picked[i].dims = dims_of(inputs[i]);
  }
  const std::array<PluginTensorDesc, kNumOutputs> typed = {outputs[0].desc, outputs[1].desc};
  return tensors_of_inputs(op, picked.data(), num_inputs, typed.data(), num_outputs);
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
    case DataType::kINT8:
      return Type::int8;
#if NV_TENSORRT_MAJOR >= 10
    case DataType::kBF16:
      return Type::bfloat16;
#endif
    default:
      return Type::other;
  }
}

void check_numbers(Operator op, const void* inputs, std::int32_t num_inputs, const void* outputs,
                   std::int32_t num_outputs) {
  if (num_inputs != acm::num_inputs(op) || num_outputs != kNumOutputs) {
    fail(num_inputs, " inputs and ", num_outputs, " outputs, expected ", acm::num_inputs(op), " and ",
         kNumOutputs);
  }
  if (!inputs || !outputs) {
    fail("the tensor descriptions are null");
  }
}

void check_packed_types(Operator op, const DataType* inputs) {
  const Type type_of_x = type_of(inputs[kX]);
  for (std::int32_t i = 0; i < num_inputs(op); ++i) {
    const TensorIndex tensor = tensor_at(op, i);
    if (expected_type(op, tensor, type_of_x) == Type::int32) {
      check_type(op, tensor, type_of(inputs[i]), type_of_x);
    }
  }
}

bool supports(Operator op, std::int32_t pos, const PluginTensorDesc& desc, DataType type_of_x) {
  if (desc.format != nvinfer1::TensorFormat::kLINEAR) {
    return false;
  }
  const Type type = type_of(desc.type);
  return pos == kX ? is_element_type(type)
                   : type == expected_type(op, tensor_at(op, pos), type_of(type_of_x));
}

Tensors tensors_of(Operator op, const PluginTensorDesc* inputs, std::int32_t num_inputs,
                   const PluginTensorDesc* outputs, std::int32_t num_outputs) {
  Tensors tensors = tensors_of_inputs(op, inputs, num_inputs, outputs, num_outputs);
  tensors[kY].shape = shape_of(outputs[0].dims);
  tensors[kCounts].shape = shape_of(outputs[1].dims);
  return tensors;
}

Tensors tensors_of_inputs(Operator op, const PluginTensorDesc* inputs, std::int32_t num_inputs,
                          const PluginTensorDesc* outputs, std::int32_t num_outputs) {
  check_numbers(op, inputs, num_inputs, outputs, num_outputs);
  Tensors tensors;
  for (std::int32_t i = 0; i < num_inputs; ++i) {
    const TensorIndex tensor = tensor_at(op, i);
    tensors[tensor] = {linear_type(inputs[i], tensor), shape_of(inputs[i].dims)};
  }
  tensors[kY].type = linear_type(outputs[0], kY);
  tensors[kCounts].type = linear_type(outputs[1], kCounts);
  set_shapes_of_outputs(tensors);
  return tensors;
}

Tensors current_of(Operator op, const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                   const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs) {
  return tensors_with(op, inputs, num_inputs, outputs, num_outputs,
                      [](const DynamicPluginTensorDesc& input) { return input.desc.dims; });
}

Range range_of(Operator op, const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
               const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs) {
  return {tensors_with(op, inputs, num_inputs, outputs, num_outputs,
                       [](const DynamicPluginTensorDesc& input) { return input.min; }),
          tensors_with(op, inputs, num_inputs, outputs, num_outputs,
                       [](const DynamicPluginTensorDesc& input) { return input.max; })};
}

bool is_known(const Shape& shape) {
  return std::all_of(shape.dims.begin(), shape.dims.end(), [](std::int64_t dim) { return dim >= 0; });
}

Pointers pointers_of(Operator op, const void* const* inputs, void* const* outputs, void* workspace) {
  if (!inputs || !outputs) {
    fail("the addresses of the ", inputs ? "outputs" : "inputs", " are null");
  }
  Pointers pointers;
  for (std::int32_t i = 0; i < num_inputs(op); ++i) {
    pointers.tensors[tensor_at(op, i)] = inputs[i];
  }
  pointers.tensors[kY] = outputs[0];
  pointers.tensors[kCounts] = outputs[1];
  pointers.workspace = workspace;
  return pointers;
}

void set_output_shapes(Operator op, const DimsExprs* inputs, std::int32_t num_inputs, DimsExprs* y,
                       DimsExprs* counts) {
  if (num_inputs != acm::num_inputs(op) || !inputs) {
    fail(num_inputs, " inputs, expected ", acm::num_inputs(op));
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

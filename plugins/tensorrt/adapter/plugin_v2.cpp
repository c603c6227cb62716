#include "adapter/plugin_v2.h"

#if !ACM_PLUGIN_V3

#include "adapter/logging.h"
#include "adapter/serialized_signature.h"
#include "adapter/tensor_descs.h"
#include "core/error.h"

namespace acm {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

}  // namespace

nvinfer1::IPluginV2DynamicExt* PluginV2::clone() const noexcept {
  return guarded(op(), "clone", static_cast<nvinfer1::IPluginV2DynamicExt*>(nullptr),
                 [&]() -> nvinfer1::IPluginV2DynamicExt* { return new PluginV2(*this); });
}

void PluginV2::setPluginNamespace(const char* plugin_namespace) noexcept {
  guarded_action(op(), "setPluginNamespace", [&] { namespace_ = plugin_namespace ? plugin_namespace : ""; });
}

// It cannot return an error. If TensorRT finds no format afterwards, the log has the reason.
DataType PluginV2::getOutputDataType(std::int32_t index, const DataType* inputs,
                                     std::int32_t num_inputs) const noexcept {
  if (index == 0 && inputs && num_inputs == acm::num_inputs(op())) {
    guarded_action(op(), "getOutputDataType", [&] { check_packed_types(op(), inputs); });
  }
  return index == 0 && inputs ? inputs[kX] : DataType::kINT32;
}

DimsExprs PluginV2::getOutputDimensions(std::int32_t index, const DimsExprs* inputs, std::int32_t num_inputs,
                                        nvinfer1::IExprBuilder&) noexcept {
  DimsExprs y{};
  DimsExprs counts{};
  const int failed = guarded_action(op(), "getOutputDimensions",
                                    [&] { set_output_shapes(op(), inputs, num_inputs, &y, &counts); });
  if (failed) {
    return {-1, {}};
  }
  return index == 0 ? y : counts;
}

bool PluginV2::supportsFormatCombination(std::int32_t pos, const PluginTensorDesc* tensors,
                                         std::int32_t num_inputs, std::int32_t num_outputs) noexcept {
  return num_inputs == acm::num_inputs(op()) && num_outputs == kNumOutputs && tensors && pos >= 0 &&
         pos < num_tensors(op()) && supports(op(), pos, tensors[pos], tensors[kX].type);
}

void PluginV2::configurePlugin(const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                               const DynamicPluginTensorDesc* outputs, std::int32_t num_outputs) noexcept {
  guarded_action(op(), "configurePlugin", [&] {
    const Tensors current = current_of(op(), inputs, num_inputs, outputs, num_outputs);
    const bool about_to_run = is_known(current[kX].shape);  // or the network has no dynamic shapes
    configured_ = about_to_run ? current : range_of(op(), inputs, num_inputs, outputs, num_outputs).largest;
    if (about_to_run) {
      layer_.prepare(*configured_);
    } else {
      layer_.plan_for(*configured_);
    }
  });
}

std::size_t PluginV2::getWorkspaceSize(const PluginTensorDesc* inputs, std::int32_t num_inputs,
                                       const PluginTensorDesc* outputs,
                                       std::int32_t num_outputs) const noexcept {
  return guarded(op(), "getWorkspaceSize", std::size_t{0}, [&] {
    return layer_.workspace_size(tensors_of_inputs(op(), inputs, num_inputs, outputs, num_outputs));
  });
}

// configurePlugin cannot return an error, so it is reported here.
std::int32_t PluginV2::initialize() noexcept {
  return guarded_action(op(), "initialize", [&] {
    if (configured_) {
      layer_.prepare(*configured_);
    }
  });
}

std::int32_t PluginV2::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                               const void* const* inputs, void* const* outputs, void* workspace,
                               cudaStream_t stream) noexcept {
  return guarded_action(op(), "enqueue", [&] {
    layer_.enqueue(tensors_of(op(), input_descs, num_inputs(op()), output_descs, kNumOutputs),
                   pointers_of(op(), inputs, outputs, workspace), stream);
  });
}

std::size_t PluginV2::getSerializationSize() const noexcept { return kSerializedSize; }

void PluginV2::serialize(void* buffer) const noexcept { acm::serialize(layer_.signature(), buffer); }

}  // namespace acm

#endif

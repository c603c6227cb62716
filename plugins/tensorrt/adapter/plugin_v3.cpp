#include "adapter/plugin_v3.h"

#if ACM_PLUGIN_V3

#include <algorithm>

#include "adapter/logging.h"
#include "adapter/tensor_descs.h"
#include "core/error.h"

namespace acm {
namespace {

using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

// Tactics are offered only for a fixed number of tokens. Otherwise TensorRT would keep one tactic, timed at
// one shape, for all; the table decides by the tokens of each call instead. Without a usable GPU there is
// nothing to time; the error is reported when kernels are loaded.
std::vector<std::int32_t> tactics_for(const Layer& layer, const Range& range) {
  if (range.smallest[kX].shape.dims != range.largest[kX].shape.dims) {
    return {};
  }
  try {
    const std::vector<std::int32_t> tactics = layer.tactics(range.largest);
    return tactics.size() > 1 ? tactics : std::vector<std::int32_t>{};
  } catch (const Error&) {
    return {};
  }
}

std::string timing_id(const Signature& signature) {
  return text(name_of(signature.op), " n", signature.num_learners, " min", signature.min_learners, " ",
              name_of(signature.activation), " tf32 ", signature.allow_tf32, " kernels ",
              pack().source_digest);
}

std::string timing_id(const Signature& signature, const Range& range) {
  const Tensor& x = range.largest[kX];
  return text(timing_id(signature), " ", name_of(x.type), " x ", text_of(range.smallest[kX].shape), "..",
              text_of(x.shape), " w1 ", text_of(range.largest[kW1].shape));
}

}  // namespace

PluginV3::PluginV3(const Signature& signature)
    : layer_(signature), fields_(signature), timing_id_(timing_id(signature)) {}

PluginV3::PluginV3(const PluginV3& other)
    : nvinfer1::IPluginV3(),
      nvinfer1::IPluginV3OneCore(),
      nvinfer1::IPluginV3OneBuild(),
      nvinfer1::IPluginV3OneRuntime(),
      layer_(other.layer_),
      fields_(other.layer_.signature()),
      tactics_(other.tactics_),
      timing_id_(other.timing_id_) {}

nvinfer1::IPluginCapability* PluginV3::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* PluginV3::clone() noexcept {
  return guarded(op(), "clone", static_cast<nvinfer1::IPluginV3*>(nullptr),
                 [&]() -> nvinfer1::IPluginV3* { return new PluginV3(*this); });
}

std::int32_t PluginV3::getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t num_outputs,
                                          const nvinfer1::DataType* inputs,
                                          std::int32_t num_inputs) const noexcept {
  return guarded_action(op(), "getOutputDataTypes", [&] {
    check_numbers(op(), inputs, num_inputs, outputs, num_outputs);
    check_packed_types(op(), inputs);
    outputs[0] = inputs[kX];
    outputs[1] = nvinfer1::DataType::kINT32;
  });
}

std::int32_t PluginV3::getOutputShapes(const DimsExprs* inputs, std::int32_t num_inputs, const DimsExprs*,
                                       std::int32_t, DimsExprs* outputs, std::int32_t num_outputs,
                                       nvinfer1::IExprBuilder&) noexcept {
  return guarded_action(op(), "getOutputShapes", [&] {
    if (num_outputs != kNumOutputs || !outputs) {
      fail(num_outputs, " outputs, expected ", kNumOutputs);
    }
    set_output_shapes(op(), inputs, num_inputs, &outputs[0], &outputs[1]);
  });
}

bool PluginV3::supportsFormatCombination(std::int32_t pos, const DynamicPluginTensorDesc* tensors,
                                         std::int32_t num_inputs, std::int32_t num_outputs) noexcept {
  return num_inputs == acm::num_inputs(op()) && num_outputs == kNumOutputs && tensors && pos >= 0 &&
         pos < num_tensors(op()) && supports(op(), pos, tensors[pos].desc, tensors[kX].desc.type);
}

std::int32_t PluginV3::configurePlugin(const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                                       const DynamicPluginTensorDesc* outputs,
                                       std::int32_t num_outputs) noexcept {
  return guarded_action(op(), "configurePlugin", [&] {
    const Range range = range_of(op(), inputs, num_inputs, outputs, num_outputs);
    layer_.plan_for(range.largest);
    timing_id_ = timing_id(layer_.signature(), range);
    tactics_ = tactics_for(layer_, range);
  });
}

std::size_t PluginV3::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, std::int32_t num_inputs,
                                       const DynamicPluginTensorDesc* outputs,
                                       std::int32_t num_outputs) const noexcept {
  return guarded(op(), "getWorkspaceSize", std::size_t{0}, [&] {
    return layer_.workspace_size(range_of(op(), inputs, num_inputs, outputs, num_outputs).largest);
  });
}

std::int32_t PluginV3::getNbTactics() noexcept { return static_cast<std::int32_t>(tactics_.size()); }

std::int32_t PluginV3::getValidTactics(std::int32_t* tactics, std::int32_t num_tactics) noexcept {
  return guarded_action(op(), "getValidTactics", [&] {
    if (num_tactics != getNbTactics() || (num_tactics > 0 && !tactics)) {
      fail(num_tactics, " tactics were requested, but there are ", getNbTactics());
    }
    std::copy(tactics_.begin(), tactics_.end(), tactics);
  });
}

// TensorRT adds shapes and formats of inputs and outputs; this is the range of tokens and the version of the
// kernels.
const char* PluginV3::getTimingCacheID() noexcept { return timing_id_.c_str(); }

std::int32_t PluginV3::setTactic(std::int32_t tactic) noexcept {
  return guarded_action(op(), "setTactic", [&] { layer_.set_tactic(tactic); });
}

std::int32_t PluginV3::onShapeChange(const PluginTensorDesc* inputs, std::int32_t num_inputs,
                                     const PluginTensorDesc* outputs, std::int32_t num_outputs) noexcept {
  return guarded_action(op(), "onShapeChange",
                        [&] { layer_.prepare(tensors_of(op(), inputs, num_inputs, outputs, num_outputs)); });
}

std::int32_t PluginV3::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                               const void* const* inputs, void* const* outputs, void* workspace,
                               cudaStream_t stream) noexcept {
  return guarded_action(op(), "enqueue", [&] {
    layer_.enqueue(tensors_of(op(), input_descs, num_inputs(op()), output_descs, kNumOutputs),
                   pointers_of(op(), inputs, outputs, workspace), stream);
  });
}

nvinfer1::IPluginV3* PluginV3::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* PluginV3::getFieldsToSerialize() noexcept {
  return &fields_.collection();
}

}  // namespace acm

#endif

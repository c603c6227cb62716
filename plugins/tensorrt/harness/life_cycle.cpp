// C interface to the plugin as TensorRT drives it, the same for IPluginV3 and IPluginV2DynamicExt.
//
// Tensors are the inputs and outputs of the plugin's operator in order.
//
//   int acm_tensorrt_version()                                10, 11 or 8
//   const char* acm_log(); void acm_clear_log()               what the plugin wrote to TensorRT's logger
//   void* acm_create(op, fields, count, runtime_phase)        or null; op: number of acm::Operator; AcmField
//                                                             below
//   void* acm_clone(plugin), acm_attach(plugin), acm_round_trip(plugin)
//   void acm_destroy(plugin)
//   int acm_supports(plugin, pos, tensors)                 1 or 0
//   int acm_output_types(plugin, inputs, out[2])           types as in AcmTensor
//   int acm_output_shapes(plugin, tensors)                 fills the shapes of both outputs
//   int acm_configure(plugin, current, smallest, largest)
//   int64 acm_workspace(plugin, current, smallest, largest)
//   int acm_tactics(plugin, out, capacity), acm_set_tactic(plugin, tactic)
//   const char* acm_timing_id(plugin)
//   int acm_shape_change(plugin, tensors), acm_enqueue(plugin, tensors, pointers)
//
//   int64 acm_run(op, fields, count, tensors, pointers, workspace_size, tactic, times)
//       The whole life of a plugin for one shape, on device addresses and a stream of the current CUDA
//       context: create, configure, workspace, serialize, create for the run time, attach, shapes, then
//       `times` calls of enqueue. Returns the bytes of workspace it needs; negative if a step fails
//       (acm_log has the reason). With workspace_size too small, or times = 0, nothing is queued. tactic 0
//       lets the table choose tile sizes.
#include "harness/life_cycle.h"

#include <algorithm>
#include <deque>
#include <string>

#include "adapter/logging.h"

struct AcmField {
  const char* name;
  const void* data;
  std::int32_t type;
  std::int32_t length;
};

namespace acm::harness {
namespace {

std::string log_text;

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity, const char* message) noexcept override { (log_text += message) += '\n'; }
};

nvinfer1::ILogger* harness_logger() {
  static Logger logger;
  return &logger;
}

constexpr nvinfer1::DataType kTypes[] = {nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kHALF,
#if ACM_PLUGIN_V3
                                         nvinfer1::DataType::kBF16,
#else
                                         nvinfer1::DataType::kBOOL,  // 8.x has no bfloat16
#endif
                                         nvinfer1::DataType::kINT32, nvinfer1::DataType::kINT8,
                                         nvinfer1::DataType::kUINT8};

static_assert(nvinfer1::Dims::MAX_DIMS == kMaxRank);

nvinfer1::PluginTensorDesc desc_of(const AcmTensor& tensor) {
  nvinfer1::PluginTensorDesc desc{};
  desc.type = kTypes[tensor.type];
  desc.format = tensor.format ? nvinfer1::TensorFormat::kCHW4 : nvinfer1::TensorFormat::kLINEAR;
  desc.dims.nbDims = tensor.rank;  // any number, where a test leaves dimensions unset
  std::copy(std::begin(tensor.dims), std::end(tensor.dims), desc.dims.d);
  return desc;
}

Operator operator_of(std::int32_t op) { return static_cast<Operator>(op); }

Descs descs_of(Operator op, const AcmTensor* tensors) {
  Descs descs;
  std::transform(tensors, tensors + num_tensors(op), std::back_inserter(descs), desc_of);
  return descs;
}

DynamicDescs dynamic_of(Operator op, const AcmTensor* current, const AcmTensor* smallest,
                        const AcmTensor* largest) {
  DynamicDescs descs(static_cast<std::size_t>(num_tensors(op)));
  for (std::size_t i = 0; i < descs.size(); ++i) {
    descs[i].desc = desc_of(current[i]);
    descs[i].min = desc_of(smallest[i]).dims;
    descs[i].max = desc_of(largest[i]).dims;
  }
  return descs;
}

std::unique_ptr<Plugin> create_from(Operator op, const AcmField* fields, std::int32_t count,
                                    bool runtime_phase) {
  set_logger_source(harness_logger);
  std::vector<nvinfer1::PluginField> converted;
  for (std::int32_t i = 0; i < count; ++i) {
    const auto type = static_cast<nvinfer1::PluginFieldType>(fields[i].type);
    converted.emplace_back(fields[i].name, fields[i].data, type, fields[i].length);
  }
  const nvinfer1::PluginFieldCollection collection{count, converted.data()};
  return create(op, &collection, runtime_phase);
}

Plugin& plugin_of(void* plugin) { return *static_cast<Plugin*>(plugin); }

// Expressions that stand for sizes known when a network is built.
class Size final : public nvinfer1::IDimensionExpr {
 public:
  explicit Size(std::int64_t value) : value_(value) { mImpl = &value_; }

 private:
  struct Value final : nvinfer1::apiv::VDimensionExpr {
    explicit Value(std::int64_t value) : value(value) {}
    bool isConstant() const override { return true; }
#if ACM_PLUGIN_V3
    std::int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
#else
    std::int32_t getConstantValue() const override { return static_cast<std::int32_t>(value); }
#endif
    std::int64_t value;
  };

  Value value_;
};

}  // namespace
}  // namespace acm::harness

using acm::harness::operator_of;
using acm::harness::plugin_of;

ACM_API int acm_tensorrt_version() { return NV_TENSORRT_MAJOR; }
ACM_API const char* acm_log() { return acm::harness::log_text.c_str(); }
ACM_API void acm_clear_log() { acm::harness::log_text.clear(); }

ACM_API void* acm_create(std::int32_t op, const AcmField* fields, std::int32_t count,
                         std::int32_t runtime_phase) {
  return acm::harness::create_from(operator_of(op), fields, count, runtime_phase != 0).release();
}

ACM_API void* acm_clone(void* plugin) { return plugin_of(plugin).clone().release(); }
ACM_API void* acm_attach(void* plugin) { return plugin_of(plugin).attach().release(); }
ACM_API void* acm_round_trip(void* plugin) { return plugin_of(plugin).round_trip().release(); }
ACM_API void acm_destroy(void* plugin) { delete &plugin_of(plugin); }

ACM_API int acm_supports(void* plugin, std::int32_t pos, const AcmTensor* tensors) {
  acm::harness::Descs descs = acm::harness::descs_of(plugin_of(plugin).op(), tensors);
  return plugin_of(plugin).supports(pos, descs);
}

ACM_API int acm_output_types(void* plugin, const AcmTensor* inputs, std::int32_t* out) {
  nvinfer1::DataType in[acm::kMostInputs];
  nvinfer1::DataType types[acm::kNumOutputs];
  std::transform(inputs, inputs + acm::num_inputs(plugin_of(plugin).op()), in,
                 [](const AcmTensor& t) { return acm::harness::kTypes[t.type]; });
  const int result = plugin_of(plugin).output_types(in, types);
  for (int i = 0; result == 0 && i < acm::kNumOutputs; ++i) {
    out[i] = static_cast<std::int32_t>(
        std::find(acm::harness::kTypes, std::end(acm::harness::kTypes), types[i]) - acm::harness::kTypes);
  }
  return result;
}

ACM_API int acm_output_shapes(void* plugin, AcmTensor* tensors) {
  std::deque<acm::harness::Size> sizes;
  const std::int32_t num_inputs = acm::num_inputs(plugin_of(plugin).op());
  nvinfer1::DimsExprs inputs[acm::kMostInputs];
  nvinfer1::DimsExprs outputs[acm::kNumOutputs];
  for (int i = 0; i < num_inputs; ++i) {
    inputs[i].nbDims = tensors[i].rank;
    for (int axis = 0; axis < tensors[i].rank; ++axis) {
      inputs[i].d[axis] = &sizes.emplace_back(tensors[i].dims[axis]);
    }
  }
  const int result = plugin_of(plugin).output_shapes(inputs, outputs);
  for (int i = 0; result == 0 && i < acm::kNumOutputs; ++i) {
    AcmTensor& tensor = tensors[num_inputs + i];
    tensor.rank = outputs[i].nbDims;
    std::transform(outputs[i].d, outputs[i].d + tensor.rank, tensor.dims,
                   [](const nvinfer1::IDimensionExpr* size) { return size->getConstantValue(); });
  }
  return result;
}

ACM_API int acm_configure(void* plugin, const AcmTensor* current, const AcmTensor* smallest,
                          const AcmTensor* largest) {
  return plugin_of(plugin).configure(
      acm::harness::dynamic_of(plugin_of(plugin).op(), current, smallest, largest));
}

ACM_API std::int64_t acm_workspace(void* plugin, const AcmTensor* current, const AcmTensor* smallest,
                                   const AcmTensor* largest) {
  return static_cast<std::int64_t>(plugin_of(plugin).workspace(
      acm::harness::dynamic_of(plugin_of(plugin).op(), current, smallest, largest)));
}

ACM_API int acm_tactics(void* plugin, std::int32_t* out, std::int32_t capacity) {
  const std::vector<std::int32_t> tactics = plugin_of(plugin).tactics();
  std::copy_n(tactics.begin(), std::min<std::size_t>(tactics.size(), static_cast<std::size_t>(capacity)),
              out);
  return static_cast<int>(tactics.size());
}

ACM_API int acm_set_tactic(void* plugin, std::int32_t tactic) { return plugin_of(plugin).set_tactic(tactic); }
ACM_API const char* acm_timing_id(void* plugin) { return plugin_of(plugin).timing_id(); }

ACM_API int acm_shape_change(void* plugin, const AcmTensor* tensors) {
  return plugin_of(plugin).change_shapes(acm::harness::descs_of(plugin_of(plugin).op(), tensors));
}

ACM_API int acm_enqueue(void* plugin, const AcmTensor* tensors, const AcmPointers* pointers) {
  return plugin_of(plugin).enqueue(acm::harness::descs_of(plugin_of(plugin).op(), tensors), *pointers);
}

ACM_API std::int64_t acm_run(std::int32_t op, const AcmField* fields, std::int32_t count,
                             const AcmTensor* tensors, const AcmPointers* pointers,
                             std::int64_t workspace_size, std::int32_t tactic, std::int32_t times) {
  const auto dynamic = acm::harness::dynamic_of(operator_of(op), tensors, tensors, tensors);
  const auto descs = acm::harness::descs_of(operator_of(op), tensors);
  const auto built = acm::harness::create_from(operator_of(op), fields, count, false);
  if (!built || built->configure(dynamic) != 0) {
    return -1;
  }
  const auto needed = static_cast<std::int64_t>(built->workspace(dynamic));
  if (workspace_size < needed || times == 0) {
    return needed;
  }
  const auto loaded = built->round_trip();
  const auto attached = loaded ? loaded->attach() : nullptr;
  if (!attached || (tactic != 0 && attached->set_tactic(tactic) != 0) ||
      attached->change_shapes(descs) != 0) {
    return -2;
  }
  for (std::int32_t i = 0; i < times; ++i) {
    if (attached->enqueue(descs, *pointers) != 0) {
      return -3;
    }
  }
  return needed;
}

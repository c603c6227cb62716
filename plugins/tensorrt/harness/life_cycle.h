// One plugin of either interface behind the same steps, so that one test drives both. Test only.
#pragma once

#include <memory>
#include <vector>

#include "adapter/interface.h"
#include "harness/api.h"

namespace acm::harness {

using Descs = std::vector<nvinfer1::PluginTensorDesc>;
using DynamicDescs = std::vector<nvinfer1::DynamicPluginTensorDesc>;

// The steps TensorRT takes; each ends as the plugin's own function does (0 is good).
class Plugin {
 public:
  virtual ~Plugin() = default;

  virtual bool supports(int pos, Descs& descs) = 0;
  virtual int output_types(const nvinfer1::DataType* inputs, nvinfer1::DataType* outputs) = 0;
  virtual int output_shapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs) = 0;
  virtual int configure(const DynamicDescs& descs) = 0;
  virtual std::size_t workspace(const DynamicDescs& descs) = 0;
  virtual std::vector<std::int32_t> tactics() = 0;
  virtual int set_tactic(std::int32_t tactic) = 0;
  virtual const char* timing_id() = 0;
  virtual std::unique_ptr<Plugin> clone() = 0;

  // As for a new execution context.
  virtual std::unique_ptr<Plugin> attach() = 0;

  // Through the bytes or fields of an engine; null where the creator refuses them.
  virtual std::unique_ptr<Plugin> round_trip() = 0;

  virtual int change_shapes(const Descs& descs) = 0;
  virtual int enqueue(const Descs& descs, const AcmPointers& pointers) = 0;
};

// Null where the creator refuses the fields.
std::unique_ptr<Plugin> create(const nvinfer1::PluginFieldCollection* fields, bool runtime_phase);

// Stands in for the expressions that TensorRT gives to getOutputShapes; only adapters that compute with them
// need it.
class ExprBuilder final : public nvinfer1::IExprBuilder {};

}  // namespace acm::harness

// One plugin of either interface behind the same steps, so that one test covers both. Test only.
#pragma once

#include <memory>
#include <vector>

#include "adapter/interface.h"
#include "harness/api.h"

namespace acm::harness {

using Descs = std::vector<nvinfer1::PluginTensorDesc>;
using DynamicDescs = std::vector<nvinfer1::DynamicPluginTensorDesc>;

// The steps that TensorRT takes; each returns what the plugin's function returns (0 is success).
class Plugin {
 public:
  explicit Plugin(Operator op) : op_(op) {}
  virtual ~Plugin() = default;

  Operator op() const { return op_; }

  virtual bool supports(int pos, Descs& descs) = 0;
  virtual int output_types(const nvinfer1::DataType* inputs, nvinfer1::DataType* outputs) = 0;
  virtual int output_shapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs) = 0;
  virtual int configure(const DynamicDescs& descs) = 0;
  virtual std::size_t workspace(const DynamicDescs& descs) = 0;
  virtual std::vector<std::int32_t> tactics() = 0;
  virtual int set_tactic(std::int32_t tactic) = 0;
  virtual const char* timing_id() = 0;
  virtual std::unique_ptr<Plugin> clone() = 0;

  // A copy for a new execution context.
  virtual std::unique_ptr<Plugin> attach() = 0;

  // A copy through the bytes or fields of an engine; null if the creator rejects them.
  virtual std::unique_ptr<Plugin> round_trip() = 0;

  virtual int change_shapes(const Descs& descs) = 0;
  virtual int enqueue(const Descs& descs, const AcmPointers& pointers) = 0;

 protected:
  std::int32_t num_inputs() const { return acm::num_inputs(op_); }

 private:
  Operator op_;
};

// Null if the creator rejects the fields.
std::unique_ptr<Plugin> create(Operator op, const nvinfer1::PluginFieldCollection* fields,
                               bool runtime_phase);

// Replaces the expression builder that TensorRT passes to getOutputShapes; needed only by adapters that
// compute with it.
class ExprBuilder final : public nvinfer1::IExprBuilder {};

}  // namespace acm::harness

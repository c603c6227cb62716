// Fields of the plugin: node attributes when a network is built, serialized values when an engine is loaded.
#pragma once

#include <array>
#include <cstdint>

#include "adapter/interface.h"
#include "core/signature.h"

namespace acm {

// Names and types of all fields of an operator, for its creator.
const nvinfer1::PluginFieldCollection& announced_fields(Operator op);

// Throws if a field is missing, unknown, of another type or out of range.
Signature read_fields(Operator op, const nvinfer1::PluginFieldCollection* fields);

// A signature as fields that read_fields can read. TensorRT reads from it, so it must live as long as the
// plugin.
class SignatureFields {
 public:
  explicit SignatureFields(const Signature& signature);
  SignatureFields(const SignatureFields&) = delete;
  SignatureFields& operator=(const SignatureFields&) = delete;

  const nvinfer1::PluginFieldCollection& collection() const { return collection_; }

 private:
  std::int32_t num_learners_;
  std::int32_t min_learners_;
  std::int32_t optional_;
  std::array<nvinfer1::PluginField, 4> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace acm

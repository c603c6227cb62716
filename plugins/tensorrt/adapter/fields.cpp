#include "adapter/fields.h"

#include <cstring>
#include <optional>
#include <string>

#include "core/error.h"

namespace acm {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr const char* kNumLearners = "num_learners";
constexpr const char* kMinLearners = "min_learners";
constexpr const char* kActivation = "activation";
constexpr const char* kAllowTf32 = "allow_tf32";  // of the operators in float
constexpr const char* kDynamic = "dynamic";       // of the int8 operators
constexpr const char* kIgnored[] = {"plugin_version",
                                    "plugin_namespace"};  // TensorRT reads these to find the creator

bool is_ignored(const char* name) {
  for (const char* ignored : kIgnored) {
    if (std::strcmp(name, ignored) == 0) {
      return true;
    }
  }
  return false;
}

void check_field(const PluginField& field, PluginFieldType type, const char* expected) {
  if (field.type != type) {
    fail("field ", field.name, " has type ", static_cast<int>(field.type), ", expected ",
         static_cast<int>(type), " (", expected, ")");
  }
  if (!field.data) {
    fail("field ", field.name, " has no data, expected ", expected);
  }
}

std::int32_t read_number(const PluginField& field) {
  check_field(field, PluginFieldType::kINT32, "one int32");
  if (field.length != 1) {
    fail("field ", field.name, " has ", field.length, " values, expected one int32");
  }
  std::int32_t value;
  std::memcpy(&value, field.data, sizeof value);
  return value;
}

// The length may include the NUL or not.
std::string read_text(const PluginField& field) {
  check_field(field, PluginFieldType::kCHAR, "characters");
  if (field.length < 0) {
    fail("field ", field.name, " has length ", field.length);
  }
  const auto* characters = static_cast<const char*>(field.data);
  return {characters, strnlen(characters, static_cast<std::size_t>(field.length))};
}

// The field that an operator has besides those of all.
const char* optional_field(Operator op) { return is_quantized(op) ? kDynamic : kAllowTf32; }

template <typename T>
T need(Operator op, const std::optional<T>& value, const char* name) {
  if (!value) {
    fail("field ", name, " is missing; the fields are num_learners, min_learners, activation and optionally ",
         optional_field(op));
  }
  return *value;
}

void check_not_dynamic(std::int32_t dynamic) {
  if (dynamic != 0) {
    fail("dynamic is ", dynamic,
         "; this plugin supports static scales only (dynamic = 0): quantize the model again with "
         "--activations static, or run this file in ONNX Runtime");
  }
}

}  // namespace

const PluginFieldCollection& announced_fields(Operator op) {
  using Fields = std::array<PluginField, 6>;
  const auto fields_of = [](bool quantized) {
    const char* optional = quantized ? kDynamic : kAllowTf32;
    return Fields{PluginField{kNumLearners, nullptr, PluginFieldType::kINT32, 1},
                  PluginField{kMinLearners, nullptr, PluginFieldType::kINT32, 1},
                  PluginField{kActivation, nullptr, PluginFieldType::kCHAR, 0},
                  PluginField{optional, nullptr, PluginFieldType::kINT32, 1},
                  PluginField{kIgnored[0], nullptr, PluginFieldType::kCHAR, 0},
                  PluginField{kIgnored[1], nullptr, PluginFieldType::kCHAR, 0}};
  };
  static const Fields plain = fields_of(false);
  static const Fields quantized = fields_of(true);
  static const PluginFieldCollection collections[] = {
      {static_cast<std::int32_t>(plain.size()), plain.data()},
      {static_cast<std::int32_t>(quantized.size()), quantized.data()}};
  return collections[is_quantized(op)];
}

Signature read_fields(Operator op, const PluginFieldCollection* fields) {
  if (!fields || (fields->nbFields > 0 && !fields->fields)) {
    fail("the field collection is null");
  }
  std::optional<std::int32_t> num_learners, min_learners, optional;
  std::optional<std::string> activation;
  for (std::int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    const std::string name = field.name ? field.name : "";
    if (name == kNumLearners) {
      num_learners = read_number(field);
    } else if (name == kMinLearners) {
      min_learners = read_number(field);
    } else if (name == optional_field(op)) {
      optional = read_number(field);
    } else if (name == kActivation) {
      activation = read_text(field);
    } else if (!is_ignored(name.c_str())) {
      fail("unknown field '", name, "'; the fields are num_learners, min_learners, activation and ",
           optional_field(op));
    }
  }
  const Signature signature{op, need(op, num_learners, kNumLearners), need(op, min_learners, kMinLearners),
                            activation_named(need(op, activation, kActivation)),
                            !is_quantized(op) && optional.value_or(0) != 0};
  check(signature);
  if (is_quantized(op)) {
    check_not_dynamic(optional.value_or(0));
  }
  return signature;
}

SignatureFields::SignatureFields(const Signature& signature)
    : num_learners_(signature.num_learners),
      min_learners_(signature.min_learners),
      optional_(signature.allow_tf32),  // for the int8 operators this is dynamic = 0
      collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()} {
  const char* activation = name_of(signature.activation);
  const auto length = static_cast<std::int32_t>(std::strlen(activation) + 1);
  fields_ = {PluginField{kNumLearners, &num_learners_, PluginFieldType::kINT32, 1},
             PluginField{kMinLearners, &min_learners_, PluginFieldType::kINT32, 1},
             PluginField{kActivation, activation, PluginFieldType::kCHAR, length},
             PluginField{optional_field(signature.op), &optional_, PluginFieldType::kINT32, 1}};
}

}  // namespace acm

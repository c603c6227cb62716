// The attributes of one node of either operator (docs/op.md).
#pragma once

#include <cstdint>
#include <string>

namespace acm {

constexpr std::int32_t kMaxLearners = 64;

enum class Operator { gated_learners, quantized_gated_learners };

// Numbered as in acm_export/op/signature.py; the kernels take the number.
enum class Activation : std::int32_t { gelu, gelu_tanh, relu, silu, identity };

struct Signature {
  Operator op;
  std::int32_t num_learners;
  std::int32_t min_learners;
  Activation activation;
  bool allow_tf32;  // of gated_learners alone

  std::int64_t num_choices() const { return num_learners - min_learners + 1; }
};

// Throws if an attribute is out of range.
void check(const Signature& signature);

// Throws if there is no activation of that name or number.
Activation activation_named(const std::string& name);
Activation activation_numbered(std::int32_t number);

const char* name_of(Operator op);
const char* name_of(Activation activation);

}  // namespace acm

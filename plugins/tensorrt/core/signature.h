// The operators, and the attributes of one node (docs/op.md).
#pragma once

#include <cstdint>
#include <string>

namespace acm {

constexpr std::int32_t kMaxLearners = 64;

// Those with `glu` are for gated FFNs: learners multiply their activations by a second product.
enum class Operator {
  gated_learners,
  quantized_gated_learners,
  glu_gated_learners,
  quantized_glu_gated_learners
};

constexpr Operator kOperators[] = {Operator::gated_learners, Operator::quantized_gated_learners,
                                   Operator::glu_gated_learners, Operator::quantized_glu_gated_learners};

constexpr bool is_quantized(Operator op) {
  return op == Operator::quantized_gated_learners || op == Operator::quantized_glu_gated_learners;
}

constexpr bool is_glu(Operator op) {
  return op == Operator::glu_gated_learners || op == Operator::quantized_glu_gated_learners;
}

// Numbered as in acm_export/op/signature.py; the kernels take the number.
enum class Activation : std::int32_t { gelu, gelu_tanh, relu, silu, identity };

struct Signature {
  Operator op;
  std::int32_t num_learners;
  std::int32_t min_learners;
  Activation activation;
  bool allow_tf32;  // of the operators in float alone

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

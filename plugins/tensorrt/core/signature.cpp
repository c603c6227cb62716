#include "core/signature.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"

namespace acm {
namespace {

constexpr const char* kOperatorNames[] = {"GatedLearners", "QuantizedGatedLearners", "GLUGatedLearners",
                                          "QuantizedGLUGatedLearners"};
static_assert(std::size(kOperatorNames) == std::size(kOperators));

constexpr const char* kActivations[] = {"gelu", "gelu_tanh", "relu", "silu", "identity"};

}  // namespace

void check(const Signature& signature) {
  if (signature.num_learners < 1 || signature.num_learners > kMaxLearners) {
    fail("num_learners is ", signature.num_learners, "; it must be in 1..", kMaxLearners);
  }
  if (signature.min_learners < 0 || signature.min_learners > signature.num_learners) {
    fail("min_learners is ", signature.min_learners, "; with num_learners = ", signature.num_learners,
         " it must be in 0..", signature.num_learners);
  }
}

Activation activation_named(const std::string& name) {
  const auto found = std::find(std::begin(kActivations), std::end(kActivations), name);
  if (found == std::end(kActivations)) {
    fail("activation is '", name, "'; it must be one of gelu, gelu_tanh, relu, silu, identity");
  }
  return static_cast<Activation>(found - std::begin(kActivations));
}

Activation activation_numbered(std::int32_t number) {
  const auto count = static_cast<std::int32_t>(std::size(kActivations));
  if (number < 0 || number >= count) {
    fail("activation has number ", number, "; it must be in 0..", count - 1);
  }
  return static_cast<Activation>(number);
}

const char* name_of(Operator op) { return kOperatorNames[static_cast<std::size_t>(op)]; }

const char* name_of(Activation activation) { return kActivations[static_cast<std::int32_t>(activation)]; }

}  // namespace acm
